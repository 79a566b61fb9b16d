"""image_io.py: what is read, what is refused, what survives a round trip."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image as Pil
from PIL import ImageCms
from PIL.PngImagePlugin import PngInfo

from gendr_jax import image_io
from gendr_jax.errors import InputError
from gendr_jax.image_io import Image, profiles, writing

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)
ALPHA = RNG.integers(0, 256, (6, 9), np.uint8)
GREY16 = RNG.integers(0, 65536, (6, 9, 1), np.uint16)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTATION, DATE, EXIF_IFD, PIXEL_X = 0x0112, 0x0132, 0x8769, 0xA002


def png16(path, channels):
    """A 16-bit PNG of any colour type, which Pillow cannot write."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = RNG.integers(0, 65536, (4, 5 * channels)).astype(">u2")
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", 5, 4, 16, kind, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, part in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b"")):
        crc = zlib.crc32(name + part)
        data += struct.pack(">I", len(part)) + name + part + struct.pack(">I", crc)
    path.write_bytes(data)
    return rows.astype(np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".tiff"])
@pytest.mark.parametrize("alpha", [None, ALPHA])
def test_lossless_round_trip(tmp_path, suffix, alpha):
    path = tmp_path / f"a{suffix}"
    image_io.write(path, Image(RGB, alpha, icc=PROFILE))
    back = image_io.read(path)
    if alpha is None:
        assert back.alpha_hw is None
    else:
        np.testing.assert_array_equal(back.alpha_hw, alpha)
    np.testing.assert_array_equal(back.pixels_hwc, RGB)
    assert back.icc == PROFILE
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_of_8_and_16_bits(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    for pixels in (RGB[..., :1], GREY16):
        image_io.write(path, Image(pixels))
        back = image_io.read(path)
        assert back.pixels_hwc.dtype == pixels.dtype
        np.testing.assert_array_equal(back.pixels_hwc, pixels)


def test_jpeg_is_close_and_keeps_the_profile(tmp_path):
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    image_io.write(tmp_path / "a.jpg", Image(smooth, icc=PROFILE))
    back = image_io.read(tmp_path / "a.jpg")
    assert np.abs(back.pixels_hwc.astype(int) - smooth).mean() < 2
    assert back.icc == PROFILE


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(tmp_path, orientation):
    exif = Pil.Exif()
    exif[ORIENTATION], exif[DATE] = orientation, "2024:01:02 03:04:05"
    Pil.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    image = image_io.read(tmp_path / "a.png")
    expected = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1),
        7: RGB[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(RGB, 1),
    }[orientation]
    np.testing.assert_array_equal(image.pixels_hwc, expected)
    image_io.write(tmp_path / "b.png", image)
    with Pil.open(tmp_path / "b.png") as written:
        tags = written.getexif()
        assert tags.get(ORIENTATION, 1) == 1 and tags[DATE] == "2024:01:02 03:04:05"
    again = image_io.read(tmp_path / "b.png")
    np.testing.assert_array_equal(again.pixels_hwc, expected)


def test_exif_states_the_new_size_and_metadata_can_be_left_out(tmp_path):
    exif = Pil.Exif()
    exif.get_ifd(EXIF_IFD)[PIXEL_X] = 9
    Pil.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif, icc_profile=PROFILE)
    image = image_io.read(tmp_path / "a.jpg")
    larger = Image(np.repeat(image.pixels_hwc, 2, 1), None, image.icc, image.exif)
    image_io.write(tmp_path / "b.jpg", larger)
    with Pil.open(tmp_path / "b.jpg") as written:
        assert written.getexif().get_ifd(EXIF_IFD)[PIXEL_X] == 18
    image_io.write(tmp_path / "c.jpg", larger, metadata=False)
    with Pil.open(tmp_path / "c.jpg") as written:
        assert "icc_profile" not in written.info and not len(written.getexif())


