"""tools/ladder.py on the smallest runs: tables, no repetition, failures by name."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gendr_jax import nets
from gendr_jax.errors import UsageError
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.weights import folder as weights
from tests.helpers.micro_run import prepare
from tests.helpers.tiny_stages import PARTS, random
from tools import ladder as tool

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}
REFERENCES = ("bicubic", "base", "autoencoder", "photograph")


def scores(**shift):
    """Two pictures, two seeds; `shift` is added to the figures of a row."""
    found = {"bicubic": {"photos psnr": [20.0, 22.0]}}
    for row, extra in shift.items():
        for seed in (0, 1):
            figures = [23.0 + extra + seed, 25.0 + extra + seed]
            found[f"{row}-seed{seed}"] = {"photos psnr": figures}
    return found


def test_rows_are_means_over_pictures_then_seeds():
    rows = tool.collect(scores(vsd=0.0, sid=0.5))
    assert rows["bicubic"] == {"photos psnr": {"": 21.0}}
    assert rows["sid"] == {"photos psnr": {"0": 24.5, "1": 25.5}}
    text = tool.table(rows)
    assert "| bicubic | 1 | 21.0000 |" in text
    assert "| vsd | 2 | 24.5000 ± 0.7071 |" in text


def test_steps_are_taken_seed_by_seed():
    given = scores(vsd=0.0, sid=0.5, cid=0.25, **{"cid-score.xi=1.0": 1.25})
    rows = tool.collect(given)
    del rows["cid"]["photos psnr"]["1"]  # a run that failed
    found = tool.differences(rows)
    assert found == {
        "sid - vsd": {"photos psnr": {"0": 0.5, "1": 0.5}},
        "cid - sid": {"photos psnr": {"0": -0.25}},
        "cid-score.xi=1.0 - cid": {"photos psnr": {"0": 1.0}},
    }
    signed = tool.table(found, signed=True)
    assert "| sid - vsd | 2 | +0.5000 ± 0.0000 |" in signed
    assert "| cid - sid | 1 | -0.2500 |" in signed


def test_the_regression_is_the_rung_below_vsd():
    rows = tool.collect(scores(vsd=0.5, paired=0.25))
    rows["vsd"]["training spread"] = {"0": 1.0, "1": 1.1}  # paired does not log it
    found = tool.differences(rows)
    assert found == {"vsd - paired": {"photos psnr": {"0": 0.25, "1": 0.25}}}


@pytest.mark.slow
def test_a_run_is_not_repeated_and_says_why_it_failed(tmp_path, monkeypatch):
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    # Stage vae compiles in seconds; the tool itself is tested below.
    args = [f"--config={prepare(tmp_path, steps=2)}"]
    problem = tool.train(tmp_path / "bad", [*args, "--config.stpes=3"])
    assert problem.startswith("exit status 2: ") and "no --config.stpes" in problem
    (tmp_path / "bad").rename(tmp_path / "good")  # it trained nothing, so it may
    assert tool.train(tmp_path / "good", args) == ""
    told = tool.logged(tmp_path / "good")
    assert told == {}  # nothing of z_g in this stage

    def refuse(*_, **__):
        raise AssertionError("a process was started")

    monkeypatch.setattr(tool.subprocess, "run", refuse)
    assert tool.train(tmp_path / "good", args) == ""
    other = tool.train(tmp_path / "good", [*args, "--config.steps=3"])
    assert "was trained with other settings" in other


def test_one_setting_is_changed_at_a_time():
    options = argparse.Namespace(
        vary=["score.xi=0.0,1.0", "score.rho=0.5"], seeds=[0, 1], kinds=["cid"]
    )
    runs = tool.planned(options)
    assert len(runs) == 8 and list(runs)[:2] == ["cid-seed0", "cid-score.xi=0.0-seed0"]
    assert runs["cid-score.rho=0.5-seed1"] == ["kind=cid", "seed=1", "score.rho=0.5"]


def ladder(folder, *args):
    """The tool on three photographs, in a process; (exit status, what it printed)."""
    command = [sys.executable, "tools/ladder.py", f"--config={folder / 'distill.py'}"]
    command += [f"--base={folder / 'base'}", f"--workdir={folder / 'runs'}"]
    command += ["--pairs", f"photos={folder / 'pairs'}", "--side=32", "--seeds", "5"]
    kept = {"JAX_COMPILATION_CACHE_DIR": str(folder / "programs")}
    kept |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    env = {**os.environ, **QUICK, **kept}
    ran = subprocess.run(
        [*command, *args], cwd=ROOT, env=env, capture_output=True, text=True
    )
    return ran.returncode, ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A configuration of stage distill, a base of random weights, pairs."""
    folder = tmp_path_factory.mktemp("ladder")
    score = {"kappa": 1.0, "sequential": False, "literal": False}
    init = {"vae": "", "unet": "", "random": True}
    prepare(folder, "distill", kind="vsd", steps=2, score=score, init=init)
    configs = {"unet": UNetConfig(**PARTS["unet"]), "vae": VAEConfig(**PARTS["vae"])}
    models = {"unet": UNet, "vae": VAE}
    drawn = {n: (c, random(nets.build(models[n], c), 1)) for n, c in configs.items()}
    prompt = np.ones((77, PARTS["unet"]["cross_attention_dim"]), np.float32)
    prompts = {"positive": prompt, "negative": -prompt}
    weights.save(folder / "base", kind="base", prompt=prompts, **drawn)
    rng = np.random.default_rng(0)
    for kind, side, ending in (("LR", 12, "_LR4"), ("HR", 48, "_HR")):
        (folder / "pairs" / kind).mkdir(parents=True)
        for k in range(3):
            pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "pairs" / kind / f"{k}{ending}.png")
    return folder


