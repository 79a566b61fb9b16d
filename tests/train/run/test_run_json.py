"""run.json: why it stopped, each start in its history, figures of all of them."""

import datetime
import json

import pytest

from gendr_jax import sharding
from gendr_jax.train.run import run_json as run_file_lib
from gendr_jax.train.run.run_json import PHASES, RunFile
from tests.helpers.linear_run import run_file, train


def record(folder):
    return RunFile(folder, {}, sharding.make_mesh("data=8"))


def test_starts_are_remembered(tmp_path):
    first = record(tmp_path)
    first.update(step=0)
    first.update(step=7)
    first.end("sigterm")
    second = record(tmp_path)
    second.update(resumed_from=6, step=9)  # and not a word more
    third = record(tmp_path)
    third.update()
    found = run_file(tmp_path)
    assert [s["stopped"] for s in found["starts"]] == ["sigterm", "killed", "running"]
    assert [(s["from"], s["to"]) for s in found["starts"][:2]] == [(0, 7), (6, 9)]
    assert found["stopped"] == "running"
    assert set(found["starts"][0]["seconds"]) == set(PHASES)
    third.end("done")
    assert run_file(tmp_path)["starts"][-1]["stopped"] == "done"


def test_time_away_is_counted(tmp_path):
    record(tmp_path).end("error", "why")
    path = tmp_path / run_file_lib.NAME
    content = json.loads(path.read_text())
    ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    path.write_text(json.dumps(content | {"heard": ago.isoformat()}))
    record(tmp_path).update()
    found = run_file(tmp_path)
    assert 3599 < found["starts"][1]["away"] < 3700
    assert found["goodput"]["away"] == found["starts"][1]["away"]


@pytest.mark.parametrize("text", ["", "{", '{"stopped": "running"}'])
def test_an_older_or_broken_file_is_no_obstacle(tmp_path, text):
    (tmp_path / run_file_lib.NAME).write_text(text)
    record(tmp_path).end("done")
    assert len(run_file(tmp_path)["starts"]) == 1


def test_figures_of_a_real_run(tmp_path):
    train(tmp_path, steps=4, checkpoint_every=2, samples_every=2)
    train(tmp_path, steps=6)
    found = run_file(tmp_path)
    first, second = found["starts"]
    assert (first["from"], first["to"]) == (0, 4)
    assert (second["from"], second["to"]) == (4, 6)
    for phase in ("start", "compile", "step", "save", "draw", "export"):
        assert first["seconds"][phase] > 0, phase
    total = found["goodput"]
    assert total["steps"] == 6 and total["redone_steps"] == 0
    assert 0 < total["goodput"] < 1
    both = first["seconds"]["step"] + second["seconds"]["step"]
    assert total["seconds"]["step"] == pytest.approx(both)
    assert found["compile_seconds"] > 0


def diverge(folder, **steered):
    start = record(folder)
    counted = start.nan_starts()
    start.update(step=7, **steered)
    start.end("nan", "no usable update")
    return counted


def test_starts_that_diverge_are_counted_until_one_is_steered(tmp_path):
    faster = {"changes": {"optim.lr": "1 -> 2"}}
    record(tmp_path).end("sigterm")
    # A launcher repeats the command; against the checkpoint the rate is new each time.
    assert [diverge(tmp_path, **faster) for _ in range(4)] == [0, 1, 2, 3]
    slower = {"changes": {"optim.lr": "1 -> 1.5"}}
    assert [diverge(tmp_path, **slower) for _ in range(2)] == [4, 1]
    assert [diverge(tmp_path, from_step=4), diverge(tmp_path)] == [2, 1]
    assert record(tmp_path).nan_starts() == 2
    record(tmp_path).end("done")
    assert record(tmp_path).nan_starts() == 0
