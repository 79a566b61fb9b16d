"""picture_walk.py: links, loops, names; overwriting.py: outputs that are inputs."""

import os

import pytest

from gendr_jax import files, overwriting, picture_walk
from gendr_jax.errors import UsageError


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "photos"
    (root / "sub" / "deep").mkdir(parents=True)
    for name in ("a.png", "sub/b.JPG", "sub/deep/c.png", "note.txt", ".hidden.png"):
        (root / name).write_bytes(b"x")
    return root


def test_a_loop_ends_and_every_picture_counts_once(root):
    os.symlink(".", root / "again")
    os.symlink("..", root / "sub" / "up")
    os.symlink("sub/deep", root / "0-short-cut")
    found = picture_walk.walk(root, (".png", ".jpg"))
    assert found.names == ["a.png", "sub/b.JPG", "sub/deep/c.png"]
    assert not found.left_out and len(found.repeated) == 3
    assert picture_walk.walk(root, (".png",), recursive=False).names == ["a.png"]


def test_links_to_other_folders_and_files_are_followed(root, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "d.png").write_bytes(b"x")
    os.symlink(tmp_path / "other", root / "linked")
    os.symlink(tmp_path / "other" / "d.png", root / "e.png")
    os.symlink(tmp_path / "nowhere.png", root / "f.png")
    found = picture_walk.walk(root, (".png",))
    assert found.names == ["a.png", "e.png", "linked/d.png", "sub/deep/c.png"]
    assert list(found.left_out) == [str(root / "f.png")]


def test_what_cannot_be_taken_is_named(root):
    with open(os.fsencode(root) + b"/caf\xe9.png", "wb") as file:
        file.write(b"x")
    os.mkdir(os.fsencode(root) + b"/dir\xe9")
    os.mkfifo(root / "pipe.png")
    found = picture_walk.walk(root, (".png",))
    assert found.names == ["a.png", "sub/deep/c.png"]
    assert len(found.left_out) == 3
    text = " ".join(found.left_out.values())
    assert "caf?.png: the name is not UTF-8" in text and "Rename the folder" in text
    assert "pipe.png is not a regular file" in text


def test_temporary_names_are_skipped(root):
    files.temporary_name(root / "x.png").write_bytes(b"half")
    assert picture_walk.walk(root, (".png",)).names == ["a.png", "sub/deep/c.png"]


def test_names_that_some_disks_do_not_tell_apart():
    same = picture_walk.same_name
    assert same("Foto.png") == same("foto.PNG")
    assert same("caf\u00e9") == same("cafe\u0301") != same("cafe")


def test_an_output_that_is_an_input_is_refused(root, tmp_path):
    inputs = [root / "a.png"]
    os.symlink(root, tmp_path / "link")
    os.link(root / "a.png", tmp_path / "hard.png")
    for output in (root / "a.png", tmp_path / "link" / "a.png", tmp_path / "hard.png"):
        with pytest.raises(UsageError, match=r"a\.png.* is an input.*Choose"):
            overwriting.refuse([output], inputs, "Choose another.")
    overwriting.refuse([root / "b.png", tmp_path / "a.png"], inputs, "")


@pytest.mark.parametrize(
    ("out", "what"),
    [("photos", "is"), ("photos/new", "is inside"), ("link/new", "is inside")]
    + [(".", "contains")],
)
def test_nested_folders_are_refused(root, tmp_path, out, what):
    os.symlink(root, tmp_path / "link")
    with pytest.raises(UsageError, match=f"{what} the input"):
        overwriting.refuse_nested(tmp_path / out, root, "Choose another.")
    overwriting.refuse_nested(tmp_path / "elsewhere", root, "")


def test_an_output_that_holds_the_input_is_refused_and_one_inside_is_not(tmp_path):
    (tmp_path / "w/unet").mkdir(parents=True)
    (tmp_path / "link").symlink_to("w")
    for out, given in (("w", "w"), ("w", "w/unet"), ("link", "w"), ("w", "link/unet")):
        with pytest.raises(UsageError, match=" the input .*Choose another"):
            overwriting.refuse_holding(
                tmp_path / out, tmp_path / given, "Choose another."
            )
    overwriting.refuse_holding(tmp_path / "w/new", tmp_path / "w", "")
