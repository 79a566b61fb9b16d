"""evaluate/files.py: which files are pictures, and which belong together."""

import os
import shutil
from pathlib import Path

import pytest

from gendr_jax.errors import UsageError
from gendr_jax.evaluate import files
from tests.helpers.tiny_pictures import write


def stems(wanted, have):
    found = files.match(wanted, {stem: Path(stem) for stem in have})
    return {stem: str(path) for stem, path in found.items()}


def test_find_takes_pictures_in_order_of_names(tmp_path):
    write(tmp_path, ["b.png", "a.jpg", ".hidden.png"])
    write(tmp_path / "below", ["a.png"])
    (tmp_path / "notes.txt").write_text("x")
    found = files.find(tmp_path)
    assert list(found.files) == ["a", "b"] and not found.problems
    found = files.find(tmp_path, recursive=True)
    assert list(found.files) == ["a", "b", "below/a"]


def test_two_files_of_one_stem_are_neither_and_are_named(tmp_path):
    write(tmp_path, ["a.png", "a.jpg", "b.png"])
    found = files.find(tmp_path)
    assert list(found.files) == ["b"] and found.twins == {"a"}
    (problem,) = found.problems
    assert "a.jpg and a.png" in problem


def test_a_folder_that_is_none_or_empty(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        files.find(tmp_path / "absent")
    write(tmp_path / "below", ["a.png"])
    with pytest.raises(UsageError, match="--recursive looks deeper"):
        files.find(tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        files.find(tmp_path / "below" / "a.png")


def test_endings_of_programs_are_looked_through():
    assert stems(["a", "b"], ["a_x4", "b-out"]) == {"a": "a_x4", "b": "b-out"}
    assert stems(["0853_HR"], ["0853_LRx4"]) == {"0853_HR": "0853_LRx4"}
    assert stems(["0853_HR"], ["0853_LRbest"]) == {}  # what is no known ending
    assert stems(["a_HR"], ["a_LR4"]) == {"a_HR": "a_LR4"}
    assert stems(["a_LR4"], ["a_LR4_x4_out"]) == {"a_LR4": "a_LR4_x4_out"}
    # Never the whole stem, and never letters that are part of a word.
    assert stems(["out"], ["_x4"]) == {} and stems(["sail"], ["sail2x"]) == {}


def test_equal_stems_go_before_endings():
    assert stems(["a", "a_x4"], ["a_x4", "a"]) == {"a": "a", "a_x4": "a_x4"}
    assert stems(["a"], ["a", "a_x4"]) == {"a": "a"}


def test_doubt_is_no_match():
    assert stems(["a"], ["a_x4", "a-out"]) == {}
    assert stems(["a_HR", "a_GT"], ["a_x4"]) == {}


def test_an_accent_is_one_however_it_is_written():
    composed, apart = "\u00e9t\u00e9", "e\u0301te\u0301"
    assert stems([composed], [apart]) == {composed: apart}
    assert stems([composed], [apart + "_x4"]) == {composed: apart + "_x4"}
    # A folder that has both knows what it means.
    assert stems([composed, apart], [apart, composed]) == {
        composed: composed,
        apart: apart,
    }


def test_a_name_that_is_not_utf8_is_told(tmp_path):
    write(tmp_path / "ok", ["ночь 夜 é.png"])
    odd = os.fsencode(tmp_path / "ok") + b"/b\xff.png"
    try:
        shutil.copy(tmp_path / "ok" / "ночь 夜 é.png", odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    found = files.find(tmp_path / "ok")
    assert list(found.files) == ["ночь 夜 é"]
    (problem,) = found.problems
    assert "b?.png: the name is not UTF-8" in problem
    with pytest.raises(UsageError, match="Rename the folder"):
        files.find(Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff")))


@pytest.mark.parametrize(
    "ending",
    ["x4", "x4m", "_bicLRx4", "_SwinIR", "_RRDBNet_x4", "_out", "-my net"],
)
def test_endings_of_the_field(ending):
    have = {f"{n}{ending}": Path(f"{n}{ending}.png") for n in ("0801", "0802")}
    found = files.match(["0801", "0802", "0803"], have)
    assert found == {n: Path(f"{n}{ending}.png") for n in ("0801", "0802")}
    assert files.match(["0801"], have, template="{}" + ending).keys() == {"0801"}


def test_no_ending_is_guessed_where_it_differs():
    assert not files.match(["1", "2"], {"10": Path("10"), "20": Path("20")})
    assert not files.match(["a", "b"], {"a_one": Path("a"), "b_two": Path("b")})
    assert not files.match(["0801"], {"0801x4": Path("x")}, template="{}_other")


def test_a_template_names_results_in_front_and_behind():
    have = {"SR_a_x4": Path("1"), "night/SR_b_x4": Path("2"), "a": Path("3")}
    found = files.match(["a", "night/b", "c"], have, template="SR_{}_x4")
    assert found == {"a": Path("1"), "night/b": Path("2")}


def test_the_order_of_names_counts_numbers_as_numbers():
    have = {f"img_{k}": Path(str(k)) for k in (10, 9, 1)}
    found = files.by_order(["0803", "0801", "0802"], have)
    assert found == {"0801": Path("1"), "0802": Path("9"), "0803": Path("10")}