@pytest.mark.parametrize(
    ("mode", "channels", "clear"),
    [("1", 1, False), ("L", 1, False), ("LA", 1, True), ("P", 3, False)],
)
def test_other_modes(tmp_path, mode, channels, clear):
    source = Pil.fromarray(RGB).convert(mode)
    source.save(tmp_path / "a.png")
    image = image_io.read(tmp_path / "a.png")
    assert image.pixels_hwc.shape == (6, 9, channels)
    assert (image.alpha_hw is not None) == clear
    plain = {"1": "L", "L": "L", "LA": "L", "P": "RGB"}[mode]
    expected = np.asarray(source.convert(plain)).reshape(6, 9, channels)
    np.testing.assert_array_equal(image.pixels_hwc, expected)


def test_transparent_colour_of_palette_and_rgb(tmp_path):
    palette = Pil.fromarray(RGB).quantize(8)
    palette.save(tmp_path / "p.png", transparency=0)
    clear = np.asarray(palette) == 0
    image = image_io.read(tmp_path / "p.png")
    assert clear.any()
    np.testing.assert_array_equal(image.alpha_hw == 0, clear)
    Pil.fromarray(RGB).save(tmp_path / "t.png", transparency=tuple(RGB[0, 0].tolist()))
    assert image_io.read(tmp_path / "t.png").alpha_hw[0, 0] == 0


def test_sixteen_bit_grey_png_keeps_its_levels(tmp_path):
    rows = png16(tmp_path / "a.png", 1)
    image = image_io.read(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels_hwc[..., 0], rows)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bit_colour_and_alpha_keep_their_levels(tmp_path, channels):
    rows = png16(tmp_path / "a.png", channels).reshape(4, 5, channels)
    image = image_io.read(tmp_path / "a.png")
    clear = channels in (2, 4)
    colours = rows[..., :-1] if clear else rows
    np.testing.assert_array_equal(image.pixels_hwc, colours)
    assert (image.alpha_hw is not None) == clear
    for name in ("b.png", "b.tif"):
        image_io.write(tmp_path / name, image)
        back = image_io.read(tmp_path / name)
        assert back.pixels_hwc.dtype == np.uint16
        np.testing.assert_array_equal(back.pixels_hwc, colours)
        if clear:
            np.testing.assert_array_equal(back.alpha_hw, rows[..., -1])


def test_sixteen_bit_tiff_of_another_library(tmp_path):
    pixels = RNG.integers(0, 65536, (6, 9, 3), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    np.testing.assert_array_equal(image_io.read(tmp_path / "a.tif").pixels_hwc, pixels)
    image_io.write(tmp_path / "b.tif", Image(pixels))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), pixels)


