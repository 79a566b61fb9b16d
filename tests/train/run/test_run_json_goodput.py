"""The clock of a run: every second has one phase; what several starts add up to."""

import pytest

from gendr_jax.train.run import run_json as goodput_lib
from gendr_jax.train.run.run_json import PHASES, Goodput, summed


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(goodput_lib.time, "perf_counter", made)
    return made


def test_every_second_belongs_to_one_phase(clock):
    told = []
    goodput = Goodput(90.0, told.append)
    goodput.enter("compile")  # 10 s of start until here
    clock.now += 5
    goodput.enter("step")
    clock.now += 20
    with goodput.phase("save"):
        clock.now += 3
    clock.now += 2  # a step again
    found = goodput.seconds()
    assert found == dict.fromkeys(PHASES, 0.0) | {
        "start": 10.0,
        "compile": 5.0,
        "step": 22.0,
        "save": 3.0,
    }
    assert sum(found.values()) == clock.now - 90.0
    assert goodput.fraction() == 22 / 40
    assert told == ["compile", "step", "save", "step"]


def test_a_phase_ends_with_an_error(clock):
    goodput = Goodput()
    with pytest.raises(OSError), goodput.phase("draw"):
        clock.now += 1
        raise OSError
    clock.now += 1
    assert goodput.seconds()["draw"] == goodput.seconds()["start"] == 1.0


def start(first, last, step, away=0.0, **seconds):
    return {
        "from": first,
        "to": last,
        "away": away,
        "seconds": {"step": step, **seconds},
    }


def test_steps_beyond_the_checkpoint_are_no_good():
    """10 steps, killed; from 6 on again to 20: 4 of the first 10 were for nothing."""
    found = summed([start(0, 10, 100.0, start=10.0), start(6, 20, 140.0, away=50.0)])
    assert found["steps"] == 24 and found["redone_steps"] == 4
    assert found["away"] == 50.0
    assert found["seconds"]["step"] == 240.0 and found["seconds"]["start"] == 10.0
    assert found["goodput"] == round((60.0 + 140.0) / 300.0, 4)


def test_a_start_that_never_stepped_costs_its_time():
    starts = [
        start(0, 4, 40.0),
        start(None, None, 0.0, compile=60.0),
        start(4, 8, 40.0),
    ]
    found = summed(starts)
    # The second one had not read the checkpoint yet: what it began with is not known.
    assert found["steps"] == 8 and found["seconds"]["compile"] == 60.0
    assert summed([])["goodput"] == 0.0
