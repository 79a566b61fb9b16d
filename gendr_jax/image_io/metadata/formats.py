"""What a file says of its picture beside pixels and profile: read, fitted, put in.

Read into one form for all formats: an EXIF block, an XMP packet, IPTC records, a
comment, PNG text. `fitted` moves what a format has no place for to where it has one.
"""

import dataclasses
from pathlib import Path

from gendr_jax.image_io.encoded import Source, opened
from gendr_jax.image_io.metadata import (
    exif,
    jpeg_segments,
    png_chunks,
    tiff_fields,
    webp_chunks,
    xmp,
)
from gendr_jax.image_io.metadata.statements import Metadata

READERS = {
    "JPEG": jpeg_segments.read,
    "PNG": png_chunks.read,
    "WEBP": webp_chunks.read,
    "TIFF": tiff_fields.read,
}
# Keywords of PNG text that EXIF has a field for (PNG 3, 11.3.3.1; EXIF 2.32, 4.6.4).
FIELDS = {
    "Title": 0x010D,
    "Description": 0x010E,
    "Software": 0x0131,
    "Author": 0x013B,
    "Copyright": 0x8298,
}
COMMENT = "Comment"


def read(path: Source, kind: str) -> Metadata:
    """What a file states; nothing where it cannot be followed."""
    with opened(path) as file:
        found = READERS[kind](file)
    block = found.exif
    if block is None:
        return found
    density = found.density or exif.density(block)
    block, iptc = exif.without_iptc(block)
    found = dataclasses.replace(found, exif=block, density=density)
    return found if iptc is None else dataclasses.replace(found, iptc=iptc)


def fitted(
    said: Metadata, kind: str, size_hw: tuple[int, int], from_hw: tuple[int, int] | None
) -> Metadata:
    """As a file of this format states it; `lost` grows by what it cannot hold.

    Args:
        size_hw, from_hw: of the picture that is written, and of the one it was made of.
    """
    lost = list(said.lost)
    packet = said.xmp and xmp.edited(said.xmp, size_hw, from_hw)
    block = said.exif and exif.edited(said.exif, *size_hw)
    if said.exif and not block:
        lost.append("EXIF (damaged)")
    block, comment, text = _texts(said, block, kind, lost)
    iptc = said.iptc
    if iptc and kind in ("PNG", "WEBP"):
        block, iptc = exif.with_iptc(block, iptc), None
    if said.density is not None and kind == "WEBP":
        block = exif.with_density(block, *said.density)
    if block and kind == "JPEG" and len(block) > jpeg_segments.MOST_EXIF:
        lost.append("EXIF (above 64 KB)")
        block = None
    if block and kind == "TIFF" and tiff_fields.values(block) is None:
        lost.append("EXIF (damaged)")
        block = None
    return dataclasses.replace(
        said,
        exif=block or None,
        xmp=packet or None,
        iptc=iptc or None,
        comment=comment,
        text=text,
        lost=tuple(dict.fromkeys(lost)),
    )


def insert(path: Path, target: Path, kind: str, said: Metadata) -> None:
    """Copy a file without metadata to `target`, with what `fitted` gave."""
    if kind == "TIFF":
        path.replace(target)
        tiff_fields.insert(target, said)
        return
    writer = {
        "JPEG": jpeg_segments.insert,
        "PNG": png_chunks.insert,
        "WEBP": webp_chunks.insert,
    }[kind]
    with open(path, "rb") as source, open(target, "wb") as out:
        writer(source, out, said)


def _texts(
    said: Metadata, block: bytes | None, kind: str, lost: list[str]
) -> tuple[bytes | None, bytes | None, tuple[bytes, ...]]:
    """(block, comment, PNG text) of a format."""
    comment, text = said.comment, said.text
    if kind == "PNG":
        if comment is not None:
            text = (*text, png_chunks.text(COMMENT, comment))
        return block, None, text
    wanted = {}
    for chunk in text:
        keyword, words = png_chunks.words(chunk)
        if keyword == COMMENT and kind == "JPEG" and comment is None:
            comment = words
        elif keyword in FIELDS and not exif.has(block, FIELDS[keyword]):
            wanted[FIELDS[keyword]] = words
        elif not _states(block, keyword, words):
            lost.append(f"PNG text {keyword!r}")
    if wanted:
        block = exif.with_texts(block, wanted)
    if comment is not None and kind != "JPEG":
        lost.append("comment")
        comment = None
    return block, comment, ()


def _states(block: bytes | None, keyword: str, words: bytes) -> bool:
    """Whether EXIF says the same already."""
    tag = FIELDS.get(keyword)
    return tag is not None and exif.text(block, tag) == words