def test_floats_and_deep_ppm_are_refused(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6 2 2 65535\n" + bytes(24))
    with pytest.raises(InputError, match="more than 8 bits"):
        image_io.read(tmp_path / "a.ppm")
    Pil.fromarray(RNG.random((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(InputError, match="range is unknown"):
        image_io.read(tmp_path / "f.tif")


def test_negative_grey_is_turned(tmp_path):
    tifffile.imwrite(tmp_path / "n.tif", GREY16[..., 0], photometric="miniswhite")
    image = image_io.read(tmp_path / "n.tif")
    np.testing.assert_array_equal(65535 - image.pixels_hwc, GREY16)


def test_eight_bit_ppm_is_read(tmp_path):
    Pil.fromarray(RGB).save(tmp_path / "a.ppm")
    np.testing.assert_array_equal(image_io.read(tmp_path / "a.ppm").pixels_hwc, RGB)


def test_animations_and_other_formats_are_refused(tmp_path):
    frames = [Pil.fromarray(np.roll(RGB, i, 0)) for i in range(3)]
    for name in ("a.gif", "a.webp", "a.png", "a.tif", "a.avif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(InputError, match="frames or pages"):
            image_io.read(tmp_path / name)
    frames[0].save(tmp_path / "a.ico")
    with pytest.raises(InputError, match="not a supported image file"):
        image_io.read(tmp_path / "a.ico")
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    with pytest.raises(InputError, match="brand 'heic'"):
        image_io.read(tmp_path / "a.heic")


def test_avif_is_read(tmp_path):
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    Pil.fromarray(smooth).save(tmp_path / "a.avif", quality=95)
    back = image_io.read(tmp_path / "a.avif").pixels_hwc
    assert np.abs(back.astype(int) - smooth).mean() < 3


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp", ".gif"])
def test_truncated_files_are_refused(tmp_path, suffix):
    noise = RNG.integers(0, 256, (64, 64, 3), np.uint8)
    path = tmp_path / f"a{suffix}"
    Pil.fromarray(noise).save(path)
    assert image_io.read(path).pixels_hwc.shape == (64, 64, 3)
    whole = path.read_bytes()
    for part in (0.9, 0.5, 0.1):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(InputError, match=str(path)):
            image_io.read(path)


def test_what_is_not_a_picture_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(InputError, match="is not a supported image file"):
        image_io.read(tmp_path / "a.png")
    (tmp_path / "e.png").write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        image_io.read(tmp_path / "e.png")
    with pytest.raises(InputError, match="does not exist"):
        image_io.read(tmp_path / "absent.png")
    with pytest.raises(InputError, match="is a folder"):
        image_io.read(tmp_path)


def test_decompression_bombs_are_refused_unread(tmp_path):
    def bomb(width, height):
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n"
        for name, part in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 64))):
            crc = zlib.crc32(name + part)
            data += struct.pack(">I", len(part)) + name + part + struct.pack(">I", crc)
        return data

    for sides in ((10_000, 10_000), (60_000, 60_000)):
        (tmp_path / "a.png").write_bytes(bomb(*sides))
        with pytest.raises(InputError, match="limit for a file"):
            image_io.read(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "image", "message"),
    [
        ("a.jpg", Image(RGB, ALPHA), "transparency"),
        ("a.jpg", Image(GREY16), "16 bits"),
        ("a.webp", Image(GREY16), "16 bits"),
        ("a.webp", Image(np.zeros((1, 16384, 3), np.uint8)), "16383"),
        ("a.jpg", Image(RGB.astype(np.uint16)), "16 bits"),
        ("a.xyz", Image(RGB), "suffix"),
        ("a", Image(RGB), "suffix"),
    ],
)
def test_formats_that_cannot_hold_a_picture(tmp_path, name, image, message):
    with pytest.raises(InputError, match=message):
        image_io.write(tmp_path / name, image)
    assert os.listdir(tmp_path) == []


def test_jpeg_takes_alpha_that_hides_nothing(tmp_path):
    image_io.write(tmp_path / "a.jpg", Image(RGB, np.full_like(ALPHA, 255)))
    assert image_io.read(tmp_path / "a.jpg").alpha_hw is None


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    image_io.write(path, Image(RGB))
    before = path.read_bytes()

    def broken(pixels, target, **_):
        Path(target).write_bytes(b"half")
        raise pyvips.Error("write error", "No space left on device")

    monkeypatch.setitem(writing.SAVERS, "PNG", broken)
    with pytest.raises(OSError, match="No space"):
        image_io.write(path, Image(RGB[::-1]))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


# ---- colours


def shown(path):
    """What a colour-managed viewer shows: Lab of each pixel, by Pillow."""
    with Pil.open(path) as image:
        icc = image.info.get("icc_profile")
        source = ImageCms.getOpenProfile(io.BytesIO(icc)) if icc else SRGB
        target = ImageCms.createProfile("LAB")
        # 16 bits are out of reach of Pillow, and unneeded here.
        lab = ImageCms.profileToProfile(image, source, target, 1, outputMode="LAB")
        values = np.asarray(lab).astype(np.uint8)
    return np.dstack([values[..., 0] / 2.55, values[..., 1:].view(np.int8)])


SRGB = ImageCms.createProfile("sRGB")
P3 = profiles.builtin("p3")
CMYK = profiles.builtin("cmyk")


def matrix_profile(primaries, gamma):
    """A version 2 profile of an RGB space: primaries as XYZ (D50), one gamma."""

    def tag(kind, body):
        return kind + bytes(4) + body

    def fixed(values):
        return b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    parts = {b"desc": tag(b"desc", struct.pack(">I", 5) + b"test\0" + bytes(78))}
    parts[b"cprt"] = tag(b"text", b"none\0\0\0\0")
    parts[b"wtpt"] = tag(b"XYZ ", fixed((0.9642, 1.0, 0.8249)))
    for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True):
        parts[name] = tag(b"XYZ ", fixed(xyz))
    curve = tag(b"curv", struct.pack(">IH", 1, round(gamma * 256)) + bytes(2))
    parts |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    table, body = struct.pack(">I", len(parts)), b""
    start = 128 + 4 + 12 * len(parts)
    for name, part in parts.items():
        part += bytes(-len(part) % 4)
        table += name + struct.pack(">II", start + len(body), len(part))
        body += part
    header = bytearray(128)
    header[8:24] = b"\x02\x10\0\0mntrRGB XYZ "
    header[36:40] = b"acsp"
    header[68:80] = fixed((0.9642, 1.0, 0.8249))
    header[:4] = struct.pack(">I", start + len(body))
    return bytes(header) + table + body


