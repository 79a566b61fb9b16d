"""EXIF blocks and XMP packets: what is not edited keeps its bytes."""

import struct

import numpy as np
import pytest
from PIL import Image as Pil

from gendr_jax import image_io
from gendr_jax.image_io import Image, metadata
from gendr_jax.image_io.metadata import exif, xmp

TEXT = "© 2021 Jürgen Müller 写真".encode() + b"\0"
NOTE = b"MAKER\0\x01\x02 offsets from the start \xff\xfe"


def block(order: str, thumbnail: bytes = b"") -> bytes:
    """IFD0 with orientation, sizes, text; an EXIF directory with a maker note."""
    start = b"II*\0" if order == "<" else b"MM\0*"
    text_at = 8 + 2 + 5 * 12 + 4
    inner_at = text_at + len(TEXT)
    note_at = inner_at + 2 + 2 * 12 + 4
    second_at = note_at + len(NOTE)
    thumbnail_at = second_at + 2 + 2 * 12 + 4

    def short(tag, value):
        return struct.pack(order + "HHIHH", tag, 3, 1, value, 0)

    def wide(tag, kind, count, value):
        return struct.pack(order + "HHII", tag, kind, count, value)

    def directory(fields, following=0):
        count = struct.pack(order + "H", len(fields))
        return count + b"".join(fields) + struct.pack(order + "I", following)

    main = [short(0x100, 96), short(0x101, 48), short(0x112, 6)]
    main += [wide(0x8298, 2, len(TEXT), text_at), wide(0x8769, 4, 1, inner_at)]
    inner = [wide(0x927C, 7, len(NOTE), note_at), wide(0xA002, 4, 1, 96)]
    second = [wide(0x201, 4, 1, thumbnail_at), wide(0x202, 4, 1, len(thumbnail))]
    parts = [start, struct.pack(order + "I", 8)]
    parts += [directory(main, second_at if thumbnail else 0), TEXT, directory(inner)]
    parts += [NOTE, directory(second), thumbnail]
    return b"".join(parts)


@pytest.mark.parametrize("order", ["<", ">"])
def test_only_orientation_sizes_and_thumbnail_change(order):
    before = block(order, b"\xff\xd8 small picture \xff\xd9")
    after = exif.edited(before, 70_000, 300)
    assert TEXT in after and NOTE in after and b"small picture" not in after
    assert after.index(NOTE) == before.index(NOTE)
    tags = Pil.Exif()
    tags.load(after)
    assert (tags[0x100], tags[0x101], tags[0x112]) == (300, 70_000, 1)
    assert tags.get_ifd(0x8769)[0xA002] == 300
    changed = [i for i in range(len(after)) if before[i] != after[i]]
    assert len(changed) < 16


def test_a_block_that_cannot_be_followed_is_left_out():
    assert exif.edited(b"II*\0\xff\xff\xff\x7f", 3, 4) is None
    assert exif.edited(b"nothing", 3, 4) is None


@pytest.mark.parametrize("target", ["b.jpg", "b.png", "b.webp"])
@pytest.mark.parametrize("source", ["a.jpg", "a.png", "a.webp"])
def test_a_block_goes_from_format_to_format_byte_for_byte(tmp_path, source, target):
    pixels = np.full((24, 32, 3), 99, np.uint8)
    Pil.fromarray(pixels).save(tmp_path / source, exif=b"Exif\0\0" + block("<"))
    read = image_io.read(tmp_path / source)
    image_io.write(tmp_path / target, read)
    kind = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[target[2:]]
    expected = exif.edited(block("<"), *read.pixels_hwc.shape[:2])
    assert metadata.read(tmp_path / target, kind).exif == expected
    with Pil.open(tmp_path / target) as written:
        assert written.size == (24, 32)  # turned upright
        assert written.getexif()[0x8298].encode("latin-1", "ignore")
    assert {p.name for p in tmp_path.iterdir()} == {source, target}


@pytest.mark.parametrize("alpha", [None, np.full((24, 32), 7, np.uint8)])
def test_a_webp_file_with_a_block_keeps_its_pixels(tmp_path, alpha):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    image_io.write(tmp_path / "a.webp", Image(pixels, alpha, exif=block(">")))
    back = image_io.read(tmp_path / "a.webp")
    np.testing.assert_array_equal(back.pixels_hwc, pixels)
    assert (back.alpha_hw is None) == (alpha is None)
    assert NOTE in back.exif


def test_nothing_is_made_up(tmp_path):
    Pil.new("RGB", (32, 24)).save(tmp_path / "a.png", dpi=(300, 300))
    image = image_io.read(tmp_path / "a.png")
    for name in ("b.png", "b.jpg", "b.webp"):
        image_io.write(tmp_path / name, image)
        with Pil.open(tmp_path / name) as written:
            assert not written.getexif().get_ifd(0x8769)
            density = written.info.get("dpi") or [dict(written.getexif()).get(0x11A, 0)]
            assert round(float(density[0])) == 300
            assert len(written.getexif()) == (3 if name == "b.webp" else 0)


def test_sizes_in_xmp_follow_and_broken_promises_go():
    packet = (
        b'<x xmlns:p="http://ns.google.com/photos/1.0/panorama/" '
        b'xmlns:exif="http://ns.adobe.com/exif/1.0/" '
        b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
        b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0" '
        b'p:CroppedAreaLeftPixels="10" exif:PixelXDimension="96" keep="96">'
        b"<tiff:Orientation>6</tiff:Orientation><p:FullPanoHeightPixels>96"
        b"</p:FullPanoHeightPixels><hdrgm:GainMapMax>2</hdrgm:GainMapMax></x>"
    )
    out = xmp.edited(packet, (96, 192), (48, 96))
    for text in (b'LeftPixels="20"', b'XDimension="192"', b'keep="96"'):
        assert text in out
    assert b"<tiff:Orientation>1<" in out and b"HeightPixels>192<" in out
    assert b"hdrgm:Version" not in out and b"GainMapMax" not in out
