"""Files that must be read right, and files that must be refused by name."""

import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from gendr_jax.data import decode, retry, sources
from gendr_jax.errors import InputError, TryAgainError, UsageError


def pixels(height=20, width=30, channels=3, seed=0, dtype=np.uint8):
    high = np.iinfo(dtype).max
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, high, shape, dtype, endpoint=True)


@pytest.fixture
def save(tmp_path):
    def write(name, array, mode=None, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = (
            array if isinstance(array, Image.Image) else Image.fromarray(array, mode)
        )
        image.save(path, **options)
        return path

    return write


def refused(path, reason):
    with pytest.raises(InputError, match=reason) as caught:
        decode.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("ext", ["png", "bmp", "tif", "tiff", "webp"])
def test_lossless_formats_keep_their_pixels(save, ext):
    options = {"lossless": True} if ext == "webp" else {}
    x = pixels()
    np.testing.assert_array_equal(decode.read(save(f"a.{ext}", x, **options)), x)


def test_content_decides_not_the_name(save):
    x = pixels()
    path = save("a.jpg", x, format="PNG")
    np.testing.assert_array_equal(decode.read(path), x)
    refused(save("b.png", x, format="GIF"), "GIF")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(save, orientation):
    x = pixels()
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = decode.read(save("a.png", x, exif=exif))
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }
    np.testing.assert_array_equal(got, turn[orientation](x))


@pytest.mark.parametrize("ext", ["png", "tif"])
def test_16_bit_gray_is_scaled_not_saturated(save, ext):
    x = pixels(channels=1, dtype=np.uint16)
    got = decode.read(save(f"a.{ext}", x))
    want = np.round(x / 257).astype(np.uint8)
    np.testing.assert_array_equal(got, np.repeat(want[..., None], 3, 2))


