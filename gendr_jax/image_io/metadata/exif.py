"""Edit EXIF blocks in place: everything else keeps its bytes and offsets.

Text in any encoding, maker notes with their internal offsets, and fields of unknown
types stay as the camera wrote them; re-encoding the block would lose some of these.
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
    """The block with orientation 1, these sizes, and without thumbnail.

    None if it cannot be parsed: its orientation might rotate the picture again.
    """
    block = block.removeprefix(PREFIX)
    try:
        return _edited(bytearray(block), height, width)
    except (ValueError, struct.error, IndexError):
        return None


def density(block: bytes) -> tuple[float, float] | None:
    """(across, down) resolution of a block in pixels a millimetre, or None."""
    parsed = _first_directory(block)
    if parsed is None:
        return None
    directories, main = parsed
    unit = {INCH: MM_PER_INCH, CENTIMETRE: 10.0}.get(
        directories.value(main, RESOLUTION_UNIT, INCH)
    )
    resolution = []
    for tag in (X_RESOLUTION, Y_RESOLUTION):
        field = main.fields.get(tag)
        if unit is None or field is None or field.type != RATIONAL:
            return None
        try:
            numerator, denominator = struct.unpack(
                directories.order + "II", directories.data(field)[:8]
            )
        except (ValueError, struct.error):
            return None
        if not numerator or not denominator:
            return None
        resolution.append(numerator / denominator / unit)
    return resolution[0], resolution[1]


def with_density(block: bytes | None, across: float, down: float) -> bytes:
    """The block with this resolution in pixels a millimetre, if it had none."""
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
    parsed = _first_directory(block) if block else None
    return parsed is not None and tag in parsed[1].fields


def text(block: bytes | None, tag: int) -> bytes | None:
    """A text field of the first directory."""
    parsed = _first_directory(block) if block else None
    if parsed is None or tag not in parsed[1].fields:
        return None
    with contextlib.suppress(ValueError):
        return parsed[0].data(parsed[1].fields[tag]).rstrip(b"\0")
    return None


def with_texts(block: bytes | None, texts: Mapping[int, bytes]) -> bytes:
    """The block with these text fields, {tag: text}."""
    texts = {tag: text + b"\0" for tag, text in texts.items()}
    return _with(block, [Value(t, ASCII, len(x), x) for t, x in texts.items()])


def with_iptc(block: bytes | None, records: bytes) -> bytes:
    """The block with IPTC records in the field that TIFF files use for them."""
    return _with(block, [Value(IPTC, UNDEFINED, len(records), records)])


def without_iptc(block: bytes) -> tuple[bytes | None, bytes | None]:
    """(the block without IPTC records, the records); (block, None) if it has none."""
    parsed = _first_directory(block)
    if parsed is None or IPTC not in parsed[1].fields:
        return block, None
    directories, main = parsed
    field = main.fields[IPTC]
    try:
        records = directories.data(field)
        stripped = bytearray(block)
        stripped[field.value_at : field.value_at + len(records)] = bytes(len(records))
        if len(main.fields) == 1:
            return None, records
        end = len(stripped) + len(stripped) % 2
        moved = trees.added(directories, end, (), without={IPTC})
    except (ValueError, struct.error):
        return block, None
    return _joined(stripped, directories, end, moved), records


def _with(block: bytes | None, values: list[Value]) -> bytes:
    """The block with these little-endian fields added; other values keep offsets."""
    parsed = _first_directory(block) if block else None
    if block is None or parsed is None:
        return trees.block(values)
    directories, end = parsed[0], len(block) + len(block) % 2
    added = trees.added(directories, end, trees.swapped(values, "<", directories.order))
    return _joined(bytearray(block), directories, end, added)


def _joined(
    block: bytearray, directories: Directories, end: int, added: bytes
) -> bytes:
    block += bytes(end - len(block)) + added
    header_at, header_bytes = trees.header_field(directories, end)
    block[header_at : header_at + len(header_bytes)] = header_bytes
    return bytes(block)


def _first_directory(block: bytes) -> tuple[Directories, Directory] | None:
    """(directories, the first one); None if the block cannot be parsed."""
    try:
        directories = Directories(io.BytesIO(block))
        return directories, directories.read(directories.first)
    except (ValueError, struct.error):
        return None


def _edited(block: bytearray, height: int, width: int) -> bytes:
    directories = Directories(io.BytesIO(block))
    main = directories.read(directories.first)
    with_sizes = [main]
    for tag in (EXIF, INTEROPERABILITY):
        if offset := directories.value(with_sizes[-1], tag):
            with_sizes.append(directories.read(offset))
    for directory in with_sizes:
        _set(block, directories, directory, ORIENTATION, 1)
        for tag in WIDTHS:
            _set(block, directories, directory, tag, width)
        for tag in HEIGHTS:
            _set(block, directories, directory, tag, height)
    return _without_thumbnail(block, directories, main)


def _set(
    block: bytearray,
    directories: Directories,
    directory: Directory,
    tag: int,
    value: int,
) -> None:
    """Set a field that exists to a number; its type becomes LONG above 16 bits."""
    field = directory.fields.get(tag)
    if field is None or field.count != 1 or field.type not in (SHORT, LONG):
        return
    field_type = LONG if value >= 2**16 else field.type
    struct.pack_into(directories.order + "H", block, field.at + 2, field_type)
    layout = "HH" if field_type == SHORT else "I"
    values = (value, 0) if field_type == SHORT else (value,)
    struct.pack_into(directories.order + layout, block, field.value_at, *values)


def _without_thumbnail(
    block: bytearray, directories: Directories, main: Directory
) -> bytes:
    """Unlink the second directory; its thumbnail is cut off or overwritten by zeros."""
    if not main.next:
        return bytes(block)
    second = directories.read(main.next)
    start = directories.value(second, THUMBNAIL_AT)
    length = directories.value(second, THUMBNAIL_LENGTH)
    struct.pack_into(directories.order + "I", block, main.next_at, 0)
    if start and length and start + length <= len(block):
        if start + length == len(block):
            del block[start:]
        else:
            block[start : start + length] = bytes(length)
    return bytes(block)