@pytest.mark.slow
def test_a_run_is_measured_once_and_a_failed_one_is_named(folder):
    # The literal target without a paired term is refused.
    args = ("--kinds", "vsd", "--vary", "score.literal=True")
    status, printed = ladder(folder, *args)
    assert status == 1 and "vsd-seed5: done" in printed, printed
    assert "vsd-score.literal=True-seed5: failed, exit status 2" in printed
    told = json.loads((folder / "runs" / "ladder.json").read_text())
    assert set(told["rows"]) == {*REFERENCES, "vsd"}
    assert list(told["failed"]) == ["vsd-score.literal=True-seed5"]
    figures = told["pictures"]["vsd-seed5"]["photos psnr"]
    assert len(figures) == 3 and 5 < min(figures) < 40
    assert told["pictures"]["photograph"]["photos psnr"] == [pytest.approx(80)] * 3

    run = (folder / "runs" / "vsd-seed5" / "run.json").read_text()
    status, printed = ladder(folder, "--kinds", "vsd")
    assert status == 0 and "failed" not in printed, printed
    assert (folder / "runs" / "vsd-seed5" / "run.json").read_text() == run
    again = json.loads((folder / "runs" / "ladder.json").read_text())
    assert again["pictures"] == told["pictures"] and again["failed"] == {}


def test_an_argument_that_is_no_override_is_refused(tmp_path):
    status, printed = ladder(tmp_path, "--stpes=3")
    assert status == 2 and "unknown --stpes=3" in printed


def test_files_are_the_same_each_time(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        tool.write(tmp_path / name, scores(vsd=0.0, sid=0.5), {"x": "it broke"})
    first, second = (
        {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "ab"
    )
    assert first == second and len(first) == 3
    assert "Failed: x, it broke" in first["ladder.md"].decode()
    told = json.loads(first["ladder.json"])
    assert told["failed"] == {"x": "it broke"}


def asked(tmp_path, workdir, *more):
    args = ["--config", str(tmp_path / "c.py"), "--base", str(tmp_path / "base")]
    args += ["--pairs", f"photos={tmp_path}/pairs", "--workdir", str(workdir), *more]
    return tool.parse(args)[0]


def test_nothing_that_is_read_is_written(tmp_path):
    """By real path: a workdir in the pictures, in the weights, or by a link to them."""
    for name in ("base", "pairs/LR", "pairs/HR", "runs"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "c.py").write_text("")
    (tmp_path / "link").symlink_to("pairs/HR")
    tool.check_apart(asked(tmp_path, tmp_path / "runs"))
    for where in ("base", "base/runs", "pairs/LR/runs", "link", "pairs"):
        with pytest.raises(UsageError, match="the input .*Give another --workdir"):
            tool.check_apart(asked(tmp_path, tmp_path / where))
    (tmp_path / "runs/ladder.json").symlink_to("../c.py")
    with pytest.raises(UsageError, match="is an input of this command"):
        tool.check_apart(asked(tmp_path, tmp_path / "runs"))
    (tmp_path / "l.json").write_text('{"rows": {}}')
    with pytest.raises(UsageError, match="l.json is an input"):
        tool.plot([str(tmp_path / "l.json"), "-o", str(tmp_path / "l.json")])
    assert (tmp_path / "l.json").read_text() == '{"rows": {}}'
