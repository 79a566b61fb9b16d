"""Metadata in every pair of formats: kept or named as lost, as docs/restore.md says."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Pil
from PIL.PngImagePlugin import PngInfo

from gendr_jax import image_io
from gendr_jax.image_io import Image, metadata
from gendr_jax.image_io.metadata import exif, jpeg_segments
from tools import described_pictures as described

DOCS = Path(__file__).resolve().parents[2] / "docs" / "restore.md"
BEGIN, END = "<!-- metadata: begin -->\n", "<!-- metadata: end -->\n"
PLACES = {  # where a statement goes that the format has no place of its own for
    ("IPTC", "PNG"): "in EXIF",
    ("IPTC", "WebP"): "in EXIF",
    ("resolution", "WebP"): "in EXIF",
    ("title (PNG text)", "JPEG"): "in EXIF",
    ("title (PNG text)", "TIFF"): "in EXIF",
    ("title (PNG text)", "WebP"): "in EXIF",
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """{(source, target): (stated before, stated after, what is said to be lost)}."""
    folder, found = tmp_path_factory.mktemp("pairs"), {}
    for source, suffix in described.SUFFIXES.items():
        path = folder / f"a{suffix}"
        described.write(path, described.pixels())
        image = image_io.read(path)
        for target, end in described.SUFFIXES.items():
            out = folder / f"{source}{end}"
            lost = image_io.write(out, image)
            found[source, target] = described.read(path), described.read(out), lost
    return found


def test_every_source_states_what_it_should(pairs):
    assert len(pairs["JPEG", "PNG"][0]) == 13
    assert len(pairs["PNG", "PNG"][0]) == 13  # a title, and no IPTC
    assert len(pairs["WebP", "PNG"][0]) == 10
    assert len(pairs["TIFF", "PNG"][0]) == 12


@pytest.mark.parametrize("target", described.SUFFIXES)
@pytest.mark.parametrize("source", described.SUFFIXES)
def test_what_is_stated_is_kept_or_named(pairs, source, target):
    before, after, lost = pairs[source, target]
    gone = {name for name, value in before.items() if after.get(name) != value}
    assert gone <= {"comment"}, {name: (before[name], after.get(name)) for name in gone}
    named = {"comment": ("comment", "PNG text 'Comment'")}
    for name in gone:
        assert set(lost) & set(named[name])
    others = ["PNG text 'Author'"] if (source, target[:1]) != ("PNG", "P") else []
    others = others if source == "PNG" else []  # EXIF says another one
    assert set(lost) <= {"comment", "PNG text 'Comment'", *others}
    made_up = {n: after[n] for n in set(after) - set(before)}
    # TIFF has to state one, and for JPEG with EXIF alone Pillow assumes one.
    assert made_up in ({}, {"resolution": 72})


def test_the_table_of_the_documentation_is_what_happens(pairs):
    lines = [
        "| metadata of the input | to JPEG | to PNG | to TIFF | to WebP |",
        "|---|---|---|---|---|",
    ]
    order = ["JPEG", "PNG", "TIFF", "WebP"]
    for source in order:
        for name in pairs[source, source][0]:
            cells = []
            for target in order:
                before, after, _ = pairs[source, target]
                kept = before[name] == after.get(name)
                where = "kept" if source == target else PLACES.get((name, target))
                cells.append((where or "kept") if kept else "**lost**, with a warning")
            lines.append(f"| {source}: {name} | {' | '.join(cells)} |")
    table = "\n".join(lines) + "\n"
    text = DOCS.read_text()
    head, _, rest = text.partition(BEGIN)
    written, _, tail = rest.partition(END)
    if os.environ.get("GENDR_WRITE_DOCS"):
        DOCS.write_text(head + BEGIN + table + END + tail)
        return
    assert written == table, (
        "docs/restore.md is not what happens: GENDR_WRITE_DOCS=1 python -m pytest "
        "tests/image_io/test_metadata.py writes it"
    )


@pytest.mark.parametrize("target", described.SUFFIXES.values())
@pytest.mark.parametrize("source", described.SUFFIXES.values())
def test_a_large_packet_is_kept(tmp_path, source, target):
    packet = described.packet(200_000)
    image = Image(described.pixels(), xmp=packet)
    first, second = tmp_path / f"a{source}", tmp_path / f"b{target}"
    assert image_io.write(first, image) == ()
    image_io.write(second, image_io.read(first))
    back = image_io.read(second).xmp
    assert b"x" * 200_000 in back and b'xmp:Rating="4"' in back
    assert b"HasExtendedXMP" not in back
    assert len(back) < 201_500


def test_an_extension_has_the_segments_that_the_standard_asks_for(tmp_path):
    packet = described.packet(200_000)
    image_io.write(tmp_path / "a.jpg", Image(described.pixels(), xmp=packet))
    with open(tmp_path / "a.jpg", "rb") as file:
        segments = [d for m, d in jpeg_segments.segments(file) if m == 0xE1]
    main, *parts = segments
    assert b"HasExtendedXMP" in main and len(parts) == 4
    guids = {part[35:67] for part in parts}
    assert len(guids) == 1 and guids.pop() in main
    sizes = {int.from_bytes(part[67:71]) for part in parts}
    assert sizes == {len(packet)}
    assert b"".join(part[75:] for part in parts) == packet


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_fields_of_tiff_files_of_both_orders_and_sizes(tmp_path, order, big):
    tags = [(315, 2, 0, "Müller".encode(), True)]
    tags += [(33723, 7, len(described.IPTC), described.IPTC, True)]
    tags += [(18246, 3, 1, 5, True), (33550, 12, 3, (1.0, 1.0, 0.0), True)]
    tifffile.imwrite(
        tmp_path / "a.tif",
        described.pixels(),
        photometric="rgb",
        byteorder=order,
        bigtiff=big,
        resolution=(240, 240),
        resolutionunit="INCH",
        description="Harbour",
        metadata=None,
        extratags=tags,
    )
    image = image_io.read(tmp_path / "a.tif")
    assert image.lost == ("TIFF field 33550",)  # pixels of a map are others now
    assert image.iptc == described.IPTC
    for name in ("b.tif", "b.jpg"):
        assert image_io.write(tmp_path / name, image) == image.lost
        found = described.read(tmp_path / name)
        assert found["description"] == b"Harbour" and found["stars"] == 5
        assert found["author, not ASCII"] == "Müller".encode()
        assert found["IPTC"] == described.CAPTION and found["resolution"] == 240


def test_records_that_were_turned_as_numbers_are_read(tmp_path):
    records = described.IPTC + b"\0" * (-len(described.IPTC) % 4)
    for order, data in (("<", records), (">", records)):
        numbers = struct.unpack(f"{order}{len(data) // 4}I", data)
        turned = struct.unpack(f"<{len(data) // 4}I", data)
        for values in (numbers, turned):
            tifffile.imwrite(
                tmp_path / "a.tif",
                described.pixels(),
                photometric="rgb",
                byteorder=order,
                metadata=None,
                extratags=[(33723, 4, len(values), values, True)],
            )
            assert image_io.read(tmp_path / "a.tif").iptc.startswith(described.IPTC)


def test_text_of_png_goes_from_png_to_png_as_it_is(tmp_path):
    text = PngInfo()
    text.add_text("parameters", "a prompt", zip=True)
    text.add_itxt("Warning", "ö", "de", "Warnung", zip=True)
    Pil.fromarray(described.pixels()).save(tmp_path / "a.png", pnginfo=text)
    image = image_io.read(tmp_path / "a.png")
    assert image_io.write(tmp_path / "b.png", image) == ()
    with Pil.open(tmp_path / "b.png") as written:
        assert written.text["parameters"] == "a prompt"
        assert written.text["Warning"] == "ö" and written.text["Warning"].lang == "de"
    lost = image_io.write(tmp_path / "b.jpg", image)
    assert lost == ("PNG text 'parameters'", "PNG text 'Warning'")


def test_blocks_that_other_programs_write_as_text_are_read(tmp_path):
    """`Raw profile type`, as ImageMagick writes EXIF and IPTC into PNG."""
    text = PngInfo()
    irb = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(described.IPTC)) + described.IPTC
    both = {"exif": b"Exif\0\0" + described.block(), "iptc": irb}
    for name, data in both.items():
        lines = f"\n{name}\n{len(data):8}\n{data.hex()}\n"
        text.add_text(f"Raw profile type {name}", lines, zip=True)
    Pil.fromarray(described.pixels()).save(tmp_path / "a.png", pnginfo=text)
    image = image_io.read(tmp_path / "a.png")
    assert image.exif == described.block() and image.iptc == described.IPTC


def test_pictures_and_credentials_that_are_left_behind_are_named(tmp_path):
    described.write(tmp_path / "a.jpg", described.pixels())
    data = (tmp_path / "a.jpg").read_bytes()
    more = described.segment(0xE2, b"MPF\0II*\0") + described.segment(0xEB, b"JP\0\1")
    more += described.segment(0xED, b"Photoshop 3.0\08BIM\x03\xe8\0\0\0\0\0\2ab")
    (tmp_path / "a.jpg").write_bytes(data[:2] + more + data[2:])
    lost = image_io.write(tmp_path / "b.jpg", image_io.read(tmp_path / "a.jpg"))
    names = {"other pictures (MPF)", "content credentials (JUMBF)"}
    assert set(lost) == names | {"Photoshop resources"}


def test_a_block_too_large_for_jpeg_is_named(tmp_path):
    block = exif.with_texts(described.block(), {0x0131: b"x" * 70_000})
    image = Image(described.pixels(), exif=block)
    assert image_io.write(tmp_path / "a.png", image) == ()
    assert image_io.write(tmp_path / "a.jpg", image) == ("EXIF (above 64 KB)",)


def test_nothing_is_lost_that_is_not_wanted(tmp_path):
    described.write(tmp_path / "a.jpg", described.pixels())
    image = image_io.read(tmp_path / "a.jpg")
    assert image_io.write(tmp_path / "b.webp", image, metadata=False) == ()
    assert image_io.write(tmp_path / "b.webp", image) == ("comment",)


def test_a_file_without_a_resolution_gets_none(tmp_path):
    image = Image(described.pixels())
    for name, absent in (("a.png", b"pHYs"), ("a.webp", b"EXIF")):
        image_io.write(tmp_path / name, image)
        assert absent not in (tmp_path / name).read_bytes()
    image_io.write(tmp_path / "a.jpg", image)
    with Pil.open(tmp_path / "a.jpg") as written:
        assert written.info["jfif_unit"] == 0
    assert image_io.read(tmp_path / "a.jpg").density is None


def test_a_resolution_of_72_that_is_stated_stays_stated(tmp_path):
    Pil.fromarray(described.pixels()).save(tmp_path / "a.png", dpi=(72, 72))
    image = image_io.read(tmp_path / "a.png")
    for end in described.SUFFIXES.values():
        image_io.write(tmp_path / f"b{end}", image)
        back = image_io.read(tmp_path / f"b{end}").density
        np.testing.assert_allclose(back, 72 / 25.4, rtol=1e-3)


def test_a_resolution_turns_with_its_picture(tmp_path):
    tags = Pil.Exif()
    tags[0x0112] = 6
    picture = Pil.fromarray(described.pixels())
    picture.save(tmp_path / "a.jpg", exif=tags, dpi=(100, 200))
    density = image_io.read(tmp_path / "a.jpg").density
    np.testing.assert_allclose(density, (200 / 25.4, 100 / 25.4))


def test_damaged_metadata_costs_no_picture(tmp_path):
    rng = np.random.default_rng(0)
    for end in described.SUFFIXES.values():
        path = tmp_path / f"a{end}"
        described.write(path, described.pixels())
        kind = {"webp": "WEBP", "tif": "TIFF"}.get(end[1:], end[1:].upper())
        kind = "JPEG" if end == ".jpg" else kind
        data = path.read_bytes()
        for _ in range(200):
            broken = bytearray(data[: rng.integers(8, len(data))])
            for at in rng.integers(4, len(broken), 6):
                broken[at] = rng.integers(256)
            (tmp_path / "x").write_bytes(broken)
            said = metadata.read(tmp_path / "x", kind)
            for other in ("JPEG", "PNG", "WEBP", "TIFF"):
                metadata.fitted(said, other, (10, 10), (5, 5))
