"""tools/cut_photographs.py: tiles of their own names, never into the photographs."""

import sys

import pytest
from PIL import Image

from gendr_jax.errors import UsageError
from tests.helpers.tiny_pictures import pixels
from tools import cut_photographs


@pytest.fixture
def photos(tmp_path):
    """Two pictures of one stem in two folders, and two that differ in case."""
    for k, name in enumerate(("a/x.png", "b/x.png", "Y.png", "y.jpg")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(64, 64, k)).save(path)
    return tmp_path / "photos"


def run(monkeypatch, photos, out):
    flags = [str(photos), str(out), "--side", "64", "--halvings", "0"]
    monkeypatch.setattr(sys, "argv", ["cut_photographs", *flags])
    cut_photographs.main()


def test_equal_names_do_not_replace_each_other(photos, tmp_path, monkeypatch):
    run(monkeypatch, photos, tmp_path / "out")
    out = tmp_path / "out"
    made = sorted(str(p.relative_to(out)) for p in out.rglob("*.png"))
    assert len({name.casefold() for name in made}) == 4
    deep = [name for name in made if "/" in name]
    assert deep == ["a/x_1_0_0.png", "b/x_1_0_0.png"]


def test_the_photographs_are_not_written_to(photos, monkeypatch):
    before = {p: p.read_bytes() for p in photos.rglob("*") if p.is_file()}
    for out in (photos, photos / "tiles"):
        with pytest.raises(UsageError, match="the input"):
            run(monkeypatch, photos, out)
    assert {p: p.read_bytes() for p in photos.rglob("*") if p.is_file()} == before
