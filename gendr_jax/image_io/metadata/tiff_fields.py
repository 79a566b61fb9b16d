"""Read and insert the metadata fields of TIFF files.

An EXIF block has the structure of a TIFF file: the descriptive fields of a picture's
directory, with its EXIF and GPS directories, are read as an EXIF block, and the fields
of such a block are inserted into a TIFF file.
"""

import io
import struct
from pathlib import Path
from typing import BinaryIO

from gendr_jax.image_io.metadata import photoshop, trees
from gendr_jax.image_io.metadata.directories import Directories, Directory, pages
from gendr_jax.image_io.metadata.exif import MM_PER_INCH
from gendr_jax.image_io.metadata.statements import Metadata
from gendr_jax.image_io.metadata.trees import Value

XMP, IPTC, PHOTOSHOP, PROFILE = 700, 33723, 34377, 34675
X_RESOLUTION, Y_RESOLUTION, UNIT = 282, 283, 296
PER_UNIT = {2: MM_PER_INCH, 3: 10.0}
BYTE, UNDEFINED = 1, 7
# Titles, authors, times, programs, ratings, EXIF and GPS.
DESCRIPTIVE = {269, 270, 271, 272, 285, 305, 306, 315, 316, 33432, 18246, 18249}
DESCRIPTIVE |= {40091, 40092, 40093, 40094, 40095, 37510, 50341, *trees.BRANCHES}
DESCRIPTIVE |= {0x882A, 0x9003, 0x9004}  # where early writers put them
# How the pixels of this file are stored: never copied to another file.
STRUCTURAL = {*range(254, 269), 273, 274, *range(277, 285), *range(286, 302), 317}
STRUCTURAL |= {*range(318, 348), *range(400, 406), *range(433, 435), *range(512, 522)}
STRUCTURAL |= {*range(529, 533), 32995, 32996, 32997, 32998}
STRUCTURAL |= {XMP, IPTC, PHOTOSHOP, PROFILE}


def read(file: BinaryIO) -> Metadata:
    """The metadata in the directory of the full-size picture."""
    try:
        directories = Directories(file)
        page = next(iter(pages(file).full), (0, -1))[0]
        directory = next(d for i, d in enumerate(directories.chain()) if i == page)
        fields = trees.take(directories, directory, lambda tag: tag in DESCRIPTIVE)
        blocks = {
            tag: _bytes(directories, directory, tag) for tag in (XMP, IPTC, PHOTOSHOP)
        }
    except (ValueError, struct.error, StopIteration):
        return Metadata(lost=("TIFF fields (damaged)",))
    iptc, has_others = photoshop.split(blocks[PHOTOSHOP])
    records = _records(blocks[IPTC])
    unknown = sorted(set(directory.fields) - DESCRIPTIVE - STRUCTURAL)
    lost = [f"TIFF field {tag}" for tag in unknown]
    lost += ["Photoshop resources"] if has_others else []
    return Metadata(
        exif=trees.block(fields, directories.order) if fields else None,
        xmp=blocks[XMP].rstrip(b"\0") or None,
        iptc=records or iptc,
        density=_density(directories, directory),
        lost=tuple(lost),
    )


def values(block: bytes) -> tuple[Value, ...] | None:
    """Little-endian fields of an EXIF block for a TIFF file; None if damaged."""
    try:
        directories = Directories(io.BytesIO(block))
        fields = trees.take(
            directories, directories.read(directories.first), _is_not_structural
        )
    except (ValueError, struct.error):
        return None
    return trees.swapped(fields, directories.order, "<")


def insert(path: Path, metadata: Metadata) -> None:
    """Add metadata to a file that has none, in place."""
    fields: list[Value] = list(values(metadata.exif) or ()) if metadata.exif else []
    if metadata.xmp is not None:
        fields.append(Value(XMP, BYTE, len(metadata.xmp), metadata.xmp))
    # Without wrapper; its length need not be a multiple of 4.
    if metadata.iptc is not None:
        fields.append(Value(IPTC, UNDEFINED, len(metadata.iptc), metadata.iptc))
    if not fields:
        return
    with open(path, "r+b") as file:
        directories = Directories(file)
        new_at = file.seek(0, 2)
        new_at += -new_at % 16
        new_bytes = trees.added(
            directories, new_at, trees.swapped(fields, "<", directories.order)
        )
        file.seek(new_at)
        file.write(new_bytes)
        header_at, header_bytes = trees.header_field(directories, new_at)
        file.seek(header_at)
        file.write(header_bytes)


def _is_not_structural(tag: int) -> bool:
    return tag not in STRUCTURAL


def _bytes(directories: Directories, directory: Directory, tag: int) -> bytes:
    field = directory.fields.get(tag)
    return b"" if field is None else directories.data(field)


def _records(data: bytes) -> bytes | None:
    """IPTC records; some programs stored them byte-swapped as 32-bit integers."""
    if data[:1] != b"\x1c" and data[3:4] == b"\x1c":
        data = b"".join(data[i : i + 4][::-1] for i in range(0, len(data), 4))
    return data if data[:1] == b"\x1c" else None


def _density(
    directories: Directories, directory: Directory
) -> tuple[float, float] | None:
    unit = directories.value(directory, UNIT, 2)
    resolution = []
    for tag in (X_RESOLUTION, Y_RESOLUTION):
        field = directory.fields.get(tag)
        if field is None or field.type != 5 or unit not in PER_UNIT:
            return None
        numerator, denominator = struct.unpack(
            directories.order + "II", directories.data(field)[:8]
        )
        if not numerator or not denominator:
            return None
        resolution.append(numerator / denominator / PER_UNIT[unit])
    return resolution[0], resolution[1]
