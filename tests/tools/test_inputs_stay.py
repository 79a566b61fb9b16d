"""tools/inputs_stay.py: the set that it makes, and that it notices what changes."""

import os

import pytest

from tools import inputs_stay


@pytest.fixture
def root(tmp_path):
    inputs_stay.make_set(tmp_path / "set", 24)
    return tmp_path / "set"


def test_the_set_has_the_pictures_and_the_oddities(root):
    found = inputs_stay.snapshot(root)
    links = [path for path, what in found.items() if what.startswith("->")]
    assert len(found) - len(links) == 24 and len(links) == 5
    names = {os.path.basename(path) for path in found}
    assert {
        b"img_\xff.png",
        b"Foto.JPG",
        b"foto.png",
        b"0801.png",
        b"0801x4.png",
    } <= names


@pytest.mark.parametrize("change", ["byte", "gone", "link", "new"])
def test_a_change_is_noticed(root, change):
    before = inputs_stay.snapshot(root)
    assert inputs_stay.changes(before, inputs_stay.snapshot(root)) == (0, 0)
    path = root / "DIV2K/DIV2K_valid_HR/0801.png"
    if change == "byte":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif change == "gone":
        path.unlink()
    elif change == "link":
        (root / "again").unlink()
        (root / "again").symlink_to("odd")
    else:
        (root / "HR").mkdir()
        (root / "HR/new.png").write_bytes(b"x")
    after = inputs_stay.snapshot(root)
    assert inputs_stay.changes(before, after) == ((0, 1) if change == "new" else (1, 0))


@pytest.mark.slow
def test_every_input_stays(tmp_path, capsys):
    assert inputs_stay.main([str(tmp_path / "work"), "--pictures", "60"]) == 0
    assert capsys.readouterr().out.count("| 0 |") >= 14