def png_16(path, x, *more):
    """Written by hand: Pillow writes no 16-bit colour and no 16-bit transparency."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in x)
    head = struct.pack(
        ">IIBBBBB", x.shape[1], x.shape[0], 16, 2 * (x.ndim - 2), 0, 0, 0
    )
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + b"".join(chunk(*m) for m in more)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


def test_16_bit_colour_png_becomes_8_bit(tmp_path):
    x = pixels(4, 5, dtype=np.uint16)
    path = png_16(tmp_path / "a.png", x)
    assert np.abs(decode.read(path).astype(int) - x / 257).max() <= 1


def test_16_bit_gray_with_a_transparent_value(tmp_path):
    """Refused where a pixel has that value, converted where none has."""
    x = pixels(4, 5, 1, dtype=np.uint16) // 2 * 2
    even, odd = (struct.pack(">H", int(x[1, 1]) + k) for k in (0, 1))
    refused(png_16(tmp_path / "a.png", x, (b"tRNS", even)), "transparent")
    got = decode.read(png_16(tmp_path / "b.png", x, (b"tRNS", odd)))
    np.testing.assert_array_equal(got[..., 0], np.round(x / 257).astype(np.uint8))


@pytest.mark.parametrize(
    ("tag", "value", "reason"),
    [(262, 0, "photometric 0"), (258, 12, "12 bits")],
)
def test_16_bit_gray_tiff_of_another_kind(save, tag, value, reason):
    """Pillow opens white-is-zero and 12 bits as if they were plain 16-bit gray."""
    path = save("a.tif", pixels(channels=1, dtype=np.uint16))
    data, entry = path.read_bytes(), struct.pack("<HHI", tag, 3, 1)
    at = data.index(entry) + len(entry)
    path.write_bytes(data[:at] + struct.pack("<H", value) + data[at + 2 :])
    refused(path, reason)
    with pytest.raises(InputError, match=reason):
        decode.read_size(path)


def test_16_bit_gray_keeps_its_profile(save):
    refused(
        save("a.png", pixels(channels=1, dtype=np.uint16), icc_profile=_lab()),
        "LAB|Lab",
    )


def test_bytes_and_files_are_judged_alike(save):
    path = save("a.png", pixels())
    data = path.read_bytes()
    np.testing.assert_array_equal(decode.read_bytes(data, "n"), decode.read(path))
    assert decode.read_size_bytes(data, "n") == decode.read_size(path) == (20, 30)
    with pytest.raises(InputError, match=r"^n: the file is empty$"):
        decode.read_size_bytes(b"", "n")


def test_a_file_that_is_missing_for_one_read_is_no_damaged_picture(save, monkeypatch):
    path, waits = save("a.png", pixels()), []
    away = path.rename(path.with_name("away"))
    monkeypatch.setattr(retry.time, "sleep", waits.append)
    with pytest.raises(TryAgainError, match=r"a\.png cannot be read after 3 attempts \(No such"):
        decode.read(path)
    assert waits == list(retry.WAITS)
    # it comes back while we wait
    monkeypatch.setattr(retry.time, "sleep", lambda s: away.rename(path))
    assert decode.read(path).shape == (20, 30, 3)


def test_a_bomb_is_not_decoded_by_read(save, monkeypatch):
    path = save("bomb.png", Image.new("1", (9000, 8000)))
    loads = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: loads.append(self))
    refused(path, "9000x8000")
    assert not loads


def test_gray_and_palette_become_rgb(save):
    x = pixels(channels=1)
    got = decode.read(save("gray.png", x))
    np.testing.assert_array_equal(got, np.repeat(x[..., None], 3, 2))
    colours = Image.fromarray(pixels()).quantize(16)
    want = np.asarray(colours.convert("RGB"))
    np.testing.assert_array_equal(decode.read(save("palette.png", colours)), want)


def test_alpha_is_dropped_only_where_nothing_is_transparent(save):
    x = pixels(channels=4)
    x[..., 3] = 255
    np.testing.assert_array_equal(decode.read(save("a.png", x)), x[..., :3])
    x[3, 4, 3] = 254
    refused(save("b.png", x), "transparent")
    x = pixels(channels=2)
    refused(save("c.png", Image.fromarray(x, "LA")), "transparent")
    palette = Image.fromarray(pixels()).quantize(16)
    refused(save("d.png", palette, transparency=3), "transparent")


def test_what_has_no_safe_conversion_is_refused(save):
    refused(save("a.jpg", Image.fromarray(pixels(channels=4), "CMYK")), "CMYK")
    refused(save("f.tif", np.ones((9, 9), np.float32)), "mode F")
    refused(save("i.tif", np.ones((9, 9), np.int32)), "mode I")
    refused(save("one.png", Image.new("1", (9, 9))), "mode 1")
    frames = [Image.fromarray(pixels(seed=k)) for k in range(3)]
    path = save("w.webp", frames[0], save_all=True, append_images=frames[1:])
    refused(path, "3 frames")


@pytest.mark.parametrize("ext", ["jpg", "png", "webp", "tif", "bmp"])
@pytest.mark.parametrize("keep", [0.5, 0.98])
def test_truncated_files_are_refused(save, ext, keep):
    path = save(f"a.{ext}", pixels(200, 300))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(InputError, match=r"a\."):
        decode.read(path)


def test_files_that_are_no_images_are_refused(tmp_path):
    empty, page = tmp_path / "e.png", tmp_path / "p.jpg"
    empty.write_bytes(b"")
    page.write_text("<html>404</html>")
    refused(empty, "empty")
    refused(page, "not an image")


def test_bombs_are_refused_before_they_are_decoded(save):
    """72 megapixels of nothing in a file of kilobytes."""
    path = save("bomb.png", Image.new("L", (9000, 8000)))
    assert path.stat().st_size < 500_000
    with pytest.raises(InputError, match="9000x8000.*64000000"):
        decode.read_size(path)
    refused(path, "9000x8000")


def test_colour_profiles_are_applied(save):
    """A Lab-to-XYZ trip in our own words is not needed: LittleCMS against itself."""
    x = pixels()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = save("srgb.png", x, icc_profile=srgb)
    np.testing.assert_array_equal(decode.read(path), x)
    refused(save("gray.png", pixels(channels=1), icc_profile=_lab()), "LAB|Lab")


def _lab():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def test_broken_colour_profile_is_ignored(save):
    x = pixels()
    np.testing.assert_array_equal(decode.read(save("a.png", x, icc_profile=b"?")), x)


def test_folder_is_recursive_sorted_and_keeps_what_it_decoded(save, tmp_path):
    for name in ("b.png", "a/z.PNG", "a/c.jpg"):
        save(name, pixels())
    (tmp_path / "notes.txt").write_text("no picture")
    save(".hidden.png", pixels())
    source = sources.folder(tmp_path)
    assert source.names == ["a/c.jpg", "a/z.PNG", "b.png"]
    assert source.sides_n.tolist() == [20, 20, 20] and not source.rejected
    assert source[2] is source[2]
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[2], source[2])


def test_cache_has_a_limit(save, tmp_path):
    for k in range(3):
        save(f"{k}.png", pixels(seed=k))
    source = sources.folder(tmp_path, cache_bytes=2 * 20 * 30 * 3)
    kept = [source[i] is source[i] for i in range(3)]
    assert kept == [True, True, False]


def test_bad_files_are_listed_with_reasons(save, tmp_path, caplog):
    for k in range(4):
        save(f"{k}.png", pixels(seed=k))
    save("cmyk.jpg", Image.fromarray(pixels(channels=4), "CMYK"))
    source = sources.folder(tmp_path)
    assert len(source) == 4 and "CMYK" in source.rejected["cmyk.jpg"]
    assert "cmyk.jpg" in caplog.text


def test_a_folder_of_bad_files_stops_with_the_list(save, tmp_path):
    save("good.png", pixels())
    for k in range(3):
        (tmp_path / f"bad{k}.png").write_bytes(b"no")
    with pytest.raises(UsageError, match=r"3 of 4 .*bad0\.png.*bad2\.png"):
        sources.folder(tmp_path)


def test_limits_of_bad_files():
    bad = {f"{k}": f"reason {k}" for k in range(11)}
    sources.check_rejected(bad, 1100)
    with pytest.raises(UsageError, match="11 of 1000"):
        sources.check_rejected(bad, 1000)
    with pytest.raises(UsageError, match="1 of 1"):
        sources.check_rejected({"a": "why"}, 1)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        sources.folder(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="has no pictures"):
        sources.folder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="is not a folder"):
        sources.folder(tmp_path / "a.png")


def test_arrays():
    pictures = [pixels(8, 9), pixels(7, 5)]
    source = sources.arrays(pictures)
    assert len(source) == 2 and source.sides_n.tolist() == [8, 5]
    assert source[1] is pictures[1]
    with pytest.raises(UsageError, match="empty"):
        sources.arrays([])
    with pytest.raises(UsageError, match=r"picture 1 is float64 of shape \(4, 4, 3\)"):
        sources.arrays([pixels(), np.zeros((4, 4, 3))])


def test_real_photographs(shared_data):
    source = sources.folder(shared_data / "photos" / "val")
    assert len(source) >= 10 and not source.rejected
    assert source.sides_n.min() == 321 and source[0].std() > 10
