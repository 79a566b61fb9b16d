"""One run a workdir: who holds the lock, who may take it, whose it is no more."""

import json
import shutil
import subprocess
import sys

import pytest

from gendr_jax import files
from gendr_jax.errors import TryAgainError
from gendr_jax.train.run import lock
from gendr_jax.train.run.lock import Lock, LockLost


def owner_of(workdir):
    return json.loads((workdir / lock.NAME).read_text())


def edit(workdir, **changes):
    path = workdir / lock.NAME
    path.write_text(json.dumps(owner_of(workdir) | changes))


@pytest.fixture
def waits(monkeypatch):
    monkeypatch.setattr(lock, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.05)


def test_a_second_run_is_refused_with_the_owner_s_name(tmp_path):
    with Lock(tmp_path):
        with pytest.raises(TryAgainError, match=r"process \d+ on .*--take-over"):
            Lock(tmp_path).__enter__()
        assert (tmp_path / lock.NAME).exists()
    assert not (tmp_path / lock.NAME).exists()
    with Lock(tmp_path):
        pass


def test_the_lock_of_a_dead_process_is_taken(tmp_path, waits):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with Lock(tmp_path):
        kept = owner_of(tmp_path)
    (tmp_path / lock.NAME).write_text(json.dumps(kept | {"pid": dead.pid, "id": "x"}))
    with Lock(tmp_path):
        assert owner_of(tmp_path)["pid"] != dead.pid


def test_a_process_number_that_is_used_again_is_another_process(tmp_path, waits):
    with Lock(tmp_path):
        kept = owner_of(tmp_path)
    changed = kept | {"process_start": "long ago", "id": "x"}
    (tmp_path / lock.NAME).write_text(json.dumps(changed))
    with Lock(tmp_path) as held:
        held.check()


def test_a_copy_of_a_workdir_is_nobody_s(tmp_path, waits):
    original, copy = tmp_path / "a", tmp_path / "b"
    with Lock(original) as held:
        shutil.copytree(original, copy)
        with Lock(copy):
            assert owner_of(copy)["id"] != owner_of(original)["id"]
        held.check()


def test_a_silent_owner_elsewhere_is_gone_and_a_living_one_is_not(tmp_path, waits):
    with Lock(tmp_path):
        kept = owner_of(tmp_path)
    elsewhere = kept | {"machine": "another", "host": "node7", "id": "x"}
    (tmp_path / lock.NAME).write_text(json.dumps(elsewhere))
    told = []
    with Lock(tmp_path, log=told.append):
        assert owner_of(tmp_path)["machine"] == files.this_host()
    assert len(told) == 1 and "node7" in told[0]

    with Lock(tmp_path):  # its thread goes on touching the file
        edit(tmp_path, machine="another", host="node7")
        with pytest.raises(TryAgainError, match="node7"):
            Lock(tmp_path).__enter__()


def test_who_was_taken_over_writes_no_more(tmp_path, waits):
    with Lock(tmp_path) as first:
        with Lock(tmp_path, take_over=True) as second:
            for _ in range(100):
                try:
                    first.check()
                except LockLost as error:
                    assert "--take-over" in str(error)
                    break
                first._closed.wait(0.05)
            else:
                pytest.fail("the first run noticed nothing")
            second.check()
        # The first one's end takes nothing away from a third.
        with Lock(tmp_path):
            kept = owner_of(tmp_path)["id"]
            first.__exit__(None, None, None)
            assert owner_of(tmp_path)["id"] == kept


def test_an_unreadable_lock_is_no_owner_for_ever(tmp_path, waits):
    (tmp_path / lock.NAME).write_text("")
    with Lock(tmp_path) as held:
        held.check()
