"""Colours stated without a profile, and profiles of grey: converted, kept, refused."""

import io
import struct
import zlib

import numpy as np
import pytest
import pyvips
from PIL import Image as Pil

from gendr_jax import image_io
from gendr_jax.errors import InputError
from gendr_jax.image_io import Image, icc, profiles, stated_colours
from gendr_jax.image_io.icc import SRGB_CURVE, SRGB_PRIMARIES, Curve
from gendr_jax.image_io.metadata import trees
from gendr_jax.image_io.metadata.trees import Value
from gendr_jax.restore.folders import comparisons

RNG = np.random.default_rng(0)
# Dark levels of linear light are far apart.
RGB = RNG.integers(32, 256, (8, 12, 3), np.uint8)
P3_CHRM = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
P3 = profiles.builtin("p3")


def chunk(name, data):
    crc = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + crc


def png(path, *chunks, pixels=RGB, **options):
    """A PNG with these chunks behind its header."""
    buffer = io.BytesIO()
    Pil.fromarray(pixels).save(buffer, "PNG", **options)
    data = buffer.getvalue()
    path.write_bytes(data[:33] + b"".join(chunk(*c) for c in chunks) + data[33:])
    return path


def avif(path, primaries, transfer):
    buffer = io.BytesIO()
    Pil.fromarray(RGB).save(buffer, "AVIF", quality=100, subsampling="4:4:4")
    data = bytearray(buffer.getvalue())
    at = data.find(b"nclx")
    data[at + 4 : at + 8] = struct.pack(">HH", primaries, transfer)
    path.write_bytes(data)
    return path


def in_srgb(pixels, profile):
    """Levels of 255 by Little CMS, in 16 bits."""
    given = pyvips.Image.new_from_array(pixels, interpretation="srgb")
    given = profiles.fields(given, icc_profile=profile)
    options = {"embedded": True, "intent": "relative", "depth": 16}
    return given.icc_transform("srgb", **options).numpy() / 257


def shown(path):
    """What a viewer that heeds profiles shows."""
    with Pil.open(path) as image:
        return in_srgb(np.asarray(image.convert("RGB")), image.info["icc_profile"])


def test_profiles_of_primaries_say_what_the_usual_ones_say():
    colours = RNG.integers(32, 224, (40, 40, 3), np.uint8)
    for name, codes in (("srgb", 1), ("p3", 12)):
        primaries = stated_colours.PRIMARIES[codes]
        made = icc.profile("made", primaries, SRGB_CURVE)
        difference = in_srgb(colours, made) - in_srgb(colours, profiles.builtin(name))
        assert np.abs(difference).max() <= 4  # their curves have few points
    linear = icc.profile("linear", SRGB_PRIMARIES, Curve(1.0))
    grey = np.full((1, 1, 3), 55, np.uint8)  # 0.2157 of light is 0.502 of sRGB
    assert np.abs(in_srgb(grey, linear) - 128).max() <= 1


