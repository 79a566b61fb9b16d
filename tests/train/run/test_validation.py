"""Held-out pictures: figures, their sheet, and the best weights of all starts."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import metrics, sharding
from gendr_jax.train.run.loop import run
from gendr_jax.train.run.validation import better
from tests.helpers.linear_run import Batches, lines, run_file, settings, stage

SIDE = 16


def truth(batch):
    x = jnp.tile(batch["x"].reshape(-1, 8, 8, 1), (1, 2, 2, 3))
    return 0.5 + 0.1 * x


def sample(state, frozen, batch, key):
    """Off by .01 times the distance from step 3: best there, worse before and after."""
    error = 0.01 * (1 + jnp.abs(state.step - 3))
    return {"zebra": truth(batch), "ant": truth(batch) + error}


def train(workdir, **changes):
    compared = stage(sample=sample, compared=("ant", "zebra"))
    values = {"validate_every": 1, "validate_count": 20, "samples": 2} | changes
    held_out = changes.pop("held_out", None) or Batches()
    values.pop("held_out", None)
    return run(
        compared,
        Batches(),
        settings(**values),
        mesh=sharding.make_mesh("data=8"),
        workdir=workdir,
        progress=False,
        held_out=held_out,
    )


def figures(workdir):
    return {x["step"]: x for x in lines(workdir) if "val_psnr" in x}


def test_the_figures_are_those_of_the_metrics(tmp_path):
    held_out = Batches()
    train(tmp_path, steps=1, held_out=held_out)
    assert held_out.opened == [0] and held_out.closed == 1
    rows = []
    reader = Batches()(0)
    for batch in (next(reader), next(reader)):  # 20 pictures are two batches of 16
        x = np.clip(truth(batch), 0, 1)
        y = np.clip(truth(batch) + 0.03, 0, 1)
        x, y = (np.round(np.asarray(v) * 255).astype(np.uint8) for v in (x, y))
        rows += [
            (metrics.psnr(b, a), metrics.ssim(b, a), np.abs(b / 255 - a / 255).mean())
            for a, b in zip(x, y, strict=True)
        ]
    got = figures(tmp_path)[1]
    want = np.mean(rows, axis=0)
    np.testing.assert_allclose(
        [got["val_psnr"], got["val_ssim"], got["val_l1"]], want, rtol=1e-3
    )
    assert (tmp_path / "samples" / "val_000001.png").exists()


def test_the_best_weights_stay_when_later_ones_are_worse(tmp_path):
    train(tmp_path, steps=6, checkpoint_every=1)
    psnr = {step: x["val_psnr"] for step, x in figures(tmp_path).items()}
    assert sorted(psnr) == [1, 2, 3, 4, 5, 6] and max(psnr, key=psnr.get) == 3
    assert run_file(tmp_path)["best"] == {"step": 3, "by": "psnr", "value": psnr[3]}
    best, last = (np.load(tmp_path / n / "w.npy") for n in ("weights_best", "weights"))
    train(tmp_path / "short", steps=3)
    np.testing.assert_array_equal(best, np.load(tmp_path / "short/weights/w.npy"))
    assert not np.array_equal(best, last)


def test_a_resumed_run_remembers_its_best(tmp_path):
    train(tmp_path, steps=4)
    kept = np.load(tmp_path / "weights_best" / "w.npy")
    train(tmp_path, steps=6)
    assert run_file(tmp_path)["best"]["step"] == 3
    np.testing.assert_array_equal(kept, np.load(tmp_path / "weights_best" / "w.npy"))


@pytest.mark.parametrize(
    ("name", "value", "best", "expected"),
    [
        ("psnr", 20.0, None, True),
        ("psnr", 20.1, 20.0, True),
        ("psnr", 19.9, 20.0, False),
        ("psnr", math.nan, None, False),
        ("ssim", 0.5, 0.6, False),
        ("l1", 0.1, 0.2, True),
        ("l1", 0.2, 0.1, False),
    ],
)
def test_more_is_better_but_for_errors(name, value, best, expected):
    assert better(name, value, best) is expected


def test_another_figure_starts_a_new_best(tmp_path):
    train(tmp_path, steps=4)
    train(tmp_path, steps=5, best="l1")
    assert run_file(tmp_path)["best"]["by"] == "l1"
    assert run_file(tmp_path)["best"]["step"] == 5


def test_without_photographs_there_is_no_validation(tmp_path):
    told = dataclasses.replace(settings(steps=2), validate_every=1)
    run(
        stage(),
        Batches(),
        told,
        mesh=sharding.make_mesh("data=8"),
        workdir=tmp_path,
        progress=False,
    )
    assert not figures(tmp_path) and not (tmp_path / "weights_best").exists()
