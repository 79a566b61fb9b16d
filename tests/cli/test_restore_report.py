"""gendr restore: what is said of each picture, resuming, names that clash, tiles."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil

from gendr_jax import files, image_io
from gendr_jax.cli import restore
from gendr_jax.image_io.resize import Target
from gendr_jax.restore.folders import naming, run
from gendr_jax.restore.folders import report as report_lib
from gendr_jax.restore.folders.naming import InputPicture
from gendr_jax.restore.folders.run import PictureOptions
from tests.helpers.tiny_commands import gendr
from tools import described_pictures as described


class Bicubic:
    """Stands for a restorer where only files matter."""

    batch_size = 2

    def restore(self, images, scale, progress=lambda done, total: None):
        from gendr_jax.image_io import arrays, resize
        from gendr_jax.restore import tiling

        done, self.last = [], []
        for image in images:
            rgb, _ = arrays.to_unit(image)
            size = resize.output_size(*rgb.shape[:2], scale)
            for i in range(3):
                progress(i + 1, 3)
            self.last.append(tiling.one_pass(*size, 64))
            done.append(arrays.from_unit(resize.bicubic(rgb, size), None, image))
        return done


@pytest.fixture
def bicubic(monkeypatch):
    monkeypatch.setenv("GENDR_DEBUG", "")
    monkeypatch.setattr(restore, "open_restorer", lambda flags: Bicubic())


def save(path, height=6, width=7, kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3))
    Pil.fromarray(pixels.astype(np.uint8)).save(path, kind)
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def listed(folder):
    return sorted(os.listdir(folder))


# ---- one bad name


def test_a_name_that_is_too_long_costs_one_picture(bicubic, tmp_path, capsys):
    save(tmp_path / "in" / "good.png")
    save(tmp_path / "in" / f"{'n' * 250}.png")
    args = ("restore", "-i", tmp_path / "in", "-o", tmp_path / "o", "--suffix", "_x4")
    (tmp_path / "o").mkdir()
    assert gendr(*args, "--skip-existing") == 1
    assert listed(tmp_path / "o") == ["good_x4.png"]
    assert "File name too long" in capsys.readouterr().err


def test_an_input_that_is_too_long_costs_itself(bicubic, tmp_path, capsys):
    good, out = save(tmp_path / "good.png"), tmp_path / "o"
    assert gendr("restore", "-i", good, "q" * 300, "-o", out) == 1
    assert listed(out) == ["good.png"]
    assert "cannot be read (File name too long)" in capsys.readouterr().err


def test_results_that_may_not_be_looked_at_cost_themselves(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "exists", refuse)
    assert not run.is_there(tmp_path)


def test_twins_of_case_get_names_of_their_own(bicubic, tmp_path):
    for name in ("IMG.JPG", "IMG.jpg", "other.png"):
        save(tmp_path / "in" / name, kind="JPEG" if "IMG" in name else "PNG")
    if len(listed(tmp_path / "in")) < 3:
        pytest.skip("this file system does not tell them apart")
    assert gendr("restore", "-i", tmp_path / "in", "-o", tmp_path / "o") == 0
    assert listed(tmp_path / "o") == ["IMG_JPG.JPG", "IMG_jpg_2.jpg", "other.png"]


def test_a_picture_that_comes_later_renames_no_result(bicubic, tmp_path):
    args = ("restore", "-i", tmp_path / "in", "-o", tmp_path / "o", "--ext", "png")
    save(tmp_path / "in" / "a.jpg")
    assert gendr(*args) == 0
    before = (tmp_path / "o" / "a.png").stat().st_mtime_ns
    time.sleep(0.02)
    save(tmp_path / "in" / "a.png", 9)
    for _ in range(2):
        assert gendr(*args, "--skip-existing") == 0
        assert listed(tmp_path / "o") == ["a.png", "a_png.png"]
    assert (tmp_path / "o" / "a.png").stat().st_mtime_ns == before
    assert gendr(*args) == 0  # the names stay, whatever is done again
    assert listed(tmp_path / "o") == ["a.png", "a_png.png"]
    assert image_io.probe(tmp_path / "o" / "a.png").height == 24
    assert image_io.probe(tmp_path / "o" / "a_png.png").height == 36


def test_no_two_results_share_a_name_on_any_file_system():
    names = [
        "a.jpg",
        "A.JPG",
        "a.png",
        "a_jpg.png",
        "é.jpg",
        "e\u0301.jpg",
        "a_JPG.gif",
    ]
    found = [InputPicture(Path(n), Path(n)) for n in names]
    todo = naming.assign(found, Path("out"), ext="png", suffix="")
    keys = {naming._key(paths.target) for paths in todo}
    assert len(keys) == len(names)


# ---- left out


def test_what_looks_like_a_picture_is_taken_or_named(bicubic, tmp_path, capsys):
    kinds = {"a.png": "PNG", "b.jfif": "JPEG", "c.jpe": "JPEG", "d.pnm": "PPM"}
    kinds |= {"e.dib": "BMP", "f.mpo": "JPEG", "g": "JPEG", "h.png~": "PNG"}
    for name, kind in kinds.items():
        save(tmp_path / "in" / name, kind=kind)
    (tmp_path / "in" / "notes.txt").write_text("BM P1 are words")
    save(tmp_path / "elsewhere" / "l.png")
    (tmp_path / "in" / "link").symlink_to("../elsewhere")
    args = ("restore", "-i", tmp_path / "in", "-o", tmp_path / "o")
    assert gendr(*args) == 0
    told = capsys.readouterr()
    assert "6 of 6 done" in told.out
    (g, h, link) = told.err.splitlines()
    assert "in/g is left out, JPEG by its content" in g and "h.png~" in h
    assert "1 folder in" in link and "--recursive" in link
    assert gendr(*args, "--recursive") == 0
    assert "7 of 7 done" in capsys.readouterr().out
    assert (tmp_path / "o" / "link" / "l.png").exists()


# ---- the report


def test_a_resumed_report_keeps_the_figures(bicubic, tmp_path):
    save(tmp_path / "in" / "a.png")
    report = tmp_path / "r.jsonl"
    args = ("restore", "-i", tmp_path / "in", "-o", tmp_path / "o", "--report", report)
    assert gendr(*args) == 0
    (first,) = lines(report)
    save(tmp_path / "in" / "b.png")
    for _ in range(2):
        assert gendr(*args, "--skip-existing") == 0
        skipped = lines(report)[0]
        assert skipped == {**first, "status": "skipped"}
    assert len(lines(report)) == 2


class Full:
    """A file on a disk that takes `room` bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(28, "No space left on device")
        done = self.file.write(bytes(data)[: self.room])
        self.room -= done
        return done

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_full_disk_tears_no_line(tmp_path):
    path = tmp_path / "r.jsonl"
    report = report_lib.Report(str(path))
    report._file = full = Full(report._file, 700)
    for i in range(5):
        report({"input": f"{i}.png", "status": "done"})
        assert len(lines(path)) <= i + 1
    assert 0 < len(lines(path)) < 5
    full.room = 10_000
    assert report.close() == ""
    assert [entry["input"] for entry in lines(path)] == [f"{i}.png" for i in range(5)]
    report = report_lib.Report(str(path))
    report._file = Full(report._file, 20)
    report({"input": "a.png"})
    assert "lacks 1 line (No space left on device). Free disk space." in report.close()
    assert path.read_text() == ""


