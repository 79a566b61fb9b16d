"""Directories of TIFF files: the full picture is read, raw data is refused."""

import numpy as np
import pytest
import tifffile

from gendr_jax import image_io
from gendr_jax.errors import InputError

RNG = np.random.default_rng(0)
SMALL = RNG.integers(0, 256, (8, 12, 3), np.uint8)
FULL = RNG.integers(0, 256, (64, 96, 3), np.uint8)


@pytest.mark.parametrize("big", [False, True])
def test_the_picture_in_a_sub_directory_is_read(tmp_path, big):
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=big) as file:
        file.write(SMALL, photometric="rgb", subfiletype=1, subifds=1, metadata=None)
        file.write(FULL, photometric="rgb", subfiletype=0, metadata=None)
    read = image_io.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(read.pixels_hwc, FULL)
    assert image_io.probe(tmp_path / "a.tif").width == 96


@pytest.mark.parametrize("first", ["copy", "picture"])
def test_reduced_copies_on_other_pages_do_not_count(tmp_path, first):
    both = [(SMALL, 1), (FULL, 0)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for pixels, kind in both if first == "copy" else both[::-1]:
            file.write(pixels, photometric="rgb", subfiletype=kind, metadata=None)
    np.testing.assert_array_equal(image_io.read(tmp_path / "a.tif").pixels_hwc, FULL)


@pytest.mark.parametrize("name", ["a.dng", "a.nef", "a.tif"])
def test_raw_data_is_refused_by_name(tmp_path, name):
    mosaic = RNG.integers(0, 4096, (64, 96)).astype(np.uint16)
    pattern = [(33421, "H", 2, (2, 2), True), (33422, "B", 4, (0, 1, 1, 2), True)]
    with tifffile.TiffWriter(tmp_path / name) as file:
        file.write(SMALL, photometric="rgb", subfiletype=1, subifds=1, metadata=None)
        file.write(mosaic, photometric=32803, extratags=pattern, metadata=None)
    with pytest.raises(InputError, match="camera raw file.*Develop it"):
        image_io.read(tmp_path / name)


def test_a_channel_without_a_meaning_is_no_opacity(tmp_path):
    mask = np.zeros((*FULL.shape[:2], 1), np.uint8)
    pixels = np.concatenate([FULL, mask], axis=-1)
    for meaning, opaque in (("unspecified", True), ("unassalpha", False)):
        tifffile.imwrite(
            tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=[meaning]
        )
        read = image_io.read(tmp_path / "a.tif")
        np.testing.assert_array_equal(read.pixels_hwc, FULL)
        assert (read.alpha_hw is None) == opaque


def test_opacity_among_other_channels_is_kept(tmp_path):
    alpha = RNG.integers(0, 256, (*FULL.shape[:2], 1), np.uint8)
    pixels = np.concatenate([FULL, np.zeros_like(alpha), alpha], axis=-1)
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels,
        photometric="rgb",
        extrasamples=["unspecified", "unassalpha"],
    )
    read = image_io.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(read.pixels_hwc, FULL)
    np.testing.assert_array_equal(read.alpha_hw, alpha[..., 0])
