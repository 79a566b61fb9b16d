"""The profiler's window: which steps, and that a trace is written."""

import jax
import pytest

from gendr_jax.errors import UsageError
from gendr_jax.train.run import profile
from gendr_jax.train.run_settings import window
from tests.helpers.linear_run import run_file, train


def test_windows():
    assert window("") is None
    assert window("100:110") == (100, 110)
    assert window("7:7") == (7, 7)


@pytest.mark.parametrize("text", ["100", "0:5", "9:3", "a:b", "1:2:3", "-1:4", "1.5:3"])
def test_others_are_refused(text):
    with pytest.raises(UsageError, match=r"names no steps. Write FIRST:LAST"):
        window(text)


def test_only_the_steps_of_the_window(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda f: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    profiler = profile.Profiler((3, 4), tmp_path)
    for step in range(1, 8):
        profiler.before(step, None)
        calls.append(step)
    profiler.close()
    assert calls == [1, 2, "start", 3, 4, "stop", 5, 6, 7]

    calls.clear()  # resumed inside the window, stopped inside it
    profiler = profile.Profiler((3, 9), tmp_path)
    for step in range(5, 7):
        profiler.before(step, None)
        calls.append(step)
    profiler.close()
    assert calls == ["start", 5, 6, "stop"]


def test_a_run_writes_a_trace(tmp_path):
    train(tmp_path, steps=4, profile="2:3")
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert run_file(tmp_path)["stopped"] == "done"