@pytest.mark.parametrize(
    ("chunks", "wanted"),
    [
        ([(b"cICP", bytes([12, 13, 0, 1]))], P3),
        ([(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", P3_CHRM)], P3),
        ([(b"cHRM", P3_CHRM)], P3),
        ([(b"sRGB", b"\0")], profiles.builtin("srgb")),
        ([(b"gAMA", struct.pack(">I", 45455))], profiles.builtin("srgb")),
        ([(b"gAMA", struct.pack(">I", 100_000))], None),
        ([(b"cICP", bytes([9, 1, 0, 1]))], None),
        ([(b"sRGB", b"\0"), (b"cICP", bytes([12, 13, 0, 1]))], P3),
    ],
)
def test_what_png_states_is_seen_and_carried_on(tmp_path, chunks, wanted):
    image = image_io.read(png(tmp_path / "a.png", *chunks))
    assert image.icc is not None and (wanted is None or image.icc == wanted)
    for name in ("b.png", "b.webp", "b.tif"):
        image_io.write(tmp_path / name, image)
        difference = shown(tmp_path / name) - in_srgb(RGB, image.icc)
        assert np.abs(difference).max() <= 4  # in levels, where gamuts clip
    image_io.write(tmp_path / "c.png", image, metadata=False)
    plain = np.asarray(Pil.open(tmp_path / "c.png")).astype(int)
    assert np.abs(plain - in_srgb(RGB, image.icc)).max() <= 4


def test_wide_colours_keep_the_depth_of_their_file(tmp_path):
    image = image_io.read(png(tmp_path / "a.png", (b"cICP", bytes([12, 13, 0, 1]))))
    for name in ("b.png", "b.tif"):
        image_io.write(tmp_path / name, image)
        assert image_io.read(tmp_path / name).bits == 8


def test_an_embedded_profile_goes_before_all_but_cicp(tmp_path):
    adobe = icc.profile("Adobe", stated_colours.ADOBE, Curve(2.2))
    gama = (b"gAMA", struct.pack(">I", 100_000))
    png(tmp_path / "a.png", gama, icc_profile=adobe)
    assert image_io.read(tmp_path / "a.png").icc == adobe
    png(tmp_path / "a.png", (b"cICP", bytes([12, 13, 0, 1])), icc_profile=adobe)
    assert image_io.read(tmp_path / "a.png").icc == P3


@pytest.mark.parametrize("transfer", [16, 18])
def test_high_range_is_refused_by_name(tmp_path, transfer):
    name = {16: "PQ", 18: "HLG"}[transfer]
    files = [avif(tmp_path / "a.avif", 9, transfer)]
    files.append(png(tmp_path / "a.png", (b"cICP", bytes([9, transfer, 0, 1]))))
    tagged = bytearray(icc.profile("bright", SRGB_PRIMARIES, Curve(2.2)))
    at = len(tagged)
    tagged += b"cicp\0\0\0\0" + bytes([9, transfer, 0, 1])
    tagged[132:144] = struct.pack(">4sII", b"cicp", at, 12)
    tagged[:4] = struct.pack(">I", len(tagged))
    files.append(tmp_path / "b.jpg")
    Pil.fromarray(RGB).save(files[-1], icc_profile=bytes(tagged))
    for path in files:
        with pytest.raises(
            InputError, match=rf"HDR picture \({name}\).*Export it as SDR"
        ):
            image_io.read(path)
        with pytest.raises(InputError, match="HDR"):
            image_io.probe(path)


def test_codes_that_are_not_known_are_refused(tmp_path):
    with pytest.raises(InputError, match="primaries 10 and transfer 13"):
        image_io.read(png(tmp_path / "a.png", (b"cICP", bytes([10, 13, 0, 1]))))
    with pytest.raises(InputError, match="narrow-range"):
        image_io.read(png(tmp_path / "a.png", (b"cICP", bytes([1, 13, 0, 0]))))
    unspecified = png(tmp_path / "a.png", (b"cICP", bytes([2, 2, 0, 1])))
    assert image_io.read(unspecified).icc is None


@pytest.mark.parametrize(
    ("codes", "wanted"), [((12, 13), P3), ((1, 13), profiles.builtin("srgb"))]
)
def test_what_avif_states_is_carried_on(tmp_path, codes, wanted):
    image = image_io.read(avif(tmp_path / "a.avif", *codes))
    assert image.icc == wanted and image.space == ("p3" if wanted == P3 else "file")


@pytest.mark.parametrize("way", ["ColorSpace", "interoperability"])
def test_adobe_rgb_by_exif(tmp_path, way):
    space = 2 if way == "ColorSpace" else 0xFFFF
    fields = [Value(0xA001, 3, 1, struct.pack("<H", space))]
    if way != "ColorSpace":
        fields.append(Value(0xA005, 4, 1, b"", (Value(1, 2, 4, b"R03\0"),)))
    block = trees.block([Value(trees.EXIF, 4, 1, b"", tuple(fields))])
    Pil.fromarray(RGB).save(tmp_path / "a.png", exif=b"Exif\0\0" + block)
    image = image_io.read(tmp_path / "a.png")
    assert image.space == "p3" and b"A\0d\0o\0b\0e" in image.icc


def test_primaries_of_tiff(tmp_path):
    import tifffile

    white = (3127, 10000, 3290, 10000)
    points = (68, 100, 32, 100, 265, 1000, 69, 100, 15, 100, 6, 100)
    tags = [(318, 5, 2, white, True), (319, 5, 6, points, True)]
    tifffile.imwrite(
        tmp_path / "a.tif", RGB, photometric="rgb", metadata=None, extratags=tags
    )
    image = image_io.read(tmp_path / "a.tif")
    assert image.space == "p3" and image.icc is not None


# ---- grey

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
LINEAR = icc.grey_profile("linear", Curve(1.0))


def light(levels):
    """Light of sRGB levels 0 to 255."""
    x = levels / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def test_grey_profiles_are_passed_on_where_they_can_be(tmp_path):
    for name in ("a.png", "a.jpg", "a.tif"):
        image_io.write(tmp_path / name, Image(GREY, icc=LINEAR))
        back = image_io.read(tmp_path / name)
        assert back.icc == LINEAR
        assert np.abs(back.pixels_hwc.astype(int) - GREY).max() <= 3


@pytest.mark.parametrize("alpha", [None, np.full((16, 16), 200, np.uint8)])
def test_grey_profiles_are_converted_where_there_is_none(tmp_path, alpha):
    image = Image(GREY, alpha, icc=LINEAR)
    image_io.write(tmp_path / "a.png", image, metadata=False)
    image_io.write(tmp_path / "a.webp", image)
    for name in ("a.png", "a.webp"):
        back = image_io.read(tmp_path / name)
        assert back.icc is None
        found = light(back.pixels_hwc[..., 0].astype(float))
        np.testing.assert_allclose(found, GREY[..., 0] / 255, atol=0.005)
        if alpha is not None:
            np.testing.assert_array_equal(back.alpha_hw, alpha)


def test_grey_of_sixteen_bits_is_converted(tmp_path):
    deep = (GREY.astype(np.uint16) * 257).repeat(2, 1)
    image_io.write(tmp_path / "a.png", Image(deep, icc=LINEAR), metadata=False)
    back = image_io.read(tmp_path / "a.png")
    assert back.pixels_hwc.dtype == np.uint16 and back.icc is None
    found = light(back.pixels_hwc / 257.0)
    np.testing.assert_allclose(found, deep / 65535, atol=0.001)


def test_gamma_of_a_grey_png_is_a_grey_profile(tmp_path):
    gama = (b"gAMA", struct.pack(">I", 100_000))
    image = image_io.read(png(tmp_path / "a.png", gama, pixels=GREY[..., 0]))
    assert image.icc == icc.grey_profile("gAMA and cHRM", Curve(1.0))
    usual = (b"gAMA", struct.pack(">I", 45455))
    assert (
        image_io.read(png(tmp_path / "a.png", usual, pixels=GREY[..., 0])).icc is None
    )


@pytest.mark.parametrize("layout", ["side", "split"])
def test_grey_profiles_are_converted_in_comparisons(tmp_path, layout):
    image = Image(GREY, icc=LINEAR)
    comparisons.compare(image, image, tmp_path / "c.png", layout)
    back = image_io.read(tmp_path / "c.png")
    assert back.icc is None
    found = light(back.pixels_hwc[18 : 18 + 16, :7, 0].astype(float))
    np.testing.assert_allclose(found, GREY[:, :7, 0] / 255, atol=0.005)
