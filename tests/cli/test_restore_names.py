"""gendr restore and the file system: odd names, full disks, folders in folders."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil

from gendr_jax import image_io
from gendr_jax.cli import restore
from gendr_jax.errors import InputError, UsageError
from gendr_jax.image_io import arrays, resize
from gendr_jax.image_io.resize import Target
from gendr_jax.restore import tiling
from tests.helpers.tiny_commands import gendr, save_weights

ROOT = Path(__file__).resolve().parents[2]


class Bicubic:
    """Stands for a restorer where only files matter."""

    batch_size = 1

    def restore(self, images, scale, progress=None):
        done, self.last = [], []
        for image in images:
            rgb, _ = arrays.to_unit(image)
            size = resize.output_size(*rgb.shape[:2], scale)
            self.last.append(tiling.one_pass(*size, 64))
            done.append(arrays.from_unit(resize.bicubic(rgb, size), None, image))
        return done


@pytest.fixture
def bicubic(monkeypatch):
    monkeypatch.setattr(restore, "open_restorer", lambda flags: Bicubic())
    return "no weights"


def save(path, height=6, width=7):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3))
    Pil.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_names_of_all_kinds(bicubic, tmp_path, capsys):
    names = ["é 日本 ⛰.png", "a[page=2].png", "%d.png", "-o.png", "x" * 240 + ".tiff"]
    for name in names:
        save(tmp_path / "in" / name)
    args = ("-i", tmp_path / "in", "-o", tmp_path / "o", "--weights", bicubic)
    beside = ("--compare", tmp_path / "c", "--report", tmp_path / "r.jsonl")
    assert gendr("restore", *args, *beside) == 0, capsys.readouterr().err
    assert files(tmp_path / "o") == sorted(names)
    assert len(files(tmp_path / "c")) == len(names)
    told = [json.loads(x) for x in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert {Path(entry["output"]).name for entry in told} == set(names)


@pytest.mark.skipif(sys.platform == "darwin", reason="its names are UTF-8")
def test_a_name_that_is_no_text_is_one_failure(bicubic, tmp_path, capfd):
    save(tmp_path / "in" / "a.png")
    os.link(tmp_path / "in" / "a.png", os.fsencode(tmp_path / "in") + b"/\xff.png")
    args = ("-i", tmp_path / "in", "-o", tmp_path / "o", "--weights", bicubic)
    assert gendr("restore", *args, "--report", tmp_path / "r.jsonl") == 1
    text = capfd.readouterr().err
    assert "not UTF-8" in text and len(text.splitlines()) == 1
    assert files(tmp_path / "o") == ["a.png"]
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 2


def test_a_full_disk_costs_what_does_not_fit(bicubic, tmp_path, capfd):
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "b.png", 200, 200)
    save(tmp_path / "in" / "c.tif", 200, 200)
    save(tmp_path / "in" / "d.png", 7, 6)
    args = ("-i", tmp_path / "in", "-o", tmp_path / "o", "--weights", bicubic)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        assert gendr("restore", *args) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 2 and all(e.startswith("gendr: error: ") for e in errors)
    assert "b.png" in errors[0] and "c.tif" in errors[1]
    assert files(tmp_path / "o") == ["a.png", "d.png"]


def test_a_place_that_cannot_be_written_is_one_line(bicubic, tmp_path, capfd):
    source = save(tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    args = ("restore", "-i", source, "--weights", bicubic, "-o")
    assert gendr(*args, tmp_path / "file" / "deeper") == 1
    (error,) = capfd.readouterr().err.splitlines()
    assert "a.png" in error and f"{tmp_path / 'file'} is a file" in error


def test_a_place_is_looked_at_before_restoring(tmp_path, capfd, monkeypatch):
    source, out = save(tmp_path / "a.png"), tmp_path / "o"
    monkeypatch.setattr(restore, "open_restorer", None)  # not even opened
    args = ("restore", "-i", source, "--weights", "none", "-o")
    (out / "a.png").mkdir(parents=True)
    assert gendr(*args, out) == 1
    assert f"{out / 'a.png'} is a folder" in capfd.readouterr().err
    assert gendr(*args, out, "--suffix", "x" * 300) == 1
    (error,) = capfd.readouterr().err.splitlines()
    assert ": File name too long. Check the path" in error and "Errno" not in error
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert gendr(*args, tmp_path / "new" / "deep") == 1
    (error,) = capfd.readouterr().err.splitlines()
    assert f"the folder {tmp_path} is not writable" in error


@pytest.mark.parametrize(
    ("out", "flags", "message"),
    [
        ("b.gif", [], "no format that is written"),
        ("b.png", ["--ext", "jpg"], "two formats"),
        ("b.png", ["--suffix", "_x"], "--suffix _x too"),
        ("b.png", ["SECOND"], "there are 2 pictures"),
        ("", [], "--output is empty"),
        ("o", ["--suffix", "/x"], "part of a name"),
        ("o", ["--report", "a.png"], "--report a.png would replace"),
        ("o", ["--report", "o/a.png"], "--report o/a.png would replace"),
        ("o", ["--compare", "second.png"], "second.png is a file"),
        ("o", ["--compare", ""], "--compare is empty"),
        ("o", ["--on-residual", "refuse"], "nothing without --max-residual"),
        ("o", ["--compare-layout", "split"], "nothing without --compare"),
        ("o", ["--stage-times"], "nothing without --report"),
        ("o", ["--tile-overlap", "-1"], "--tile-overlap is -1"),
        ("o", ["-i", ""], "a path of --input is empty"),
    ],
)
def test_names_that_do_not_go_together(
    tmp_path, capsys, monkeypatch, out, flags, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(restore, "open_restorer", None)
    content = save(Path("a.png")).read_bytes()
    save(Path("second.png"))
    given = ["a.png", "second.png"] if flags == ["SECOND"] else ["a.png"]
    flags = [] if flags == ["SECOND"] else flags
    args = ("restore", "-i", *given, "-o", out, "--weights", "none", *flags)
    assert gendr(*args) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert message in error
    assert Path("a.png").read_bytes() == content
    assert sorted(os.listdir()) == ["a.png", "second.png"]


def test_names_cannot_talk_to_the_terminal(bicubic, tmp_path, capfd):
    folder = tmp_path / "in"
    save(folder / "two\nlines  apart.png")
    (folder / "red\x1b[31m\n.png").write_text("hello")
    args = ("-i", folder, "-o", tmp_path / "o", "--weights", bicubic)
    assert gendr("restore", *args, "--report", tmp_path / "r.jsonl") == 1
    told = capfd.readouterr()
    (error,) = told.err.splitlines()
    assert (
        r"red\x1b[31m\n.png is not a supported image file" in error
        and "\x1b" not in error
    )
    assert error.count(".png") == 1  # not named twice
    assert r"two\nlines  apart.png -> " in told.out and "\x1b" not in told.out
    _, failed, _ = told.out.splitlines()
    assert failed == f"failed: {folder}" + r"/red\x1b[31m\n.png"
    outputs = {
        json.loads(x)["output"] for x in (tmp_path / "r.jsonl").read_text().splitlines()
    }
    assert str(tmp_path / "o" / "two\nlines  apart.png") in outputs


def test_a_folder_that_may_not_be_read_is_named(bicubic, tmp_path, capsys, monkeypatch):
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "closed" / "b.png")
    scandir = os.scandir

    def refuse(path="."):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    args = ("-i", tmp_path / "in", "-o", tmp_path / "o", "--weights", bicubic)
    assert gendr("restore", *args, "--recursive") == 1
    told = capsys.readouterr()
    (error,) = told.err.splitlines()
    assert "closed cannot be read (Permission denied)" in error
    assert "1 of 2 done" in told.out


def test_a_pipe_is_no_picture(bicubic, tmp_path, capsys):
    os.mkfifo(tmp_path / "a.png")
    args = ("-i", tmp_path / "a.png", "-o", tmp_path / "o", "--weights", bicubic)
    assert gendr("restore", *args) == 1
    assert "is a pipe or a device" in capsys.readouterr().err


def test_a_second_run_in_the_same_folder_goes_on(bicubic, tmp_path, capsys):
    folder = tmp_path / "in"
    save(folder / "a.png")
    args = ("restore", "-i", folder, "-o", folder, "--weights", bicubic)
    args += ("--suffix", "_x4", "--skip-existing")
    assert gendr(*args) == 0
    before = (folder / "a_x4.png").stat().st_mtime_ns
    save(folder / "b.png")
    assert gendr(*args) == 0
    assert files(folder) == ["a.png", "a_x4.png", "b.png", "b_x4.png"]
    assert (folder / "a_x4.png").stat().st_mtime_ns == before
    # Without it, a_x4.png is an input like others.
    assert gendr(*args[:-1]) == 2
    assert "would replace an input" in capsys.readouterr().err


def test_pictures_beside_replace_nothing(bicubic, tmp_path, capsys):
    folder = tmp_path / "in"
    for name in ("a.png", "a_png.png"):
        save(folder / name)
    args = ("restore", "-i", folder, "-o", tmp_path / "o", "--weights", bicubic)
    for flags in (
        ["--compare", folder],
        ["--residual-map", tmp_path / "o"],
        ["--compare", tmp_path / "c", "--residual-map", tmp_path / "c"],
    ):
        assert gendr(*args, *flags) == 2
        assert "Name another folder" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_pictures_beside_are_not_taken_by_the_next_run(bicubic, tmp_path):
    folder = tmp_path / "in"
    save(folder / "a.png")
    args = ("restore", "-i", folder, "-o", folder / "o", "--weights", bicubic)
    args += ("--recursive", "--compare", folder / "c", "--residual-map", folder / "r")
    for _ in range(2):
        assert gendr(*args) == 0
    assert files(folder) == ["a.png", "c/a_png.png", "o/a.png", "r/a_png.png"]


def test_a_picture_too_small_for_the_target_is_one_failure(bicubic, tmp_path, capsys):
    save(tmp_path / "in" / "icon.png", 3, 3)
    save(tmp_path / "in" / "photo.png", 30, 40)
    args = ("restore", "-i", tmp_path / "in", "-o", tmp_path / "o")
    args += ("--weights", bicubic, "--width", "160")
    assert gendr(*args) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert "icon.png is 3x3" in error and "the limit is 16" in error
    assert image_io.read(tmp_path / "o" / "photo.png").pixels_hwc.shape == (120, 160, 3)
    with pytest.raises(InputError, match="53.3 times"):
        Target(longest_side=160).scale_of(3, 3)
    for scale in (0.5, 17.0):
        with pytest.raises(UsageError, match="1 to 16"):
            Target(scale=scale)
        assert gendr("restore", *args[1:-2], "-s", scale) == 2
        assert "1 to 16" in capsys.readouterr().err


def test_a_termination_leaves_no_temporary_file(tmp_path):
    weights = save_weights(tmp_path / "w")
    for i in range(40):
        save(tmp_path / "in" / f"{i:02}.png", 20, 20)
    out = tmp_path / "o"
    args = ["-i", tmp_path / "in", "-o", out, "--weights", weights]
    process = subprocess.Popen(
        [sys.executable, "-m", "gendr_jax.cli.main", "restore", *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    end = time.monotonic() + 200
    while not list(out.glob("*.png")) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=100) == 128 + signal.SIGTERM
    left = os.listdir(out)
    assert 0 < len(left) < 40 and all(name.endswith(".png") for name in left)
    for name in left:
        assert image_io.read(out / name).pixels_hwc.shape == (80, 80, 3)


def test_failures_are_listed_at_the_end(bicubic, tmp_path, capsys):
    for name in ("a", "b", "c"):
        save(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "b.png").write_text("no picture")
    missing = tmp_path / "missing.png"
    args = ("-i", tmp_path / "in", missing, "-o", tmp_path / "out", "--weights", "w")
    assert gendr("restore", *args) == 1
    told = capsys.readouterr()
    failed = [f"failed: {missing}", f"failed: {tmp_path / 'in' / 'b.png'}"]
    assert told.out.splitlines()[-3:] == [*failed, "2 of 4 done"]
    one = ("-i", tmp_path / "in" / "b.png", "-o", tmp_path / "x", "--weights", "w")
    assert gendr("restore", *one) == 1
    assert capsys.readouterr().out == "0 of 1 done\n"


def test_shares_are_all_pictures_once_under_the_names_of_one_run(bicubic, tmp_path):
    for name in ("a.png", "a.jpg", "b.png", "c/d.png", "e.png", "f.png", "g.png"):
        save(tmp_path / "in" / name)
    args = ("-i", tmp_path / "in", "--weights", "w", "--recursive", "--ext", "png")
    assert gendr("restore", *args, "-o", tmp_path / "all") == 0
    shares = []
    for k in (1, 2, 3):
        out, report = tmp_path / f"out{k}", tmp_path / f"r{k}.jsonl"
        share = ("--share", f"{k}/3", "--report", report)
        assert gendr("restore", *args, "-o", out, *share) == 0
        shares.append(files(out))
        assert len(report.read_text().splitlines()) == len(shares[-1])
    assert sorted(sum(shares, [])) == files(tmp_path / "all")
    assert sorted(map(len, shares)) == [2, 2, 3]


@pytest.mark.parametrize("share", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_what_is_no_share_is_refused(bicubic, tmp_path, capsys, share):
    args = ("-i", save(tmp_path / "a.png"), "-o", tmp_path / "o", "--weights", "w")
    assert gendr("restore", *args, f"--share={share}") == 2
    assert "1/4" in capsys.readouterr().err