def test_a_report_that_lacks_lines_is_a_failure(bicubic, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report_lib.Report, "_flush", lambda self: "No space left")
    source = save(tmp_path / "a.png")
    args = ("restore", "-i", source, "-o", tmp_path / "o")
    assert gendr(*args, "--report", tmp_path / "r") == 1
    told = capsys.readouterr()
    assert "lacks 1 line (No space left)" in told.err and "1 of 1 done" in told.out


def test_a_dry_run_counts_what_is_missing_and_not_what_is_there(tmp_path, capsys):
    from tests.helpers.tiny_commands import save_weights

    for name in "abc":
        save(tmp_path / "in" / f"{name}.png")
    for name in "ab":
        save(tmp_path / "o" / f"{name}.png")
    weights = save_weights(tmp_path / "w")
    args = ("restore", "-i", tmp_path / "in", tmp_path / "none.png", "-o")
    args += (tmp_path / "o", "--weights", weights, "--dry-run", "--skip-existing")
    assert gendr(*args) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 of 4 to do: ")


def test_the_last_pictures_before_the_keyboard_have_a_line(tmp_path):
    todo = []
    for i in range(8):
        path = save(tmp_path / "in" / f"{i}.png")
        out = tmp_path / "o" / path.name
        todo.append(naming.PicturePaths(path, out, Path(path.name)))

    class Stopped(Bicubic):
        calls = 0

        def restore(self, images, scale, progress):
            Stopped.calls += 1
            if Stopped.calls == 3:
                raise KeyboardInterrupt
            return super().restore(images, scale)

    told = []
    options = PictureOptions(Target(scale=2.0))
    with pytest.raises(KeyboardInterrupt):
        run.run(
            todo, options, Stopped, lambda state: told.append(state.paths.target.name)
        )
    assert told == listed(tmp_path / "o") and told


