"""What a TIFF file states, out of its fields and into them.

EXIF grew out of TIFF: descriptive fields of a picture's directory, and the directories
of EXIF and GPS that it leads to, make an EXIF block, and such a block's fields go into
a TIFF file.
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
# Names of what is shown and by whom, times, programs, ratings, EXIF and GPS.
DESCRIPTIVE = {269, 270, 271, 272, 285, 305, 306, 315, 316, 33432, 18246, 18249}
DESCRIPTIVE |= {40091, 40092, 40093, 40094, 40095, 37510, 50341, *trees.BRANCHES}
DESCRIPTIVE |= {0x882A, 0x9003, 0x9004}  # as early writers put them
# How the pixels of this file are stored and meant; others are written.
STRUCTURAL = {*range(254, 269), 273, 274, *range(277, 285), *range(286, 302), 317}
STRUCTURAL |= {*range(318, 348), *range(400, 406), *range(433, 435), *range(512, 522)}
STRUCTURAL |= {*range(529, 533), 32995, 32996, 32997, 32998}
STRUCTURAL |= {XMP, IPTC, PHOTOSHOP, PROFILE}


def read(file: BinaryIO) -> Metadata:
    """What the directory of the full picture says."""
    try:
        read = Directories(file)
        page = next(iter(pages(file).full), (0, -1))[0]
        directory = next(d for i, d in enumerate(read.chain()) if i == page)
        fields = trees.take(read, directory, lambda tag: tag in DESCRIPTIVE)
        found = {tag: _bytes(read, directory, tag) for tag in (XMP, IPTC, PHOTOSHOP)}
    except (ValueError, struct.error, StopIteration):
        return Metadata(lost=("TIFF fields (damaged)",))
    iptc, others = photoshop.split(found[PHOTOSHOP])
    records = _records(found[IPTC])
    unknown = sorted(set(directory.fields) - DESCRIPTIVE - STRUCTURAL)
    lost = [f"TIFF field {tag}" for tag in unknown]
    lost += ["Photoshop resources"] if others else []
    return Metadata(
        exif=trees.block(fields, read.order) if fields else None,
        xmp=found[XMP].rstrip(b"\0") or None,
        iptc=records or iptc,
        density=_density(read, directory),
        lost=tuple(lost),
    )


def values(block: bytes) -> tuple[Value, ...] | None:
    """Fields of an EXIF block for a TIFF file, in the order "<"; None if damaged."""
    try:
        read = Directories(io.BytesIO(block))
        found = trees.take(read, read.read(read.first), _belongs)
    except (ValueError, struct.error):
        return None
    return trees.turned(found, read.order, "<")


def insert(path: Path, said: Metadata) -> None:
    """Add fields to a file that states nothing, in place."""
    found: list[Value] = list(values(said.exif) or ()) if said.exif else []
    if said.xmp is not None:
        found.append(Value(XMP, BYTE, len(said.xmp), said.xmp))
    if said.iptc is not None:  # without wrapper; its length need not be of fours
        found.append(Value(IPTC, UNDEFINED, len(said.iptc), said.iptc))
    if not found:
        return
    with open(path, "r+b") as file:
        read = Directories(file)
        end = file.seek(0, 2)
        end += -end % 16
        added = trees.added(read, end, trees.turned(found, "<", read.order))
        file.seek(end)
        file.write(added)
        at, said_there = trees.header_field(read, end)
        file.seek(at)
        file.write(said_there)


def _belongs(tag: int) -> bool:
    return tag not in STRUCTURAL


def _bytes(read: Directories, directory: Directory, tag: int) -> bytes:
    field = directory.fields.get(tag)
    return b"" if field is None else read.data(field)


def _records(data: bytes) -> bytes | None:
    """IPTC records; some programs have turned them as if they were numbers."""
    if data[:1] != b"\x1c" and data[3:4] == b"\x1c":
        data = b"".join(data[i : i + 4][::-1] for i in range(0, len(data), 4))
    return data if data[:1] == b"\x1c" else None


def _density(read: Directories, directory: Directory) -> tuple[float, float] | None:
    unit = read.value(directory, UNIT, 2)
    both = []
    for tag in (X_RESOLUTION, Y_RESOLUTION):
        field = directory.fields.get(tag)
        if field is None or field.kind != 5 or unit not in PER_UNIT:
            return None
        above, below = struct.unpack(read.order + "II", read.data(field)[:8])
        if not above or not below:
            return None
        both.append(above / below / PER_UNIT[unit])
    return both[0], both[1]
