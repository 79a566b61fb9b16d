"""evaluate/test_sets.py: layouts, counts and checksums of the field's test sets."""

import hashlib
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from gendr_jax.errors import UsageError
from gendr_jax.evaluate import test_sets
from tests.helpers.tiny_pictures import write

KNOWN = [test_set for test_set in test_sets.TEST_SETS if test_set.sha256]


@pytest.fixture
def tiny(monkeypatch):
    """RealLR200 and DIV2K-val, of two pictures."""
    small = [replace(test_set, pictures=2) for test_set in test_sets.TEST_SETS]
    monkeypatch.setattr(test_sets, "TEST_SETS", tuple(small))


@pytest.mark.parametrize("test_set", KNOWN, ids=lambda t: t.name)
def test_manifests_are_whole(test_set):
    folder = resources.files("gendr_jax.evaluate") / "sets"
    data = (folder / f"{test_set.name.lower()}.sha256").read_bytes()
    assert hashlib.sha256(data).hexdigest() == test_set.sha256
    names = test_sets.checksums(test_set)
    kinds = ["HR", "LR"] if test_set.truth else ["LR"]
    for kind in kinds:
        assert sum(n.startswith(f"{kind}/") for n in names) == test_set.pictures
    assert all(len(digest) == 64 for digest in names.values())


@pytest.mark.parametrize(
    ("name", "folder", "kinds"),
    [("RealSR", "realsr", ("LR", "HR")), ("RealSet80", "realset80", ("LR",))],
)
def test_checksums_are_those_of_the_pictures(shared_data, name, folder, kinds):
    wanted = test_sets.checksums(test_sets.find(name))
    checked = 0
    for kind in kinds:
        root = shared_data / folder / kind if len(kinds) > 1 else shared_data / folder
        for path in root.iterdir():
            if path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                assert wanted[f"{kind}/{path.name}"] == digest, path
                checked += 1
    assert checked >= 20


def test_a_part_of_a_set_is_refused_with_what_is_missing(shared_data, tmp_path):
    with pytest.raises(UsageError) as told:
        test_sets.locate("realsr", shared_data / "realsr")
    text = str(told.value)
    assert "lacks HR/Canon_002_LR4.png" in text and "and 115 more" in text
    assert "github.com/cswry/OSEDiff" in text
    shutil.copytree(shared_data / "realset80", tmp_path / "RealSet80")
    (tmp_path / "RealSet80" / "0015.jpg").write_bytes(b"other")
    write(tmp_path / "RealSet80", ["more.png"])
    with pytest.raises(UsageError) as told:
        test_sets.locate("RealSet80", tmp_path)
    assert "has other bytes in LR/0015.jpg" in str(told.value)
    assert "has more than the set: LR/more.png" in str(told.value)


@pytest.mark.parametrize(
    ("low", "high"), [("test_LR", "test_HR"), ("LR", "HR"), ("lq", "gt")]
)
@pytest.mark.parametrize(
    "below", ["", "DIV2K_V2_val", "StableSR_testsets/DIV2K_V2_val"]
)
def test_layouts_with_truths(tiny, tmp_path, low, high, below):
    root = tmp_path / below
    write(root / low, ["a.png", "b.png"], (6, 8))
    write(root / high, ["a.png", "b.png"])
    found = test_sets.locate("div2k-VAL", tmp_path)
    assert (found.lr, found.gt) == (root / low, root / high)
    assert not found.verified


@pytest.mark.parametrize("below", ["", "lq", "RealLR200", "RealLR200/LR"])
def test_layouts_without_truths(tiny, tmp_path, below):
    write(tmp_path / below, ["a.png", "b.png"])
    found = test_sets.locate("RealLR200", tmp_path)
    assert (found.lr, found.gt) == (tmp_path / below, None)


def test_counts_are_checked_where_checksums_are_unknown(tiny, tmp_path):
    write(tmp_path / "lq", ["a.png", "b.png"])
    write(tmp_path / "gt", ["a.png"])
    with pytest.raises(UsageError, match="gt has 1 pictures, ImageNet-Test has 2"):
        test_sets.locate("ImageNet-Test", tmp_path)


def test_what_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="Set5 is unknown. Choose one of RealSR"):
        test_sets.locate("Set5", tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        test_sets.locate("RealSR", tmp_path / "absent")
    with pytest.raises(UsageError, match="test_LR/ and test_HR/ .* RealSRVal_crop128"):
        test_sets.locate("RealSR", tmp_path)


def test_the_documentation_has_the_same_table():
    text = (Path(__file__).resolve().parents[2] / "docs/evaluate.md").read_text()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line[:3] == "| `"]
    table = {row[0].strip(" `"): row for row in rows if len(row) == 4}
    table.pop("--set")
    assert list(table) == [test_set.name for test_set in test_sets.TEST_SETS]
    for test_set in test_sets.TEST_SETS:
        _, pictures, checked, _ = (cell.strip() for cell in table[test_set.name])
        assert pictures.startswith(f"{test_set.pictures} ")
        assert ("pairs" in pictures) == test_set.truth
        assert checked == ("all files" if test_set.sha256 else "unknown")
