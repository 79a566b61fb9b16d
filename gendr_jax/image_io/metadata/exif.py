"""An EXIF block edited where it stands: all that is not edited keeps its bytes.

Text in any encoding, maker notes and the offsets inside them, and fields of unknown
types stay as the camera wrote them, which encoding the block anew would not do.
"""

import contextlib
import io
import struct
from collections.abc import Mapping

from gendr_jax.image_io.metadata import trees
from gendr_jax.image_io.metadata.directories import LONG, SHORT, Directories, Directory
from gendr_jax.image_io.metadata.trees import Value

PREFIX = b"Exif\0\0"
ORIENTATION, EXIF, INTEROPERABILITY = 0x0112, 0x8769, 0xA005
WIDTHS = (0x0100, 0xA002, 0x1001)
HEIGHTS = (0x0101, 0xA003, 0x1002)
THUMBNAIL_AT, THUMBNAIL_LENGTH = 0x0201, 0x0202
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, INCH = 0x011A, 0x011B, 0x0128, 2
CENTIMETRE, ASCII, RATIONAL, UNDEFINED, IPTC = 3, 2, 5, 7, 0x83BB
MM_PER_INCH = 25.4


def edited(block: bytes, height: int, width: int) -> bytes | None:
    """The block, upright, with these sizes where it states sizes, without thumbnail.

    None for a block that cannot be followed: it might turn the picture again.
    """
    block = block.removeprefix(PREFIX)
    try:
        return _edited(bytearray(block), height, width)
    except (ValueError, struct.error, IndexError):
        return None


def density(block: bytes) -> tuple[float, float] | None:
    """The resolution that a block states, in pixels a millimetre."""
    found = _first(block)
    if found is None:
        return None
    read, main = found
    unit = {INCH: MM_PER_INCH, CENTIMETRE: 10.0}.get(
        read.value(main, RESOLUTION_UNIT, INCH)
    )
    both = []
    for tag in (X_RESOLUTION, Y_RESOLUTION):
        field = main.fields.get(tag)
        if unit is None or field is None or field.kind != RATIONAL:
            return None
        try:
            above, below = struct.unpack(read.order + "II", read.data(field)[:8])
        except (ValueError, struct.error):
            return None
        if not above or not below:
            return None
        both.append(above / below / unit)
    return both[0], both[1]


def with_density(block: bytes | None, across: float, down: float) -> bytes:
    """The block with this resolution, in pixels a millimetre, unless it has one."""
    if block and density(block) is not None:
        return block
    values = [
        Value(tag, RATIONAL, 1, struct.pack("<II", round(d * MM_PER_INCH * 1000), 1000))
        for tag, d in ((X_RESOLUTION, across), (Y_RESOLUTION, down))
    ]
    values.append(Value(RESOLUTION_UNIT, SHORT, 1, struct.pack("<H", INCH)))
    return _with(block, values)


def has(block: bytes | None, tag: int) -> bool:
    """Whether the first directory has this field."""
    found = _first(block) if block else None
    return found is not None and tag in found[1].fields


def text(block: bytes | None, tag: int) -> bytes | None:
    """A field of text of the first directory."""
    found = _first(block) if block else None
    if found is None or tag not in found[1].fields:
        return None
    with contextlib.suppress(ValueError):
        return found[0].data(found[1].fields[tag]).rstrip(b"\0")
    return None


def with_texts(block: bytes | None, texts: Mapping[int, bytes]) -> bytes:
    """The block with these fields of text."""
    texts = {tag: text + b"\0" for tag, text in texts.items()}
    return _with(block, [Value(t, ASCII, len(x), x) for t, x in texts.items()])


def with_iptc(block: bytes | None, records: bytes) -> bytes:
    """The block with the field that TIFF files have IPTC records in."""
    return _with(block, [Value(IPTC, UNDEFINED, len(records), records)])


def without_iptc(block: bytes) -> tuple[bytes | None, bytes | None]:
    """(the block without that field, the records); (block, None) if it has none."""
    found = _first(block)
    if found is None or IPTC not in found[1].fields:
        return block, None
    read, main = found
    field = main.fields[IPTC]
    try:
        records = read.data(field)
        rest = bytearray(block)
        rest[field.value_at : field.value_at + len(records)] = bytes(len(records))
        if len(main.fields) == 1:
            return None, records
        end = len(rest) + len(rest) % 2
        moved = trees.added(read, end, (), without={IPTC})
    except (ValueError, struct.error):
        return block, None
    return _joined(rest, read, end, moved), records


def _with(block: bytes | None, values: list[Value]) -> bytes:
    """The block with these fields, in the order "<"; its own values stay in place."""
    found = _first(block) if block else None
    if block is None or found is None:
        return trees.block(values)
    read, end = found[0], len(block) + len(block) % 2
    added = trees.added(read, end, trees.turned(values, "<", read.order))
    return _joined(bytearray(block), read, end, added)


def _joined(block: bytearray, read: Directories, end: int, added: bytes) -> bytes:
    block += bytes(end - len(block)) + added
    at, said = trees.header_field(read, end)
    block[at : at + len(said)] = said
    return bytes(block)


def _first(block: bytes) -> tuple[Directories, Directory] | None:
    """The first directory; None where it cannot be followed."""
    try:
        read = Directories(io.BytesIO(block))
        return read, read.read(read.first)
    except (ValueError, struct.error):
        return None


def _edited(block: bytearray, height: int, width: int) -> bytes:
    read = Directories(io.BytesIO(block))
    main = read.read(read.first)
    directories = [main]
    for tag in (EXIF, INTEROPERABILITY):
        if at := read.value(directories[-1], tag):
            directories.append(read.read(at))
    for directory in directories:
        _set(block, read, directory, ORIENTATION, 1)
        for tag in WIDTHS:
            _set(block, read, directory, tag, width)
        for tag in HEIGHTS:
            _set(block, read, directory, tag, height)
    return _without_thumbnail(block, read, main)


def _set(
    block: bytearray, read: Directories, directory: Directory, tag: int, value: int
) -> None:
    """Put a number into a field that is there; one of 16 bits grows where it must."""
    field = directory.fields.get(tag)
    if field is None or field.count != 1 or field.kind not in (SHORT, LONG):
        return
    kind = LONG if value >= 2**16 else field.kind
    struct.pack_into(read.order + "H", block, field.at + 2, kind)
    layout = "HH" if kind == SHORT else "I"
    values = (value, 0) if kind == SHORT else (value,)
    struct.pack_into(read.order + layout, block, field.value_at, *values)


def _without_thumbnail(block: bytearray, read: Directories, main: Directory) -> bytes:
    """The second directory is no longer named; what it held is cut off or zeroed."""
    if not main.next:
        return bytes(block)
    second = read.read(main.next)
    start = read.value(second, THUMBNAIL_AT)
    length = read.value(second, THUMBNAIL_LENGTH)
    struct.pack_into(read.order + "I", block, main.next_at, 0)
    if start and length and start + length <= len(block):
        if start + length == len(block):
            del block[start:]
        else:
            block[start : start + length] = bytes(length)
    return bytes(block)
