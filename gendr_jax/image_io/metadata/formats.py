"""Read metadata of any format, convert it for another format, insert it into a file.

`fitted` moves metadata that a format cannot store to a field that it has, such as PNG
text into EXIF.
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


def read(path: Source, file_format: str) -> Metadata:
    """The metadata of a file; empty if it cannot be parsed."""
    with opened(path) as file:
        metadata = READERS[file_format](file)
    block = metadata.exif
    if block is None:
        return metadata
    density = metadata.density or exif.density(block)
    block, iptc = exif.without_iptc(block)
    metadata = dataclasses.replace(metadata, exif=block, density=density)
    return metadata if iptc is None else dataclasses.replace(metadata, iptc=iptc)


def fitted(
    metadata: Metadata,
    file_format: str,
    size_hw: tuple[int, int],
    from_hw: tuple[int, int] | None,
) -> Metadata:
    """Metadata for a file of this format; adds to `lost` what it cannot store.

    Args:
        size_hw, from_hw: sizes of the picture that is written, and of its source.
    """
    lost = list(metadata.lost)
    packet = metadata.xmp and xmp.edited(metadata.xmp, size_hw, from_hw)
    block = metadata.exif and exif.edited(metadata.exif, *size_hw)
    if metadata.exif and not block:
        lost.append("EXIF (damaged)")
    block, comment, text = _texts(metadata, block, file_format, lost)
    iptc = metadata.iptc
    if iptc and file_format in ("PNG", "WEBP"):
        block, iptc = exif.with_iptc(block, iptc), None
    if metadata.density is not None and file_format == "WEBP":
        block = exif.with_density(block, *metadata.density)
    if block and file_format == "JPEG" and len(block) > jpeg_segments.MAX_EXIF:
        lost.append("EXIF (above 64 KB)")
        block = None
    if block and file_format == "TIFF" and tiff_fields.values(block) is None:
        lost.append("EXIF (damaged)")
        block = None
    return dataclasses.replace(
        metadata,
        exif=block or None,
        xmp=packet or None,
        iptc=iptc or None,
        comment=comment,
        text=text,
        lost=tuple(dict.fromkeys(lost)),
    )


def insert(path: Path, target: Path, file_format: str, metadata: Metadata) -> None:
    """Copy a file without metadata to `target`, with the metadata from `fitted`."""
    if file_format == "TIFF":
        path.replace(target)
        tiff_fields.insert(target, metadata)
        return
    writer = {
        "JPEG": jpeg_segments.insert,
        "PNG": png_chunks.insert,
        "WEBP": webp_chunks.insert,
    }[file_format]
    with open(path, "rb") as source, open(target, "wb") as out:
        writer(source, out, metadata)


def _texts(
    metadata: Metadata, block: bytes | None, file_format: str, lost: list[str]
) -> tuple[bytes | None, bytes | None, tuple[bytes, ...]]:
    """(EXIF block, comment, PNG text) for a format."""
    comment, text = metadata.comment, metadata.text
    if file_format == "PNG":
        if comment is not None:
            text = (*text, png_chunks.text(COMMENT, comment))
        return block, None, text
    exif_texts = {}
    for chunk in text:
        keyword, words = png_chunks.words(chunk)
        if keyword == COMMENT and file_format == "JPEG" and comment is None:
            comment = words
        elif keyword in FIELDS and not exif.has(block, FIELDS[keyword]):
            exif_texts[FIELDS[keyword]] = words
        elif not _has_text(block, keyword, words):
            lost.append(f"PNG text {keyword!r}")
    if exif_texts:
        block = exif.with_texts(block, exif_texts)
    if comment is not None and file_format != "JPEG":
        lost.append("comment")
        comment = None
    return block, comment, ()


def _has_text(block: bytes | None, keyword: str, words: bytes) -> bool:
    """Whether the EXIF block has this text already."""
    tag = FIELDS.get(keyword)
    return tag is not None and exif.text(block, tag) == words