def test_the_advice_after_the_keyboard_works(bicubic, tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", stop)
    args = ("restore", "-i", save(tmp_path / "a.png"), "-o", tmp_path / "o")
    assert gendr(*args) == 130
    assert "same command again with --skip-existing." in capsys.readouterr().err
    assert gendr(*args, "--skip-existing") == 130
    assert "same command again." in capsys.readouterr().err


def test_leftovers_of_a_killed_run_go_although_all_is_done(bicubic, tmp_path):
    args = ("restore", "-i", save(tmp_path / "a.png"), "-o", tmp_path / "o")
    assert gendr(*args) == 0
    dead = f"{files.PREFIX}{files.this_host()}-{2**22 + 1}-1-0.tmp.tif"
    (tmp_path / "o" / dead).write_bytes(b"half")
    save(tmp_path / "b.png")
    assert gendr(*args, "--skip-existing") == 0
    assert listed(tmp_path / "o") == ["a.png"]


def test_pictures_of_a_batch_share_its_seconds(tmp_path, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(run.time, "perf_counter", lambda: float(next(clock)))
    states = [
        run.PictureState(naming.PicturePaths(Path(n), Path(n), Path(n))) for n in "ab"
    ]
    for state in states:
        state.image = image_io.Image(np.zeros((4, 4, 3), np.uint8))
    run._restore(Bicubic(), states, PictureOptions(Target(scale=1.0)), lambda *_: None)
    assert [w.entry["stages"]["restore"] for w in states] == [0.5, 0.5]


def test_lost_metadata_is_said_once_a_file(bicubic, tmp_path, capsys):
    described.write(tmp_path / "a.jpg", described.pixels())
    args = ("restore", "-i", tmp_path / "a.jpg", "-o", tmp_path / "b.webp", "-s", "1")
    assert gendr(*args, "--report", tmp_path / "r") == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning == f"gendr: warning: {tmp_path / 'b.webp'} lacks comment"
    assert lines(tmp_path / "r")[0]["metadata_lost"] == ["comment"]
    assert gendr(*args, "--strip-metadata") == 0
    assert capsys.readouterr().err == ""


# ---- tiles, quality


def test_tiles_are_told_on_a_bar_and_in_lines(bicubic, tmp_path, capsys, monkeypatch):
    source = save(tmp_path / "a.png")
    args = ("restore", "-i", source, "-o", tmp_path / "o")
    monkeypatch.setattr(report_lib, "BETWEEN_LINES", 0.0)
    assert gendr(*args) == 0
    told = [f"{source}: tile {i} of 3" for i in (1, 2)]
    assert capsys.readouterr().err.splitlines() == told
    monkeypatch.setattr(report_lib, "BETWEEN_LINES", 1e9)
    assert gendr(*args) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(report_lib.sys.stderr, "isatty", lambda: True, raising=False)
    assert gendr(*args) == 0
    assert "tile 2/3" in capsys.readouterr().err


def test_quality_is_of_jpeg_and_webp(bicubic, tmp_path, capsys):
    source = save(tmp_path / "a.png", 60, 60)
    args = ("restore", "-i", source, "-s", "1", "-o")
    sizes = {}
    for name, flags in (
        ("d.jpg", []),
        ("l.jpg", ["--quality", "30"]),
        ("d.webp", []),
        ("l.webp", ["--quality", "30"]),
    ):
        assert gendr(*args, tmp_path / name, *flags) == 0
        sizes[name] = (tmp_path / name).stat().st_size
    assert sizes["l.jpg"] < sizes["d.jpg"] / 2
    assert sizes["l.webp"] < sizes["d.webp"] / 2
    plain = image_io.read(source).pixels_hwc
    np.testing.assert_array_equal(image_io.read(tmp_path / "d.webp").pixels_hwc, plain)
    assert gendr(*args, tmp_path / "b.png", "--quality", "30") == 2
    assert "no output is JPEG or WebP" in capsys.readouterr().err
    assert gendr(*args, tmp_path / "b.jpg", "--quality", "0") == 2
    assert "--quality is 0, it must be from 1 to 100" in capsys.readouterr().err
