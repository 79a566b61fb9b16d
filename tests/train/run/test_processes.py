"""Two real processes of one run over gloo: train, save, resume, be stopped, die.

Slow: each case starts `gendr train` several times. What two processes and one have in
common is compared in full by the fingerprint, where the mesh is the same.
"""

import json
import os
import signal
import socket
import time

import numpy as np
import pytest

from gendr_jax.checkpoints import manager
from tests.helpers.micro_run import prepare
from tools.micro_run import finish, losses, run_file, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
MESH = "mesh=data=2,fsdp=2"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def pair(config, workdir, *overrides, before=("", "")):
    """Two processes with two devices each."""
    port = free_port()
    return [
        start(
            config,
            workdir,
            MESH,
            *overrides,
            devices=2,
            process=(index, 2, port),
            before=before[index],
        )
        for index in range(2)
    ]


def well(ended, status=0):
    """Both have ended with `status`."""
    assert [code for code, _ in ended] == [status] * 2, "\n".join(t for _, t in ended)


def until(condition, *runs, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert all(run.poll() is None for run in runs), finish(*runs)
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(configuration, workdir of eight steps that two processes did at once)."""
    folder = tmp_path_factory.mktemp("whole")
    config = prepare(folder)
    well(finish(*pair(config, folder / "w", "steps=8")))
    return config, folder / "w"


def test_two_then_one_then_two_processes(whole, tmp_path):
    config, reference = whole
    well(finish(*pair(config, tmp_path / "w", "steps=3")))
    one = finish(start(config, tmp_path / "w", MESH, "steps=5", devices=4))
    assert one[0][0] == 0, one[0][1]
    well(finish(*pair(config, tmp_path / "w", "steps=8")))
    starts = run_file(tmp_path / "w")["starts"]
    assert [(s["from"], s["to"]) for s in starts] == [(0, 3), (3, 5), (5, 8)]
    assert run_file(tmp_path / "w")["devices"]["processes"] == 2
    # The same samples on the same mesh: gloo adds in the order of one process here.
    found, wanted = losses(tmp_path / "w"), losses(reference)
    assert found.keys() == wanted.keys()
    np.testing.assert_allclose([*found.values()], [*wanted.values()], rtol=1e-5)
    clock = {s["data_index"] for s in map(_clock, (tmp_path / "w", reference))}
    assert clock == {8}
    assert (tmp_path / "w" / "weights" / "gendr.json").is_file()


def test_two_halves_of_two_processes_are_one_whole(whole, tmp_path):
    config, reference = whole
    well(finish(*pair(config, tmp_path / "w", "steps=4")))
    well(finish(*pair(config, tmp_path / "w", "steps=8")))
    a, b = (manager.describe(w) for w in (tmp_path / "w", reference))
    assert a["fingerprint"] == b["fingerprint"]
    assert losses(tmp_path / "w") == losses(reference)


def _clock(workdir):
    step = manager.describe(workdir)["step"]
    path = workdir / manager.FOLDER / str(step) / "_CHECKPOINT_METADATA"
    return json.loads(path.read_text())["custom_metadata"]["clock"]


SLOW_COMPILE = """
import time
import gendr_jax.train.run.loop as loop
kept = loop.interruptible
def slow(work, stop):
    print("COMPILING", flush=True)
    time.sleep(4)
    return kept(work, stop)
loop.interruptible = slow
"""
SLOW_SHEET = """
import time
import gendr_jax.train.run.sample_sheet as draw
kept = draw.contact_sheet
def slow(*args, **kwargs):
    print("DRAWING", flush=True)
    time.sleep(4)
    return kept(*args, **kwargs)
draw.contact_sheet = slow
"""


@pytest.mark.parametrize(("rank", "where"), [(1, "step"), (0, "draw"), (1, "compile")])
def test_sigterm_to_one_of_two(tmp_path, rank, where):
    """Both save the same step, once, and end well."""
    before = {"step": "", "draw": SLOW_SHEET, "compile": SLOW_COMPILE}[where]
    word = {"step": "step 3 ", "draw": "DRAWING", "compile": "COMPILING"}[where]
    config, workdir = prepare(tmp_path), tmp_path / "w"
    overrides = ["steps=100000", "checkpoint.every=1000"]
    overrides += ["log.samples_every=2"] if where == "draw" else []
    runs = pair(config, workdir, *overrides, before=(before, before))
    line = ""
    while word not in line:  # the first process says what it does
        line = runs[0].stdout.readline()
        assert line, finish(*runs)
    os.kill(runs[rank].pid, signal.SIGTERM)
    well(finish(*runs), status=75)  # stopped: start again
    record = run_file(workdir)
    assert record["stopped"] == "sigterm"
    saved = sorted(p.name for p in (workdir / manager.FOLDER).iterdir())
    assert saved == [str(record["step"])] and record["step"] >= 1
    assert manager.describe(workdir)["damaged"] == {}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_dead_peer_is_noticed(tmp_path, rank):
    """kill -9 of one: the other ends by itself within a minute; nothing is lost."""
    config, workdir = prepare(tmp_path), tmp_path / "w"
    runs = pair(config, workdir, "steps=100000")
    folder = workdir / manager.FOLDER
    until(lambda: (folder / "2").exists(), *runs)
    runs[rank].kill()
    begun = time.monotonic()
    status = runs[1 - rank].wait(timeout=60)
    assert status != 0 and time.monotonic() - begun < 60
    finish(*runs)
    newest = manager.describe(workdir)["step"]
    steps = [f"steps={newest + 2}"]
    well(finish(*pair(config, workdir, *steps)))
    assert run_file(workdir)["resumed_from"] >= newest


UNREADABLE = """
from orbax.checkpoint import v1 as ocp
kept = ocp.training.Checkpointer.load_checkpointables
def bad(self, step, *args, **kwargs):
    found = kept(self, step, *args, **kwargs)
    if step == 4:
        raise OSError("Input/output error")
    return found
ocp.training.Checkpointer.load_checkpointables = bad
"""


def test_a_step_that_only_one_process_can_not_read(tmp_path):
    """Both give the step up and go on from the one before."""
    config, workdir = prepare(tmp_path), tmp_path / "w"
    well(finish(*pair(config, workdir, "steps=4")))
    well(finish(*pair(config, workdir, "steps=5", before=("", UNREADABLE))))
    assert run_file(workdir)["resumed_from"] == 2
    assert (workdir / manager.FOLDER / "4.damaged-0").is_dir()


def test_a_process_that_nobody_meets(tmp_path):
    config = prepare(tmp_path)
    alone = start(
        config, tmp_path / "w", "processes.meet=3", process=(1, 2, free_port())
    )
    ((status, text),) = finish(alone)
    # The client of XLA may end the process itself, which is as good.
    assert status != 0 and not (tmp_path / "w" / "run.json").exists(), text
    assert "did not connect" in text or "DEADLINE_EXCEEDED" in text


LATE = """
import time
import gendr_jax.train.run.loop as loop
kept = loop.Saves.restore
def late(self, abstract):
    time.sleep(20)
    return kept(self, abstract)
loop.Saves.restore = late
"""


def test_a_late_process_is_named(tmp_path):
    config, workdir = prepare(tmp_path), tmp_path / "w"
    runs = pair(config, workdir, "processes.barrier=5", before=("", LATE))
    (first, text), (second, _) = finish(*runs)
    assert first != 0 and second != 0
    assert "waited 5 s at 'restored' for process 1" in text
