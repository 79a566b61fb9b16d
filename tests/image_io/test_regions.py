"""image_io/regions.py: regions equal the whole, rasters, files that stream."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil
from scipy import ndimage

from gendr_jax import image_io
from gendr_jax.errors import InputError
from gendr_jax.image_io import Image, arrays
from gendr_jax.image_io.regions import Raster, Reader, finish

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(0)
RGBA = RNG.integers(0, 256, (70, 90, 4), np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.bmp"])
def test_regions_are_those_of_the_whole(tmp_path, name):
    exif = Pil.Exif()
    exif[0x0112] = 6
    keep = {} if name == "a.bmp" else {"exif": exif}
    mode = "RGB" if name in ("a.jpg", "a.bmp") else "RGBA"
    Pil.fromarray(RGBA).convert(mode).save(tmp_path / name, **keep)
    whole, reader = image_io.read(tmp_path / name), Reader(tmp_path / name)
    height, width = (reader.header.height, reader.header.width)
    assert (height, width) == ((70, 90) if name == "a.bmp" else (90, 70))
    assert reader.header.alpha == (mode == "RGBA")
    for top, left, h, w in ((0, 0, height, width), (60, 50, 10, 20), (3, 5, 1, 1)):
        part = reader.read(top, left, h, w)
        box = (slice(top, top + h), slice(left, left + w))
        seen = np.s_[:] if mode == "RGB" else part.alpha_hw > 0
        np.testing.assert_array_equal(
            part.pixels_hwc[seen], whole.pixels_hwc[box][seen]
        )
        if mode == "RGBA":
            np.testing.assert_array_equal(part.alpha_hw, whole.alpha_hw[box])
    assert part.exif == whole.exif
    with pytest.raises(ValueError, match="leaves the picture"):
        reader.read(0, 0, height + 1, 1)


def test_all_regions_fill_what_is_hidden_alike(tmp_path):
    rgba = np.add.outer(np.arange(150), np.arange(130))[..., None] // np.arange(2, 6)
    rgba = rgba.astype(np.uint8)
    rgba[..., 3] = 255 * (np.hypot(*np.mgrid[-75:75, -65:65]) < 60)
    Pil.fromarray(rgba).save(tmp_path / "a.png")
    reader = Reader(tmp_path / "a.png")
    whole, _ = arrays.to_unit(image_io.read(tmp_path / "a.png"))
    first, _ = arrays.to_unit(reader.read(0, 0, 150, 130))
    np.testing.assert_allclose(first, whole, atol=0.51 / 255)
    for top, left in ((1, 3), (30, 64), (77, 35)):
        part, _ = arrays.to_unit(reader.read(top, left, 61, 50))
        near = reader.read(top, left, 61, 50).alpha_hw
        near = ndimage.binary_dilation(near > 0, iterations=2)
        inside = whole[top : top + 61, left : left + 50]
        np.testing.assert_allclose(part[near], inside[near], atol=0.03)


def test_damage_shows_when_a_region_is_read(tmp_path):
    path = tmp_path / "a.png"
    Pil.fromarray(RGBA).save(path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(InputError, match="a.png is damaged"):
        Reader(path).read(60, 0, 10, 10)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_raster_is_an_array_on_disk(tmp_path, dtype):
    expected = np.zeros((9, 11, 3), dtype)
    with Raster(9, 11, 3, dtype, folder=tmp_path) as raster:
        for top, left, h, w in ((0, 0, 9, 11), (4, 5, 5, 6), (2, 0, 3, 11)):
            block = (RNG.random((h, w, 3)) * 200).astype(dtype)
            expected[top : top + h, left : left + w] = block
            raster.write(top, left, block)
        np.testing.assert_array_equal(raster.read(0, 0, 9, 11), expected)
        np.testing.assert_array_equal(raster.read(3, 2, 4, 5), expected[3:7, 2:7])
        with pytest.raises(ValueError, match="leaves"):
            raster.write(5, 0, expected)
        # Where a file can do without a name, a killed process leaves none.
        nameless = Path("/proc/self/fd").is_dir()
        assert len(os.listdir(tmp_path)) == (0 if nameless else 1)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["b.png", "b.tif", "b.webp"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_finished_raster_is_what_write_writes(tmp_path, name, channels):
    deep = name != "b.webp"
    pixels = RGBA[..., :channels].astype(np.uint16 if deep else np.uint8)
    pixels = pixels * (257 if deep else 1)
    colours = pixels[..., :-1] if channels in (2, 4) else pixels
    alpha = pixels[..., -1] if channels in (2, 4) else None
    like = Image(colours, alpha)
    with Raster(*pixels.shape, pixels.dtype, folder=tmp_path) as raster:
        raster.write(0, 0, pixels)
        finish(raster, tmp_path / name, like)
    back = image_io.read(tmp_path / name)
    # WebP has no grey.
    np.testing.assert_array_equal(back.pixels_hwc[..., : colours.shape[2]], colours)
    if alpha is not None:
        np.testing.assert_array_equal(back.alpha_hw, alpha)
    assert os.listdir(tmp_path) == [name]


PROGRAM = r"""
import re, sys, threading, time
import numpy as np
from gendr_jax.image_io import Image
from gendr_jax.image_io.regions import Raster, Reader, finish

def held():  # without pages of files, which the system takes back when it needs them
    return int(re.search(r"RssAnon:\s+(\d+)", open("/proc/self/status").read())[1])

seen = []
def watch():
    while True:
        seen.append(held())
        time.sleep(0.005)

side, path = 6000, sys.argv[1] + "/big.tif"
before = held()
threading.Thread(target=watch, daemon=True).start()
like = Image(np.empty((0, 0, 3), np.uint16))
with Raster(side, side, 3, np.uint16, folder=sys.argv[1]) as raster:
    band = np.arange(side * 3, dtype=np.uint16).reshape(1, side, 3)
    for top in range(0, side, 100):
        raster.write(top, 0, np.broadcast_to(band + top, (100, side, 3)))
    finish(raster, path, like)
reader = Reader(path)
for top in range(0, side, 500):
    part = reader.read(top, 100, 100, side - 100).pixels_hwc
    assert (part == band[:, 100:] + top).all(), top
print(max(seen) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_stays_far_below_the_picture(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    picture = 6000 * 6000 * 3 * 2 / 1024
    assert int(done.stdout) < picture / 2, done.stdout
