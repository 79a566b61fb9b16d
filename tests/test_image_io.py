"""restore/image_io.py: what is read, what is refused, what survives a round trip."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as Pil
from PIL import ImageCms

from gendr_jax.errors import InputError
from gendr_jax.restore import image_io
from gendr_jax.restore.image_io import Image

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
        assert ORIENTATION not in tags and tags[DATE] == "2024:01:02 03:04:05"
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
def test_sixteen_bit_colour_is_refused(tmp_path, channels):
    png16(tmp_path / "a.png", channels)
    with pytest.raises(InputError, match="more than 8 bits"):
        image_io.read(tmp_path / "a.png")


def test_other_deep_files_are_refused(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6 2 2 65535\n" + bytes(24))
    with pytest.raises(InputError, match="more than 8 bits"):
        image_io.read(tmp_path / "a.ppm")
    Pil.fromarray(RNG.random((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(InputError, match="range is unknown"):
        image_io.read(tmp_path / "f.tif")
    tiff = io.BytesIO()
    Pil.fromarray(GREY16[..., 0]).save(tiff, "TIFF")
    # PhotometricInterpretation (262): BlackIsZero to WhiteIsZero.
    entry = struct.pack("<HHIH", 262, 3, 1, 1)
    assert tiff.getvalue().count(entry) == 1
    (tmp_path / "n.tif").write_bytes(
        tiff.getvalue().replace(entry, struct.pack("<HHIH", 262, 3, 1, 0))
    )
    with pytest.raises(InputError, match="negative"):
        image_io.read(tmp_path / "n.tif")


def test_eight_bit_ppm_is_read(tmp_path):
    Pil.fromarray(RGB).save(tmp_path / "a.ppm")
    np.testing.assert_array_equal(image_io.read(tmp_path / "a.ppm").pixels_hwc, RGB)


def test_cmyk_animation_and_other_formats_are_refused(tmp_path):
    Pil.fromarray(RGB).convert("CMYK").save(tmp_path / "c.jpg")
    with pytest.raises(InputError, match="CMYK.*colour management"):
        image_io.read(tmp_path / "c.jpg")
    frames = [Pil.fromarray(np.roll(RGB, i, 0)) for i in range(3)]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(InputError, match="3 frames"):
            image_io.read(tmp_path / name)
    frames[0].save(tmp_path / "a.ico")
    with pytest.raises(InputError, match="is ICO"):
        image_io.read(tmp_path / "a.ico")


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
    with pytest.raises(InputError, match="is not a picture"):
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
        ("a.png", Image(RGB.astype(np.uint16)), "16-bit colour"),
        ("a.xyz", Image(RGB), "suffix"),
        ("a", Image(RGB), "suffix"),
    ],
)
def test_formats_that_cannot_hold_a_picture(tmp_path, name, image, message):
    with pytest.raises(InputError, match=message):
        image_io.write(tmp_path / name, image)
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    image_io.write(path, Image(RGB))
    before = path.read_bytes()

    def broken(self, target, **_):
        target.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Pil.Image, "save", broken)
    with pytest.raises(OSError, match="No space"):
        image_io.write(path, Image(RGB[::-1]))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.png"]
