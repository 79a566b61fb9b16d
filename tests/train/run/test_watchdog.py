"""A hang is seen: stacks of all threads in the workdir, run.json, the exit status."""

import os
import subprocess
import sys
import threading
from pathlib import Path

from gendr_jax.errors import TRY_AGAIN
from gendr_jax.train.run import watchdog as watchdog_lib
from gendr_jax.train.run.watchdog import Watchdog
from gendr_jax.train.settings import Watchdog as Limits
from tools.micro_run import run_file

PATIENCE = 30.0


class Ended(Exception):
    pass


def watched(folder, monkeypatch, limits):
    """(watchdog, words said, event set by the end of the process)."""
    said, ended = [], threading.Event()

    def leave(status):
        said.append(status)
        ended.set()
        raise Ended  # the thread goes no further, as it would not in earnest

    monkeypatch.setattr(watchdog_lib.os, "_exit", leave)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    return Watchdog(folder, limits, said.append), said, ended


def test_a_hang_is_dumped_and_ends_the_process(tmp_path, monkeypatch, capfd):
    watchdog, said, ended = watched(tmp_path, monkeypatch, Limits(0.2, 0.2))
    with watchdog:
        watchdog.beat("step")
        assert ended.wait(PATIENCE)
    assert said[0].startswith("no progress for") and said[0].endswith("in 'step'")
    assert said[1] == TRY_AGAIN == 75
    text = (tmp_path / "stacks_0.txt").read_text()
    # What this thread was doing, and the watchdog's own.
    assert "test_a_hang_is_dumped_and_ends_the_process" in text and "_work" in text
    assert "no progress" in text


def test_without_ends_it_is_dumped_once_and_goes_on(tmp_path, monkeypatch):
    dumped = []
    limits = Limits(0.1, 0.1, ends=False)
    watchdog, said, ended = watched(tmp_path, monkeypatch, limits)
    monkeypatch.setattr(watchdog, "_dump", dumped.append)
    with watchdog:
        watchdog.beat("draw")
        assert not ended.wait(0.6)
        assert len(dumped) == 1
        watchdog.beat("draw")
        assert not ended.wait(0.6)
    assert len(dumped) == 2 and not said


def test_the_first_time_may_take_longer(tmp_path, monkeypatch):
    limits = Limits(0.1, 1000.0)
    watchdog, _, ended = watched(tmp_path, monkeypatch, limits)
    with watchdog:
        watchdog.beat("step")
        assert not ended.wait(0.5)
        watchdog.beat("step")
        assert ended.wait(PATIENCE)


def test_progress_keeps_it_quiet_and_zero_turns_it_off(tmp_path, monkeypatch):
    watchdog, _, ended = watched(tmp_path, monkeypatch, Limits(0.0, 0.0))
    with watchdog:
        watchdog.beat("step")
        assert not ended.wait(0.3)
    watchdog, _, ended = watched(tmp_path, monkeypatch, Limits(5.0, 5.0))
    with watchdog:
        watchdog.beat("step")
    assert not ended.is_set() and not list(tmp_path.iterdir())


HUNG = """
import sys, time, jax, numpy as np
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.helpers import linear_run as t
from gendr_jax.train.settings import Watchdog

def hang(state, frozen, batch, key):
    new, metrics = t.step(state, frozen, batch, key)
    shape = jax.ShapeDtypeStruct((), np.float32)
    def wait(n):
        while n == 3:
            time.sleep(1)
        return np.float32(0)
    metrics["late"] = jax.pure_callback(wait, shape, new.step)
    return new, metrics

limits = Watchdog(1.0, 60.0)
t.train(Path(sys.argv[2]), "data=1", of=t.stage(step=hang), steps=9,
        checkpoint_every=2, watchdog=limits)
"""


def test_a_step_that_never_ends(tmp_path):
    here = Path(__file__).resolve().parents[3]
    ended = subprocess.run(
        [sys.executable, "-c", HUNG, here, tmp_path],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(here)},
        cwd=here,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == TRY_AGAIN, ended.stderr
    record = run_file(tmp_path)
    assert record["stopped"] == record["starts"][-1]["stopped"] == "hang"
    assert "no progress" in record["message"]
    for text in (ended.stderr, (tmp_path / "stacks_0.txt").read_text()):
        assert "train/run/loop.py" in text and "in steps" in text
