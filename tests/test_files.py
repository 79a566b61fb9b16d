"""files.py: complete or not at all, and nothing is left of killed processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gendr_jax import files

ROOT = Path(__file__).resolve().parents[1]
KILLED = """
import os, signal, sys
from pathlib import Path
from gendr_jax import files
with files.{call}(Path(sys.argv[1])) as temporary:
    (temporary / "x" if temporary.is_dir() else temporary).write_text("half")
    os.kill(os.getpid(), signal.{signal})
"""


def killed(path, call="replacing", number="SIGKILL"):
    code = KILLED.format(call=call, signal=number)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, path], env=environment)
    assert done.returncode != 0


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with files.replacing(path, durable=True) as temporary:
        assert temporary.suffix == ".json" and temporary.parent == tmp_path
        temporary.write_text("new")
        assert path.read_text() == "old" and files.is_temporary(temporary)
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_older_file_alone(tmp_path, error):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(error), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_is_exchanged(tmp_path):
    path = tmp_path / "weights"
    for name in ("first", "second"):
        with files.replacing_folder(path) as temporary:
            (temporary / name).write_text(name)
        assert os.listdir(path) == [name]
    with pytest.raises(ValueError), files.replacing_folder(path) as temporary:
        raise ValueError
    assert os.listdir(path) == ["second"] and os.listdir(tmp_path) == ["weights"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("old")
    (tmp_path / "a.txt").symlink_to(tmp_path / "real" / "a.txt")
    files.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "new"
    assert os.listdir(tmp_path / "real") == ["a.txt"]


@pytest.mark.parametrize("call", ["replacing", "replacing_folder"])
def test_what_a_killed_process_left_is_cleared(tmp_path, call):
    killed(tmp_path / "a", call)
    (left,) = tmp_path.iterdir()
    assert files.is_temporary(left)
    files._cleared.discard(tmp_path)
    files.write_text(tmp_path / "b", "b")
    assert os.listdir(tmp_path) == ["b"]


def test_what_others_are_writing_stays(tmp_path):
    mine = files.temporary_name(tmp_path / "a")
    mine.write_text("of a process that lives")
    here = mine.name.split("-")
    elsewhere = tmp_path / "-".join([here[0], "00000000", *here[2:]])
    elsewhere.write_text("of another machine")
    (tmp_path / ".gendr-notes").write_text("not ours")
    again = tmp_path / "-".join([here[0], here[1], here[2], "1", here[4]])
    again.write_text("of a dead process whose number was given to this one")
    files.clear_stale(tmp_path)
    assert set(os.listdir(tmp_path)) == {mine.name, elsewhere.name, ".gendr-notes"}
    os.utime(elsewhere, (0, 0))
    files.clear_stale(tmp_path)
    assert not elsewhere.exists()


def test_sigterm_leaves_no_litter_for_the_next_run(tmp_path):
    killed(tmp_path / "a", number=signal.SIGTERM.name)
    files._cleared.discard(tmp_path)
    files.write_text(tmp_path / "a", "whole")
    assert os.listdir(tmp_path) == ["a"]


def test_the_longest_name_can_be_written(tmp_path):
    path = tmp_path / ("n" * 251 + ".txt")
    files.write_text(path, "x")
    assert path.read_text() == "x"