# Adobe RGB (1998).
ADOBE = matrix_profile(
    (
        (0.60974, 0.31111, 0.01947),
        (0.20528, 0.62567, 0.06087),
        (0.14919, 0.06322, 0.74457),
    ),
    2.19921875,
)


def smooth_colours():
    y, x = np.mgrid[0:32, 0:32] / 31
    return (255 * np.dstack([y, x, 1 - y])).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_a_wide_gamut_keeps_profile_and_colours(tmp_path, suffix):
    Pil.fromarray(smooth_colours()).save(tmp_path / "a.png", icc_profile=ADOBE)
    image = image_io.read(tmp_path / "a.png")
    assert image.space == "p3" and image.pixels_hwc.dtype == np.uint16
    # The networks' values are not those of the file: colours were converted.
    assert np.abs(image.pixels_hwc / 257 - smooth_colours()).max() > 10
    image_io.write(tmp_path / f"b{suffix}", image)
    with Pil.open(tmp_path / f"b{suffix}") as written:
        assert written.info["icc_profile"] == ADOBE and written.mode == "RGB"
    difference = shown(tmp_path / f"b{suffix}") - shown(tmp_path / "a.png")
    inside = np.abs(difference).max(-1)
    assert np.median(inside) <= 1 and inside.mean() < 3


def test_display_p3_survives_exactly(tmp_path):
    Pil.fromarray(RGB).save(tmp_path / "a.png", icc_profile=P3)
    image = image_io.read(tmp_path / "a.png")
    image_io.write(tmp_path / "b.png", image)
    with Pil.open(tmp_path / "b.png") as written:
        assert written.info["icc_profile"] == P3
        np.testing.assert_allclose(np.asarray(written).astype(int), RGB, atol=1)


