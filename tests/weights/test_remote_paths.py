"""Paths and URLs: what is accepted, what is refused in one line."""

import sys
from pathlib import Path

import pytest
from etils import epath

from gendr_jax import files
from gendr_jax.errors import UsageError
from gendr_jax.train.run import workdir as workdir_lib
from gendr_jax.train.run.workdir import Workdir
from gendr_jax.weights import remote_paths


def test_a_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(remote_paths.as_epath("x/y")) == str(tmp_path / "x" / "y")
    assert str(remote_paths.as_epath(Path("x"))) == str(tmp_path / "x")
    assert not remote_paths.is_remote(Path("x")) and remote_paths.is_remote("gs://b/x")


def test_unknown_schemes_are_refused():
    with pytest.raises(UsageError, match="ftp://x has the unknown scheme.*gs://"):
        remote_paths.as_epath("ftp://x")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # import fails
    from etils.epath import backend

    backend.fsspec_backend._get_filesystem.cache_clear()
    with pytest.raises(UsageError, match="pip install gcsfs") as caught:
        remote_paths.as_epath("gs://bucket/run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("remote", [False, True])
def test_a_folder_is_moved(tmp_path, remote, monkeypatch):
    monkeypatch.setattr(remote_paths, "is_remote", lambda path: remote)
    (tmp_path / "6" / "deep").mkdir(parents=True)
    (tmp_path / "6" / "deep" / "x").write_text("1")
    (tmp_path / "6" / "commit_success.txt").write_text("")
    source, target = epath.Path(tmp_path / "6"), epath.Path(tmp_path / "6.bad")
    remote_paths.move_folder(source, target)
    assert (tmp_path / "6.bad" / "deep" / "x").read_text() == "1"
    assert (tmp_path / "6.bad" / "commit_success.txt").exists()
    assert not (tmp_path / "6").exists()


@pytest.fixture
def store(tmp_path, monkeypatch):
    """gs://bucket as a folder, as far as Workdir can tell."""
    folder = tmp_path / "bucket"
    folder.mkdir()

    def as_epath(path):
        return epath.Path(str(path).replace("gs://bucket", str(folder)))

    monkeypatch.setattr(workdir_lib, "as_epath", as_epath)
    return folder


def test_what_changed_is_copied(store):
    made = Workdir("gs://bucket/run")
    assert not made.local.is_relative_to(store)
    assert str(made.checkpoints) == str(store / "run" / "checkpoints")
    (made.local / "tb").mkdir()
    (made.local / "tb" / "events").write_text("1")
    (made.local / "run.json").write_text("{}")
    files.temporary_name(made.local / "run.json").write_text("{")
    half = files.temporary_name(made.local / "weights_best")
    half.mkdir()
    (half / "gendr.json").write_text("{")
    made.push()
    run = store / "run"
    assert sorted(p.name for p in run.rglob("*")) == ["events", "run.json", "tb"]
    (run / "run.json").unlink()  # what has not changed is not sent again
    (made.local / "tb" / "events").write_text("1, 2")
    made.push()
    assert (run / "tb" / "events").read_text() == "1, 2"
    assert not (run / "run.json").exists()
    (made.local / "weights").mkdir()
    (made.local / "weights" / "x").write_text("new")
    made.close()
    assert (run / "weights" / "x").read_text() == "new" and not made.local.exists()


def test_a_later_start_reads_back_what_it_goes_on_with(store):
    (store / "run" / "weights").mkdir(parents=True)
    (store / "run" / "run.json").write_text("{}")
    (store / "run" / "weights" / "old").write_text("")
    made = Workdir("gs://bucket/run")
    assert [p.name for p in made.local.iterdir()] == ["run.json"]
    assert made.exists("weights") and not made.exists("samples")
    made.clear("weights")
    assert not made.exists("weights")
    made.close()


def test_folders_here_are_written_directly(tmp_path):
    made = Workdir(tmp_path / "a" / "b")
    assert made.local == tmp_path / "a" / "b" and made.local.is_dir()
    made.push()
    made.close()
    assert made.local.is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        Workdir(tmp_path / "file")
