"""Long work is left behind when this process is asked to stop; nothing else changes."""

import os
import signal
import threading

import pytest

from gendr_jax.checkpoints import manager
from gendr_jax.train.run import loop
from gendr_jax.train.run.signals import StopFlag, interruptible, work_left_behind
from tests.helpers.linear_run import losses, run_file, train


def test_work_that_ends_is_returned_and_errors_are_raised():
    def fail():
        raise OSError("no")

    with StopFlag() as stop:
        assert interruptible(lambda: 7, stop) == 7
        with pytest.raises(OSError, match="^no$"):
            interruptible(fail, stop)
    assert not work_left_behind()


@pytest.fixture
def endless(monkeypatch):
    """Compiling takes for ever, and SIGTERM comes meanwhile."""
    gate = threading.Event()

    def compile_and_stop(work, stop):
        def never():
            os.kill(os.getpid(), signal.SIGTERM)
            gate.wait(60)

        return interruptible(never, stop)

    monkeypatch.setattr(loop, "interruptible", compile_and_stop)
    yield
    gate.set()


def test_sigterm_while_a_fresh_run_compiles(tmp_path, endless):
    result = train(tmp_path)
    assert (result.step, result.reason) == (0, "sigterm")
    assert "nothing is saved" in result.message and work_left_behind()
    record = run_file(tmp_path)
    assert (record["stopped"], record["step"]) == ("sigterm", 0)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_sigterm_while_a_resumed_run_compiles(tmp_path, endless, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "interruptible", interruptible)
        whole = train(tmp_path / "whole", steps=4)
        train(tmp_path / "cut", steps=2)
    result = train(tmp_path / "cut", steps=4)
    assert (result.step, result.reason) == (2, "sigterm")
    assert manager.describe(tmp_path / "cut")["step"] == 2
    monkeypatch.undo()
    assert train(tmp_path / "cut", steps=4).step == whole.step
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
