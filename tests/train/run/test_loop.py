"""The loop on a small linear model: resuming, stopping, damage, records."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gendr_jax.checkpoints import manager
from gendr_jax.errors import UsageError
from gendr_jax.train.run import loop
from gendr_jax.train.run.resume import changes
from tests.helpers.linear_run import (
    WIDTH,
    Batches,
    assert_same,
    init,
    lines,
    losses,
    run_file,
    settings,
    stage,
    step,
    train,
    waiting,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:.*was never awaited:RuntimeWarning",
)


def test_two_halves_are_one_whole_bit_by_bit(tmp_path):
    whole = train(tmp_path / "whole", steps=8)
    half = train(tmp_path / "halves", steps=4)
    assert (half.step, half.reason) == (4, "done")
    batches = Batches()
    rest = train(tmp_path / "halves", batches=batches, steps=8)
    assert batches.opened == [4] and batches.closed == 1
    assert_same(whole.state, rest.state)
    assert losses(tmp_path / "whole") == losses(tmp_path / "halves")
    a, b = (manager.describe(tmp_path / name) for name in ("whole", "halves"))
    assert a["step"] == b["step"] == 8
    assert a["fingerprint"] == b["fingerprint"]
    assert run_file(tmp_path / "halves")["resumed_from"] == 4
    # The steps differ from one another, or none of this shows anything.
    assert len(set(losses(tmp_path / "whole").values())) == 8


def test_resumes_on_another_mesh(tmp_path):
    whole = train(tmp_path / "whole", steps=6)
    train(tmp_path / "moved", steps=3)
    rest = train(tmp_path / "moved", "data=8", steps=6)
    np.testing.assert_allclose(
        whole.state.params["w"], rest.state.params["w"], rtol=1e-4, atol=1e-5
    )
    assert rest.state.params["w"].is_fully_replicated
    assert not whole.state.params["w"].is_fully_replicated


def test_what_a_done_run_leaves(tmp_path):
    result = train(
        tmp_path,
        steps=5,
        log_every=2,
        checkpoint_every=2,
        keep=2,
        config={"kind": "cid", "data": {"crop": 64}},
    )
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 5]
    for line in lines(tmp_path):
        assert set(line) == {
            "step",
            "loss",
            "skipped_student",
            "images_per_s",
            "data_wait",
            "goodput",
            "since_commit",
            "mean/loss",
            "seconds_per_step",
            "eta_seconds",
        }
        assert line["images_per_s"] > 0 and line["data_wait"] >= 0
        assert 0 < line["goodput"] < 1 and line["since_commit"] > 0
    steps = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert steps == ["4", "5"]
    record = run_file(tmp_path)
    assert record["stopped"] == "done" and record["step"] == 5
    assert record["mesh"] == {"data": 2, "fsdp": 4}
    assert record["devices"]["count"] == 8 and "jax" in record["versions"]
    assert record["config"] == {"kind": "cid", "data": {"crop": 64}}
    exported = np.load(tmp_path / "weights" / "w.npy")
    np.testing.assert_array_equal(exported, result.state.ema["w"])
    assert list((tmp_path / "tb").iterdir())
    assert manager.describe(tmp_path)["roles"].keys() == {"params", "opt", "ema"}


def test_a_done_run_has_nothing_to_do(tmp_path):
    first = train(tmp_path, steps=4)
    before = lines(tmp_path)
    (tmp_path / "weights" / "w.npy").unlink()
    (tmp_path / "weights").rmdir()
    batches = Batches()
    again = train(tmp_path, batches=batches, steps=4)
    assert again.reason == "done" and "nothing to do" in again.message
    assert batches.opened == [] and lines(tmp_path) == before
    assert_same(first.state, again.state)
    assert (tmp_path / "weights" / "w.npy").is_file()
    fewer = train(tmp_path, steps=2)
    assert (fewer.step, fewer.message) == (
        4,
        "nothing to do: step 4 of 2 was reached before",
    )


def test_sample_sheets(tmp_path):
    batches = Batches()
    train(tmp_path, batches=batches, steps=3, samples_every=2, samples=3)
    names = sorted(p.name for p in (tmp_path / "samples").iterdir())
    assert names == ["step_000002.png", "step_000003.png"]
    assert batches.opened == [0, 0] and batches.closed == 2
    sheet = np.asarray(Image.open(tmp_path / "samples" / names[0]))
    assert sheet.shape[0] == 2 * 14 + 3 * (8 + 2)
    # "ant" is the second column: jit must not sort them by name.
    grey = np.flatnonzero((sheet[28 + 1] == 128).all(axis=-1))
    assert len(grey) == 8 and grey[0] > sheet.shape[1] // 2


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGTERM, "sigterm"), (signal.SIGINT, "user")]
)
def test_a_signal_ends_the_run_saved(tmp_path, number, reason, monkeypatch):
    whole = train(tmp_path / "whole", steps=6)
    # While batch 3 is waited for, three steps are done.
    batches, kill = Batches(), lambda: os.kill(os.getpid(), number)
    monkeypatch.setattr(loop, "Feed", waiting({3: kill}))
    result = train(tmp_path / "cut", batches=batches, steps=6)
    assert (result.step, result.reason) == (4, reason)
    monkeypatch.undo()
    assert batches.closed == 1
    assert run_file(tmp_path / "cut")["stopped"] == reason
    assert manager.describe(tmp_path / "cut")["step"] == 4
    assert not (tmp_path / "cut" / "weights").exists()
    rest = train(tmp_path / "cut", steps=6)
    assert_same(whole.state, rest.state)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


def test_handlers_are_given_back(tmp_path):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    train(tmp_path, steps=1)
    assert before == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]


def test_a_signal_while_a_picture_is_drawn(tmp_path, monkeypatch):
    def interrupted(columns, caption):
        os.kill(os.getpid(), signal.SIGTERM)
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr("gendr_jax.train.run.sample_sheet.contact_sheet", interrupted)
    result = train(tmp_path, samples_every=2)
    assert (result.step, result.reason) == (2, "sigterm")
    assert manager.describe(tmp_path)["step"] == 2


def test_data_workers_that_end_with_us_are_no_error(tmp_path, monkeypatch):
    def broken():
        raise RuntimeError("worker died")

    kill = waiting({2: lambda: os.kill(os.getpid(), signal.SIGINT)})
    with monkeypatch.context() as patch:
        patch.setattr(loop, "Feed", kill)
        result = train(tmp_path, batches=Batches(at={2: broken}))
    assert (result.step, result.reason) == (2, "user")

    with pytest.raises(RuntimeError, match="worker died"):
        train(tmp_path / "other", batches=Batches(at={2: broken}))
    record = run_file(tmp_path / "other")
    assert record["stopped"] == "error" and "worker died" in record["message"]


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from gendr_jax.train.run import loop
from pathlib import Path
from tests.helpers import linear_run as t
kill = lambda: os.kill(os.getpid(), signal.Signals(int(sys.argv[3])))
twice = lambda: (kill(), kill())
loop.Feed = t.waiting({5: twice})
t.train(Path(sys.argv[2]), steps=9, checkpoint_every=2)
"""


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_killed_run_resumes(tmp_path, number):
    """kill -9, and a second SIGTERM: at once, and nothing on disk is lost."""
    here = Path(__file__).resolve().parents[3]
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, here, tmp_path / "cut", str(int(number))],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "8",
            "PYTHONPATH": str(here),
        },
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    wanted = -9 if number == signal.SIGKILL else 128 + 15
    assert ended.returncode == wanted, ended.stderr
    assert run_file(tmp_path / "cut")["stopped"] == "running"
    # Written beyond the checkpoint, and cut off in the middle of a line.
    with open(tmp_path / "cut" / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "loss": 99.0}\n{"step": 7, "lo')
    rest = train(tmp_path / "cut", steps=9)
    assert run_file(tmp_path / "cut")["resumed_from"] in (2, 4)
    assert list(losses(tmp_path / "cut")) == list(range(1, 10))
    assert len(lines(tmp_path / "cut")) == 9
    whole = train(tmp_path / "whole", steps=9)
    assert_same(whole.state, rest.state)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


def test_walks_back_over_a_damaged_checkpoint(tmp_path):
    whole = train(tmp_path / "whole", steps=6)
    train(tmp_path / "bad", steps=4, checkpoint_every=2)
    newest = tmp_path / "bad" / "checkpoints" / "4" / "state"
    files = [p for p in newest.rglob("d/*") if p.is_file()]
    max(files, key=lambda p: p.stat().st_size).write_bytes(b"")
    with pytest.warns(UserWarning, match="checkpoint 4 is damaged"):
        rest = train(tmp_path / "bad", steps=6, checkpoint_every=2)
    assert_same(whole.state, rest.state)
    assert list(losses(tmp_path / "bad")) == [1, 2, 3, 4, 5, 6]


def poisoned(*steps):
    def bad_step(state, frozen, batch, key):
        return step(state, frozen, batch, key, poison=steps)

    return stage(step=bad_step)


def test_single_bad_steps_are_skipped_and_counted(tmp_path):
    result = train(tmp_path, of=poisoned(2, 3, 5), max_bad_steps=3, log_every=3)
    assert result.reason == "done"
    found = {line["step"]: line for line in lines(tmp_path)}
    assert found[3]["skipped_student"] == 2 and found[3]["loss"] is None
    assert found[6]["skipped_student"] == 1 and found[6]["loss"] > 0
    assert np.isfinite(result.state.params["w"]).all()


def test_too_many_bad_steps_in_a_row_stop_the_run(tmp_path):
    good = train(tmp_path / "good", steps=2)
    result = train(
        tmp_path / "bad", of=poisoned(4, 5, 6), max_bad_steps=3, checkpoint_every=2
    )
    assert result.reason == "nan"
    assert "3 steps (4 to 6" in result.message and "loss" in result.message
    assert run_file(tmp_path / "bad")["stopped"] == "nan"
    # Nothing is saved from the first skipped update on.
    assert manager.describe(tmp_path / "bad")["step"] == 2
    again = train(tmp_path / "bad", steps=2)
    assert_same(good.state, again.state)


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    def explode(state, frozen, batch, key):
        new, metrics = step(state, frozen, batch, key)
        bad = jnp.where(new.step == 4, jnp.inf, 1.0)
        return dataclasses.replace(new, ema={"w": new.ema["w"] * bad}), metrics

    result = train(tmp_path, of=stage(step=explode), checkpoint_every=2)
    assert result.reason == "nan"
    assert "the state of step 4 is not finite: ema/w" in result.message
    assert manager.describe(tmp_path)["step"] == 2


def test_a_changed_configuration_is_refused_with_the_difference(tmp_path):
    config = {"kind": "cid", "seed": 0, "log": {"every": 5}, "optim": {"lr": 0.1}}
    train(tmp_path, steps=2, config={**config, "steps": 2})
    changed = {**config, "kind": "vsd", "optim": {"lr": 0.1, "b1": 0.5}}
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(UsageError) as caught:
        train(tmp_path, steps=4, config={**changed, "steps": 4})
    message = str(caught.value)
    assert "kind: 'cid' -> 'vsd'" in message
    assert "steps" not in message and "\n" not in message
    assert (tmp_path / "run.json").read_bytes() == before
    free = {**config, "steps": 4, "log": {"every": 1}, "mesh": "data=8"}
    assert train(tmp_path, steps=4, config=free).step == 4


def test_other_seeds_weights_and_shapes_are_refused(tmp_path):
    train(tmp_path, steps=2)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(UsageError, match="seed: 0 -> 5"):
        train(tmp_path, steps=4, seed=5)
    other = stage(frozen={"teacher": np.ones((WIDTH, WIDTH), np.float32)})
    with pytest.raises(UsageError, match="frozen weights: .*--accept-changes"):
        train(tmp_path, of=other, steps=4)

    def half(key, start):
        state = init(key, start)
        return dataclasses.replace(state, ema={"v": state.ema["w"]})

    with pytest.raises(UsageError, match="missing ema/v; unexpected ema/w"):
        train(tmp_path, of=stage(init=half), steps=4)
    assert (tmp_path / "run.json").read_bytes() == before
    assert train(tmp_path, steps=4).step == 4


def test_changes_sees_dataclasses_and_tuples_as_json_does():
    @dataclasses.dataclass(frozen=True)
    class Inner:
        widths: tuple[int, ...] = (1, 2)

    now = {"a": Inner(), "folder": Path("x")}
    assert changes({"a": {"widths": [1, 2]}, "folder": "x"}, now) == {}
    assert changes({"a": {"widths": [1]}}, now) == {
        "a.widths": "[1] -> [1, 2]",
        "folder": "'absent' -> 'x'",
    }


def test_a_batch_must_divide_over_the_devices(tmp_path):
    with pytest.raises(UsageError, match="a batch of 12 .x. does not divide over 8"):
        train(tmp_path, batches=Batches(size=12))


def test_data_that_ends_is_an_error(tmp_path):
    batches = Batches(end=3)
    with pytest.raises(UsageError, match="the data ended before the last step"):
        train(tmp_path, batches=batches)
    assert batches.closed == 1


@pytest.mark.parametrize("change", [{"steps": -1}, {"keep": 0}, {"max_bad_steps": 0}])
def test_settings_have_bounds(change):
    ((name, value),) = change.items()
    with pytest.raises(UsageError, match=f"{name} is {value}. Give"):
        settings(**change)


def test_the_step_of_a_fresh_run_starts_from_start(tmp_path):
    result = train(tmp_path, steps=1)
    mean = float(np.mean(np.asarray(result.state.params["w"])))
    assert math.isclose(mean, 0.5, abs_tol=0.1)
