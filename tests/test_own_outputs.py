"""own_outputs.py: a command replaces what it has made, as it was, and nothing else."""

import os

import pytest

from gendr_jax import files
from gendr_jax.errors import UsageError
from gendr_jax.own_outputs import RECORD, OwnOutputs, digest


@pytest.fixture
def own(tmp_path):
    return OwnOutputs(tmp_path / "work", "Choose another.")


def write(own, text, name="a.txt"):
    with own.replacing(name) as temporary:
        temporary.write_text(text)


def fill(own, text):
    with own.replacing("w", folder=True) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep/x").write_text(text)


def test_what_it_has_made_is_replaced(own, tmp_path):
    for text in ("one", "two"):
        write(own, text)
        fill(own, text)
    again = OwnOutputs(tmp_path / "work", "Choose another.")
    again.refuse_foreign(["a.txt", "w", "absent"])
    write(again, "three")
    assert (tmp_path / "work/a.txt").read_text() == "three"
    assert (tmp_path / "work/w/deep/x").read_text() == "two"
    assert sorted(os.listdir(tmp_path / "work")) == [RECORD, "a.txt", "w"]


@pytest.mark.parametrize("change", ["file", "in", "more", "less", "link"])
def test_foreign_or_changed_work_stays(own, tmp_path, change):
    work = tmp_path / "work"
    if change == "file":
        work.mkdir()
        (work / "a.txt").write_text("mine")
    elif change == "link":
        write(own, "one")
        (tmp_path / "mine").write_text("mine")
        (work / "a.txt").unlink()
        (work / "a.txt").symlink_to("../mine")
    else:
        fill(own, "one")
        if change == "in":
            (work / "w/deep/x").write_text("mine")
        elif change == "more":
            (work / "w/mine").write_text("mine")
        else:
            (work / "w/deep/x").unlink()
    name = "a.txt" if change in ("file", "link") else "w"
    before = digest(work / name)
    with pytest.raises(UsageError, match=f"{name} was not made by .* Choose another"):
        own.refuse_foreign([name])
    with pytest.raises(UsageError), own.replacing(name, folder=name == "w"):
        raise AssertionError("nothing is written")
    assert digest(work / name) == before


@pytest.mark.parametrize("moment", ["before the rename", "after it"])
def test_a_process_that_ends_leaves_its_output_known(
    own, tmp_path, monkeypatch, moment
):
    write(own, "one")
    real, done = os.replace, []

    def replace(source, target):
        if os.path.basename(target) != "a.txt":
            return real(source, target)
        if moment == "after it":
            real(source, target)
        done.append(moment)
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write(own, "two")
    monkeypatch.undo()
    assert done
    text = (tmp_path / "work/a.txt").read_text()
    assert text == ("one" if moment == "before the rename" else "two")
    write(own, "three")


def test_a_record_that_is_none_lets_nothing_be_replaced(own, tmp_path):
    write(own, "one")
    (tmp_path / "work" / RECORD).write_text("[]")
    with pytest.raises(UsageError, match="was not made"):
        write(own, "two")
