"""Saving: what is kept, what goes wrong in the background, disks that are full."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
from orbax.checkpoint import v1 as ocp

from gendr_jax.checkpoints import manager as checkpoints
from tests.helpers.linear_run import Batches, train
from tests.helpers.linear_run import run_file as record_of

CLOCK = {"seed": 0, "data_index": 0}


def save(manager, *steps):
    for step in steps:
        state = {"x": jnp.full((4,), float(step))}
        manager.save(step, state, clock=CLOCK, meta={})
    manager.wait()


def test_the_newest_and_every_so_many_are_kept(tmp_path):
    manager = checkpoints.Manager(tmp_path, keep=2, keep_every=4)
    save(manager, 2, 4, 6, 8, 10, 12, 14)
    assert manager.steps == [4, 8, 12, 14]
    manager.close()


def test_one_in_so_many_seconds_is_kept(tmp_path):
    manager = checkpoints.Manager(tmp_path, keep=1, keep_seconds=10_000)
    save(manager, 1, 2, 3)
    assert manager.steps == [1, 3]  # the first one opens the interval
    manager.close()


def test_an_older_step_is_an_event_and_is_not_saved(tmp_path):
    manager = checkpoints.Manager(tmp_path)
    save(manager, 2, 6)
    with pytest.warns(UserWarning, match="step 4 is older than checkpoint 6"):
        assert not manager.save(4, {"x": jnp.zeros(4)}, clock=CLOCK, meta={})
    assert not manager.save(6, {"x": jnp.zeros(4)}, clock=CLOCK, meta={})
    assert manager.save(7, {"x": jnp.zeros(4)}, clock=CLOCK, meta={})
    manager.close()
    assert manager.steps == [2, 6, 7]


def test_seconds_since_the_last_commit(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    manager = checkpoints.Manager(tmp_path)
    now[0] += 50
    assert manager.uncommitted_seconds == 50.0
    save(manager, 1)
    assert manager.uncommitted_seconds == 0.0
    now[0] += 7
    assert manager.uncommitted_seconds == 7.0
    manager.close()


class Failing:
    """A save in the background that has failed."""

    def result(self, timeout=None):
        raise OSError("No space left on device")


def test_an_error_in_the_background_stops_the_run_at_the_next_step(
    tmp_path, monkeypatch
):
    real = ocp.training.Checkpointer.save_checkpointables_async

    def fail_at_four(self, step, *args, **kwargs):
        if step == 4:
            return Failing()
        return real(self, step, *args, **kwargs)

    with monkeypatch.context() as patch:
        name = "save_checkpointables_async"
        patch.setattr(ocp.training.Checkpointer, name, fail_at_four)
        batches = Batches()
        with pytest.raises(checkpoints.SaveFailed, match="No space left"):
            train(tmp_path, batches=batches, steps=50, checkpoint_every=2)
    record = record_of(tmp_path)
    assert record["stopped"] == "error" and "No space left" in record["message"]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] <= 6  # long before the next save would be
    assert checkpoints.describe(tmp_path)["step"] == 2 and batches.closed == 1
    assert train(tmp_path, steps=6).step == 6
    assert record_of(tmp_path)["resumed_from"] == 2


def mount(folder, kib):
    args = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    return subprocess.run(args, capture_output=True, check=False).returncode == 0


FULL = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.helpers import linear_run as t
t.train(Path(sys.argv[2]), steps=400, checkpoint_every=1, keep=400)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_full_disk(tmp_path):
    """The run ends; every checkpoint it had committed is good."""
    here, disk = Path(__file__).resolve().parents[3], tmp_path / "disk"
    disk.mkdir()
    if not mount(disk, 300):
        pytest.skip("no right to mount a tmpfs")
    try:
        ended = subprocess.run(
            [sys.executable, "-c", FULL, here, disk],
            env={**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"},
            cwd=here,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 1 and "No space left" in ended.stderr
        found = checkpoints.describe(disk)
        assert found["step"] >= 1 and found["damaged"] == {}
    finally:
        subprocess.run(["umount", str(disk)], check=True)
