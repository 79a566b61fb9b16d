"""gendr restore: sizes, pictures beside results, checks, what stops it and what not."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil

from gendr_jax import image_io
from gendr_jax.cli import common
from gendr_jax.errors import InputError, UsageError
from gendr_jax.image_io import arrays, resize
from gendr_jax.image_io.resize import Target, output_size
from gendr_jax.restore import tiling
from gendr_jax.restore.folders import naming, run
from gendr_jax.restore.folders.run import PictureOptions
from gendr_jax.restore.pipeline import Restorer
from gendr_jax.restore.residual import residual
from tests.helpers.tiny_commands import gendr, save_weights

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_weights(tmp_path_factory.mktemp("weights") / "w")


@pytest.fixture(autouse=True)
def no_tracebacks(monkeypatch):
    """Errors are told in one line, whatever the shell of the tests asks for."""
    monkeypatch.setenv("GENDR_DEBUG", "")


def save(path, height=6, width=7, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 4))
    Pil.fromarray(pixels.astype(np.uint8)).convert(mode).save(path)
    return path


# ---- sizes


@pytest.mark.parametrize("size", [(6, 7), (7, 6), (13, 13), (2, 9), (480, 641)])
def test_targets_are_exact_for_every_parity(size):
    def result(**target):
        return output_size(*size, Target(**target).scale_of(*size))

    for extra in range(5):
        side = 2 * max(size) + extra
        assert result(width=side)[1] == side
        assert result(height=side)[0] == side
        assert max(result(longest_side=side)) == side
    area = 7.3 * size[0] * size[1]
    height, width = result(megapixels=area / 1e6)
    assert abs(height * width / area - 1) < 1 / min(height, width)
    assert result(scale=1.0) == size


def test_targets_that_are_none_or_too_small():
    for wrong in ({}, {"scale": 2.0, "width": 9}, {"width": 0}, {"scale": -1.0}):
        with pytest.raises(UsageError):
            Target(**wrong)
    with pytest.raises(InputError, match="a.png is 9x4, larger than the target 5x2"):
        Target(width=5).scale_of(4, 9, "a.png")


@pytest.mark.parametrize(
    ("flags", "size"),
    [
        (["--width", "15"], (15, 13)),
        (["--megapixels", "0.0021"], (49, 42)),
    ],
)
def test_sizes_from_flags(weights, tmp_path, flags, size):
    source = save(tmp_path / "a.png")
    args = ("-i", source, "-o", tmp_path / "b.png", "--weights", weights)
    assert gendr("restore", *args, *flags) == 0
    with Pil.open(tmp_path / "b.png") as image:
        assert image.size == size


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-s", "2", "--width", "9"], "not allowed with"),
        (["--width", "0"], "above 0"),
        (["--strength", "1.5"], "from 0 to 1"),
        (["--color-fix-strength", "-1"], "from 0 to 1"),
        (["--max-input-pixels", "0"], "above 0"),
        (["--color-fix", "hsv"], "hsv"),
        (["--tile", "big"], "auto, 0 or a number of pixels"),
        (["--mesh", "row=2"], "'row'"),
        (["--batch", "0"], "batch is 0"),
    ],
)
def test_flags_that_make_no_sense(weights, tmp_path, flags, message, capsys):
    source = save(tmp_path / "a.png")
    args = ("-i", source, "-o", tmp_path / "o", "--weights", weights)
    assert gendr("restore", *args, *flags) == 2
    text = capsys.readouterr().err
    assert message in text and len(text.splitlines()) == 1


# ---- beside results


def test_compare_and_residual_maps(weights, tmp_path):
    save(tmp_path / "in" / "a.png", 6, 8, "RGBA")
    save(tmp_path / "in" / "sub" / "b.jpg", 9, 5)
    args = ("-i", tmp_path / "in", "-o", tmp_path / "o", "--weights", weights)
    beside = ("--compare", tmp_path / "c", "--residual-map", tmp_path / "r")
    assert gendr("restore", *args, "--recursive", *beside) == 0
    with Pil.open(tmp_path / "c" / "a_png.png") as image:
        assert image.size == (64, 24 + 18) and image.mode == "RGB"
    with Pil.open(tmp_path / "r" / "sub" / "b_jpg.png") as image:
        assert image.size == (5, 9) and image.mode == "L"
    split = ("--compare", tmp_path / "s", "--compare-layout", "split")
    again = ("-i", tmp_path / "in" / "a.png", "-o", tmp_path / "p")
    assert gendr("restore", *again, "--weights", weights, *split) == 0
    with Pil.open(tmp_path / "s" / "a_png.png") as image:
        assert image.size == (32, 24 + 18)
        middle = np.asarray(image)[18:, 15:17]
        assert (middle == 255).all()


def test_results_far_from_their_input_are_named_or_refused(weights, tmp_path, capsys):
    source = save(tmp_path / "a.png", 20, 20)
    args = ("-i", source, "--weights", weights, "--max-residual", "0.001")
    report = tmp_path / "r.jsonl"
    assert gendr("restore", *args, "-o", tmp_path / "o", "--report", report) == 0
    text = capsys.readouterr().err
    assert text.startswith("gendr: warning: ") and "--max-residual 0.001" in text
    assert json.loads(report.read_text())["warning"] in text
    assert (tmp_path / "o" / "a.png").exists()
    refuse = ("-o", tmp_path / "p", "--on-residual", "refuse")
    assert gendr("restore", *args, *refuse) == 1
    text = capsys.readouterr().err
    assert text.startswith("gendr: error: ") and "--strength" in text
    assert not (tmp_path / "p" / "a.png").exists()


def test_residual_is_what_it_says():
    y, x = np.mgrid[0:40, 0:24] / 40
    small = np.dstack([y, x, 0.5 + 0.4 * np.sin(6 * x)]).astype(np.float32) / 2
    large = np.clip(resize.bicubic(small, (160, 96)), 0, 1)
    same = residual(arrays.take(small), arrays.take(small))
    assert same.rms == same.peak == 0
    shifted = residual(arrays.take(small + 0.25), arrays.take(small))
    np.testing.assert_allclose([shifted.rms, shifted.peak], 0.25, rtol=1e-5)
    # Detail within an input pixel's area counts little, a changed area much.
    checks = np.indices((160, 96)).sum(0) % 2 - 0.5
    detail = np.clip(large + 0.2 * checks[..., None], 0, 1)
    spoiled = large.copy()
    spoiled[64:128, 0:64] += 0.4
    fine = residual(arrays.take(detail.astype(np.float32)), arrays.take(small))
    bad = residual(arrays.take(spoiled), arrays.take(small))
    assert bad.peak > 0.35 > 5 * fine.rms
    assert bad.map_hw[18:30, :14].mean() > 20 * bad.map_hw[36:, 18:].mean()


def test_what_is_hidden_does_not_count():
    rng = np.random.default_rng(1)
    source = rng.random((32, 32, 4), np.float32)
    source[:16, :, 3], source[16:, :, 3] = 0, 1
    changed = source.copy()
    changed[:12, :, :3] = 0.5
    assert residual(arrays.take(changed), arrays.take(source)).rms == 0


# ---- tiles, devices, huge pictures


@pytest.mark.slow
def test_tiles_strengths_and_fixes_reach_the_restorer(weights, tmp_path, capsys):
    source = save(tmp_path / "a.png", 40, 50)
    args = ("restore", "-i", source, "--weights", weights, "--report")
    tiled = ("--tile", "64", "--tile-overlap", "32", "--color-fix", "none")
    assert gendr(*args, tmp_path / "t", "-o", tmp_path / "t.png", *tiled) == 0
    assert json.loads((tmp_path / "t").read_text())["tiles"] > 6
    plain = np.clip(resize.bicubic(*enlarged(source)), 0, 1) * 255
    for name, flags in (
        ("l", ["--color-fix", "lab", "--color-fix-strength", "0.5"]),
        ("z", ["--strength", "0"]),
    ):
        assert (
            gendr(*args, tmp_path / name, "-o", tmp_path / f"{name}.png", *flags) == 0
        )
    found = {n: image_io.read(tmp_path / f"{n}.png").pixels_hwc for n in "tlz"}
    assert len({pixels.tobytes() for pixels in found.values()}) == 3
    np.testing.assert_allclose(found["z"], plain, atol=0.51)


def enlarged(source):
    pixels = image_io.read(source).pixels_hwc.astype(np.float32) / 255
    return pixels, (4 * pixels.shape[0], 4 * pixels.shape[1])


@pytest.mark.slow
def test_a_mesh_takes_many_pictures_or_one(weights, tmp_path):
    for i in range(3):
        save(tmp_path / "in" / f"{i}.png", 8 + i, 9)
    args = ("restore", "-i", tmp_path / "in", "--weights", weights)
    for name, flags in (
        ("one", []),
        ("many", ["--mesh", "data=8"]),
        ("spread", ["--mesh", "data=4,space=2"]),
    ):
        assert gendr(*args, "-o", tmp_path / name, *flags) == 0
    for i in range(3):
        one, many, spread = (
            image_io.read(tmp_path / n / f"{i}.png").pixels_hwc.astype(int)
            for n in ("one", "many", "spread")
        )
        assert np.abs(one - many).max() <= 1 and np.abs(one - spread).max() <= 1


@pytest.mark.slow
def test_huge_pictures_go_from_file_to_file(weights, tmp_path):
    source = save(tmp_path / "a.png", 40, 50, "RGBA")
    rgba = image_io.read(source)
    rgba.alpha_hw[:] = np.maximum(rgba.alpha_hw, 1)
    rgba.alpha_hw[8:20, 10:40] = 0
    image_io.write(source, rgba)
    paths = naming.PicturePaths(source, tmp_path / "o" / "a.tif", Path("a.tif"))
    restorer = Restorer.from_pretrained(weights, "float32", tile=64)
    entries = []
    for above in (10**9, 0):
        options = PictureOptions(
            Target(scale=4.0), stream_above=above, residual_map=tmp_path / f"{above}"
        )
        run.run([paths], options, lambda: restorer, lambda w: entries.append(w.entry))
        assert entries[-1]["status"] == "done", entries
        paths = naming.PicturePaths(source, tmp_path / "o" / "b.tif", Path("a.tif"))
    held, streamed = entries
    assert held["tiles"] == streamed["tiles"] > 6
    assert abs(held["residual"] - streamed["residual"]) < 1e-4
    assert abs(held["residual_peak"] - streamed["residual_peak"]) < 1e-4
    one, other = (image_io.read(tmp_path / "o" / n) for n in ("a.tif", "b.tif"))
    difference = np.abs(one.pixels_hwc.astype(int) - other.pixels_hwc)
    assert difference[one.alpha_hw > 0].max() <= 2
    assert np.abs(one.alpha_hw.astype(int) - other.alpha_hw).max() <= 1
    maps = [
        image_io.read(tmp_path / n / "a_tif.png").pixels_hwc
        for n in ("0", "1000000000")
    ]
    assert np.abs(maps[0].astype(int) - maps[1]).max() <= 1
    # Refused ones leave nothing behind.
    options = PictureOptions(
        Target(scale=4.0), stream_above=0, max_residual=1e-5, refuse=True
    )
    paths = naming.PicturePaths(source, tmp_path / "p" / "c.tif", Path("c.tif"))
    run.run([paths], options, lambda: restorer, lambda w: entries.append(w.entry))
    assert "--max-residual" in entries[-1]["error"] and not os.listdir(tmp_path / "p")


# ---- before any weight is read


def test_a_dry_run_needs_no_weights(weights, tmp_path, capsys):
    bare = tmp_path / "w"
    bare.mkdir()
    (bare / "gendr.json").write_bytes((weights / "gendr.json").read_bytes())
    save(tmp_path / "in" / "a.png", 60, 70)
    save(tmp_path / "in" / "b.jpg", 300, 200)
    (tmp_path / "in" / "c.png").write_text("hello")
    args = ("restore", "-i", tmp_path / "in", "-o", tmp_path / "o", "--weights", bare)
    flags = ("--dry-run", "--longest-side", "600", "--tile", "256")
    assert gendr(*args, *flags, "--report", tmp_path / "r.jsonl") == 1
    told = capsys.readouterr()
    assert (
        "c.png is not a supported image file" in told.err and "2 of 3 to do" in told.out
    )
    first, second, third = map(
        json.loads, (tmp_path / "r.jsonl").read_text().splitlines()
    )
    assert (first["width"], first["height"]) == (600, 514)
    assert (second["width"], second["height"]) == (400, 600)
    assert first["status"] == "planned" and third["status"] == "failed"
    for entry in (first, second):
        assert entry["tiles"] > 1 and entry["flops"] > 1e8
        assert entry["peak_bytes"] > 1e6 and entry["expected_seconds"] > 0
    assert not (tmp_path / "o").exists()


def test_a_dry_run_fails_what_the_run_would(weights, tmp_path, capsys):
    deep = np.zeros((6, 7, 3), np.uint16)
    image_io.write(tmp_path / "deep.png", image_io.Image(deep))
    save(tmp_path / "a.png", 60, 70)
    for flags, message in (
        (["-i", tmp_path / "deep.png", "--ext", "jpg"], "JPEG cannot hold 16 bits"),
        (["-i", tmp_path / "a.png", "-t", "0", "--max-pixels", "9"], "one pass is 9"),
        (["-i", tmp_path / "deep.png", "--batch", "0"], "--batch is 0"),
    ):
        for more in ([], ["--dry-run"]):
            args = ("-o", tmp_path / "o", "--weights", weights, *flags, *more)
            assert gendr("restore", *args) > 0
            assert message in capsys.readouterr().err
    # Opaque alpha is left out of a JPEG, so the header is no reason to refuse.
    save(tmp_path / "alpha.png", mode="RGBA")
    args = ("-i", tmp_path / "alpha.png", "-o", tmp_path / "o.jpg", "--dry-run")
    assert gendr("restore", *args, "--weights", weights) == 0


# ---- batches and failures


class Recorder:
    """Stands for a restorer of several devices; fails on demand."""

    batch_size = 3

    def __init__(self, poison=None):
        self.batches, self.poison = [], poison

    def layout(self, height, width):
        return tiling.one_pass(height, width, 64)

    def restore(self, images, scale, progress=None):
        self.batches.append(len(images))
        self.last = [self.layout(*x.pixels_hwc.shape[:2]) for x in images]
        shown = [int(image.pixels_hwc[0, 0, 0]) for image in images]
        if self.poison in shown:
            raise InputError(f"picture {self.poison} is poison. Leave it out.")
        return images


def run_all(tmp_path, restorer, sizes):
    todo = []
    for i, size in enumerate(sizes):
        path = tmp_path / f"{i}.png"
        Pil.fromarray(np.full((*size, 3), i, np.uint8)).save(path)
        todo.append(
            naming.PicturePaths(path, tmp_path / "o" / path.name, Path(path.name))
        )
    told = []
    options = PictureOptions(Target(scale=1.0))
    run.run(todo, options, lambda: restorer, lambda w: told.append(w.entry))
    return told


def test_pictures_of_one_size_go_together(tmp_path):
    restorer = Recorder()
    told = run_all(tmp_path, restorer, [(4, 4)] * 5 + [(5, 4)] * 4)
    # The first opens the restorer, whose batch size is unknown until then.
    assert restorer.batches == [1, 3, 1, 3, 1]
    assert [entry["status"] for entry in told] == ["done"] * 9
    for i, entry in enumerate(told):  # in order, each its own
        assert Path(entry["output"]).name == f"{i}.png"
        assert image_io.read(entry["output"]).pixels_hwc[0, 0, 0] == i


def test_one_bad_picture_costs_its_batch_nothing(tmp_path):
    told = run_all(tmp_path, Recorder(poison=2), [(4, 4)] * 5)
    status = [entry["status"] for entry in told]
    assert status == ["done", "done", "failed", "done", "done"]
    assert "picture 2 is poison" in told[2]["error"]


def test_what_cannot_be_written_is_said_before_restoring(weights, tmp_path, capsys):
    source = save(tmp_path / "a.png", mode="RGBA")
    restored = ("-i", source, "-o", tmp_path / "b.jpg", "--weights", "nowhere")
    assert gendr("restore", *restored) == 1
    assert "JPEG cannot hold transparency" in capsys.readouterr().err


def test_bombs_pass_where_the_limit_is_raised(weights, tmp_path, capsys):
    source = save(tmp_path / "a.png", 20, 30)
    args = ("-i", source, "-o", tmp_path / "o", "--weights", weights, "-s", "1")
    assert gendr("restore", *args, "--max-input-pixels", "599") == 1
    assert "raise --max-input-pixels" in capsys.readouterr().err
    assert gendr("restore", *args, "--max-input-pixels", "600") == 0


def test_libvips_logs_nothing_on_the_terminal(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("pyvips"), "level", logging.NOTSET)
    save(tmp_path / "a.jpg", 400, 400)
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    common.silence_libraries()
    with pytest.raises(InputError, match="damaged or truncated"):
        image_io.read(tmp_path / "a.jpg")
    logging.getLogger("pyvips").warning("VIPS: error in tile 0 x 0")
    assert not caplog.records


def test_metadata_stays_or_goes(weights, tmp_path):
    exif = Pil.Exif()
    exif[0x010E] = "a photograph"
    source = tmp_path / "a.jpg"
    Pil.new("RGB", (5, 5), "teal").save(source, exif=exif)
    for name, flags in (("k.jpg", []), ("s.jpg", ["--strip-metadata"])):
        args = ("-i", source, "-o", tmp_path / name, "--weights", weights)
        assert gendr("restore", *args, *flags) == 0
        with Pil.open(tmp_path / name) as image:
            assert image.getexif().get(0x010E) == (None if flags else "a photograph")


@pytest.mark.slow
def test_the_keyboard_leaves_whole_files_only(weights, tmp_path):
    for i in range(300):  # more than are done before the signal is sent
        save(tmp_path / "in" / f"{i:03}.png", 60, 60)
    args = ("-i", tmp_path / "in", "-o", tmp_path / "o", "--weights", weights)
    # Behind a shell's "&" the signal is ignored, and by children as well.
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "gendr_jax.cli.main", "restore", *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, kept)
    end = time.monotonic() + 200
    while not list((tmp_path / "o").glob("*.png")) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130
    assert errors == (
        "gendr: error: stopped by Ctrl-C. Start the same command again with "
        "--skip-existing.\n"
    )
    left = sorted(os.listdir(tmp_path / "o"))
    assert 0 < len(left) < 300
    for name in left:
        assert image_io.read(tmp_path / "o" / name).pixels_hwc.shape == (240, 240, 3)
