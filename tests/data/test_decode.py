"""Training data is read by the rules by which `gendr restore` reads its input."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms

from gendr_jax import image_io
from gendr_jax.data import decode
from gendr_jax.errors import InputError
from gendr_jax.image_io import icc, profiles, stated_colours
from gendr_jax.image_io.icc import Curve
from tests.helpers.bad_files import cmyk, encode, picture

SRGB = ImageCms.createProfile("sRGB")
P3 = profiles.builtin("p3")
MUTED = picture() // 4 + 96  # inside every gamut
ADOBE = icc.profile("Adobe", stated_colours.ADOBE, Curve(563 / 256))


def exif(**tags):
    block = Image.Exif()
    block[0x0112] = tags.get("orientation", 1)
    block.get_ifd(0x8769)[0xA001] = tags.get("space", 1)  # ColorSpace, 2: Adobe RGB
    return block


def converted(image, profile):
    """By Pillow's Little CMS rather than libvips'."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return np.asarray(
        ImageCms.profileToProfile(image, source, SRGB, intent, outputMode="RGB")
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True, "subsampling": 0},
        {"icc_profile": profiles.builtin("srgb")},
        {"icc_profile": b"no profile"},
        {"exif": exif(orientation=6)},
    ],
    ids=["plain", "progressive", "srgb", "damaged profile", "turned"],
)
def test_plain_jpeg_by_pillow_has_the_pixels_of_image_io(
    tmp_path, monkeypatch, channels, options
):
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(picture(channels), "JPEG", **options))
    wanted = profiles.srgb_8(image_io.read(path))
    monkeypatch.setattr(image_io, "read", None)  # the short way is taken
    np.testing.assert_array_equal(decode.read(path), wanted)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("profile", [P3, ADOBE], ids=["p3", "adobe"])
def test_wide_colours_become_srgb(kind, profile):
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    data = encode(MUTED, kind, icc_profile=profile, **options)
    got = decode.read_bytes(data, "a")
    with Image.open(io.BytesIO(data)) as image:
        plain, wanted = np.asarray(image.convert("RGB")), converted(image, profile)
    assert np.abs(got.astype(int) - wanted).max() <= 2
    assert np.abs(got.astype(int) - plain).max() > 5


def test_adobe_rgb_that_exif_states_is_heeded():
    data = encode(MUTED, "JPEG", exif=exif(space=2))
    plain = encode(MUTED, "JPEG")
    with Image.open(io.BytesIO(data)) as image:
        wanted = converted(image, ADOBE)
    got = decode.read_bytes(data, "a").astype(int)
    assert np.abs(got - wanted).max() <= 2
    assert np.abs(got - decode.read_bytes(plain, "b")).max() > 5


def test_cmyk_with_a_profile_is_converted_as_by_restore(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(cmyk(quality=95, icc_profile=profiles.builtin("cmyk")))
    got = decode.read(path)
    np.testing.assert_array_equal(got, image_io.read(path).pixels_hwc)
    with Image.open(path) as image:
        wanted = converted(image, profiles.builtin("cmyk"))
    assert np.abs(got.astype(int) - wanted).max() <= 3
    assert decode.read_size(path) == got.shape[:2]


def test_a_profile_of_other_inks_is_refused():
    data = encode(picture(), "JPEG", icc_profile=profiles.builtin("cmyk"))
    message = "^a: its ICC profile is CMYK, its pixels are RGB$"
    with pytest.raises(InputError, match=message):
        decode.read_bytes(data, "a")


def test_grey_profiles_are_applied():
    profile = icc.grey_profile("linear", Curve(1.0))
    data = encode(np.full((4, 5), 55, np.uint8), "PNG", icc_profile=profile)
    got = decode.read_bytes(data, "a")  # 0.2157 of light is 0.502 of sRGB
    assert got.shape == (4, 5, 3) and np.abs(got.astype(int) - 128).max() <= 1


def test_no_jax_of_our_own_is_imported():
    code = (
        "import sys, gendr_jax.data.decode; "
        "print([n for n in sys.modules if n.split('.')[0] == 'jax'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