def test_without_metadata_colours_are_srgb(tmp_path):
    Pil.fromarray(smooth_colours() // 3 + 80).save(tmp_path / "a.png", icc_profile=P3)
    image_io.write(
        tmp_path / "b.png", image_io.read(tmp_path / "a.png"), metadata=False
    )
    with Pil.open(tmp_path / "b.png") as written:
        assert "icc_profile" not in written.info
    difference = shown(tmp_path / "b.png") - shown(tmp_path / "a.png")
    assert np.abs(difference).max() <= 3


@pytest.mark.parametrize("name", ["c.jpg", "c.tif"])
def test_cmyk_becomes_tagged_srgb(tmp_path, name):
    cmyk = Pil.fromarray(smooth_colours()).convert("CMYK")
    cmyk.save(tmp_path / name, icc_profile=CMYK, quality=95)
    image_io.write(tmp_path / "d.png", image_io.read(tmp_path / name))
    with Pil.open(tmp_path / "d.png") as written:
        assert written.mode == "RGB" and b"RGB " in written.info["icc_profile"][:40]
    difference = shown(tmp_path / "d.png") - shown(tmp_path / name)
    assert np.median(np.abs(difference).max(-1)) <= 4
    from_memory = image_io.from_pil(cmyk, "it").pixels_hwc.astype(int)
    of_file = image_io.read(tmp_path / name).pixels_hwc
    assert np.abs(from_memory - of_file).mean() < 6


def test_a_grey_profile_and_a_broken_one_change_no_pixel(tmp_path):
    grey = RGB[..., 0]
    Pil.fromarray(grey).save(tmp_path / "g.png", icc_profile=P3)
    np.testing.assert_array_equal(
        image_io.read(tmp_path / "g.png").pixels_hwc[..., 0], grey
    )
    Pil.fromarray(RGB).save(tmp_path / "b.png", icc_profile=b"junk" * 60)
    image = image_io.read(tmp_path / "b.png")
    assert image.icc is None and image.space == "file"
    np.testing.assert_array_equal(image.pixels_hwc, RGB)


# ---- metadata


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_exif_xmp_and_density_are_kept_or_stripped(tmp_path, suffix):
    exif, xmp = Pil.Exif(), b'<x:xmpmeta tiff:Orientation="6">me</x:xmpmeta>'
    exif[DATE], exif[ORIENTATION] = "2024:01:02 03:04:05", 6
    exif.get_ifd(0x8825)[1] = "N"
    source = tmp_path / f"a{suffix}"
    Pil.fromarray(RGB).save(source, exif=exif, dpi=(300, 300))
    with Pil.open(source) as image:
        keep = {"PNG": {"pnginfo": png_text(xmp)}}.get(image.format, {"xmp": xmp})
        image.save(source, exif=exif, dpi=(300, 300), **keep)
    image = image_io.read(source)
    image_io.write(tmp_path / f"b{suffix}", image)
    with Pil.open(tmp_path / f"b{suffix}") as written:
        tags, packet = written.getexif(), xmp_of(written)
    assert tags[DATE] == "2024:01:02 03:04:05" and tags.get_ifd(0x8825)[1] == "N"
    assert tags.get(ORIENTATION, 1) == 1
    assert packet == xmp.replace(b"6", b"1")
    if suffix != ".webp":
        assert round(written.info["dpi"][0]) == 300
    image_io.write(tmp_path / f"c{suffix}", image, metadata=False)
    with Pil.open(tmp_path / f"c{suffix}") as written:
        assert not len(written.getexif()) and xmp_of(written) is None
    plain = image_io.read(tmp_path / f"c{suffix}").pixels_hwc
    kept = image_io.read(tmp_path / f"b{suffix}").pixels_hwc
    np.testing.assert_array_equal(plain, kept)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("dpi", [None, 300])
def test_what_a_file_does_not_say_is_not_invented(tmp_path, suffix, dpi):
    source = tmp_path / ("a.png" if dpi else "a.ppm")
    Pil.fromarray(RGB).save(source, **({"dpi": (dpi, dpi)} if dpi else {}))
    image = image_io.read(source)
    image_io.write(tmp_path / f"b{suffix}", image)
    with Pil.open(tmp_path / f"b{suffix}") as written:
        found = written.info.get("dpi", (None,))[0]
        assert dpi or "exif" not in written.info
        if suffix != ".webp":
            # 72 an inch is what no density means; JPEG has it as none.
            assert round(found or 72) == (dpi or 72)
    image_io.write(tmp_path / f"c{suffix}", image, metadata=False)
    with Pil.open(tmp_path / f"c{suffix}") as written:
        assert "exif" not in written.info
        assert round(written.info.get("dpi", (72,))[0]) == 72


def png_text(xmp):
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode())
    return info


def xmp_of(image):
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    return packet.encode() if isinstance(packet, str) else packet


def test_the_former_path_is_the_same_module():
    import gendr_jax.restore.image_io as former
    from gendr_jax.restore import image_io as attribute

    assert former is image_io and attribute is image_io
