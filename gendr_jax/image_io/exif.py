"""An EXIF block edited where it stands: all that is not edited keeps its bytes.

Text in any encoding, maker notes and the offsets inside them, and fields of unknown
types stay as the camera wrote them, which encoding the block anew would not do.
"""

import io
import struct

from gendr_jax.image_io.directories import LONG, SHORT, Directories, Directory

PREFIX = b"Exif\0\0"
ORIENTATION, EXIF, INTEROPERABILITY = 0x0112, 0x8769, 0xA005
WIDTHS = (0x0100, 0xA002, 0x1001)
HEIGHTS = (0x0101, 0xA003, 0x1002)
THUMBNAIL_AT, THUMBNAIL_LENGTH = 0x0201, 0x0202
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, INCH = 0x011A, 0x011B, 0x0128, 2
RATIONAL = 5
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


def of_density(across: float, down: float) -> bytes:
    """A block that states nothing but a resolution, in pixels a millimetre."""
    values = [(round(d * MM_PER_INCH * 1000), 1000) for d in (across, down)]
    data_at = 8 + 2 + 3 * 12 + 4
    fields = [
        struct.pack("<HHII", X_RESOLUTION, RATIONAL, 1, data_at),
        struct.pack("<HHII", Y_RESOLUTION, RATIONAL, 1, data_at + 8),
        struct.pack("<HHIHH", RESOLUTION_UNIT, SHORT, 1, INCH, 0),
    ]
    head = b"II*\0" + struct.pack("<IH", 8, len(fields))
    tail = struct.pack("<I", 0) + b"".join(struct.pack("<II", *v) for v in values)
    return head + b"".join(fields) + tail


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
