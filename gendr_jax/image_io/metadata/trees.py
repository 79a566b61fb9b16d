"""Copy directories of TIFF files and EXIF blocks: extract, build, add fields.

Values keep their bytes; if the byte order changes, numbers are swapped by their type.
"""

import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from gendr_jax.image_io.metadata.directories import LONG, SIZES, Directories, Directory

EXIF, GPS, INTEROPERABILITY = 0x8769, 0x8825, 0xA005
BRANCHES = (EXIF, GPS, INTEROPERABILITY)
LONG8 = 16
# Bytes of one number by TIFF type, for byte swapping; other types are not swapped.
WIDTHS = {3: 2, 4: 4, 5: 4, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
MAX_DEPTH = 3


@dataclass(frozen=True)
class Value:
    """One field with its data, without offsets.

    Attributes:
        tag, type, count: as stored; `type` and `count` are unused with `subfields`.
        data: its values in the byte order of the tree.
        subfields: the fields of the directory that it points to, or None.
    """

    tag: int
    type: int
    count: int
    data: bytes
    subfields: tuple["Value", ...] | None = None


def take(
    directories: Directories,
    directory: Directory,
    is_wanted: Callable[[int], bool] = lambda tag: True,
    depth: int = 0,
) -> tuple[Value, ...]:
    """The fields of a directory, with its EXIF, GPS and interoperability directories.

    Fields of unknown types are left out.

    Raises:
        ValueError, struct.error: it cannot be parsed.
    """
    values = []
    for tag, field in sorted(directory.fields.items()):
        if not is_wanted(tag) or field.type not in SIZES:
            continue
        if tag in BRANCHES and depth < MAX_DEPTH:
            sub_directory = directories.read(directories.value(directory, tag))
            subfields = take(directories, sub_directory, depth=depth + 1)
            values.append(Value(tag, LONG, 1, b"", subfields))
        else:
            values.append(Value(tag, field.type, field.count, directories.data(field)))
    return tuple(values)


def swapped(
    values: Sequence[Value], order: str, target_order: str
) -> tuple[Value, ...]:
    """The values in another byte order ("<" or ">")."""
    if order == target_order:
        return tuple(values)
    return tuple(_swapped(value, order, target_order) for value in values)


def block(values: Sequence[Value], order: str = "<") -> bytes:
    """An EXIF block with these fields, without prefix."""
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8)
    return start + _written(values, order, False, 8, ())


def added(
    directories: Directories,
    end: int,
    values: Sequence[Value],
    *,
    without: Collection[int] = (),
) -> bytes:
    """The bytes to append at `end`: a copy of the first directory with more fields.

    Nothing else moves, so offsets inside other data stay valid; the header has to point
    to `end` afterwards, see `header_field`. Fields of the same tags are replaced.

    Args:
        values: in the byte order of the file.
        without: tags that are left out.
    """
    directory = directories.read(directories.first)
    replaced_tags = {value.tag for value in values} | set(without)
    kept = [
        (tag, directories.raw(field))
        for tag, field in directory.fields.items()
        if tag not in replaced_tags
    ]
    return _written(
        values, directories.order, directories.big, end, kept, directory.next
    )


def header_field(directories: Directories, end: int) -> tuple[int, bytes]:
    """(offset in the header of the pointer to the first directory, its new bytes)."""
    if directories.big:
        return 8, struct.pack(directories.order + "Q", end)
    return 4, struct.pack(directories.order + "I", end)


def _swapped(value: Value, order: str, target_order: str) -> Value:
    if value.subfields is not None:
        subfields = swapped(value.subfields, order, target_order)
        return Value(value.tag, value.type, value.count, b"", subfields)
    width, data = WIDTHS.get(value.type, 1), value.data
    if width > 1:
        numbers = (data[i : i + width][::-1] for i in range(0, len(data), width))
        data = b"".join(numbers)
    return Value(value.tag, value.type, value.count, data)


def _written(
    values: Sequence[Value],
    order: str,
    big: bool,
    at: int,
    kept: Sequence[tuple[int, bytes]],
    following: int = 0,
) -> bytes:
    """A directory at offset `at`, followed by the values of its fields.

    Args:
        kept: (tag, stored entry) of fields whose values stay where they are.
        following: offset of the next directory, 0 if none.
    """
    count_layout, offset_layout, inline_size = ("Q", "Q", 8) if big else ("H", "I", 4)
    entries, body = dict(kept), bytearray()
    count_of_fields = len(values) + len(kept)
    head = struct.pack(order + count_layout, count_of_fields)
    data_at = at + len(head) + count_of_fields * (4 + 2 * inline_size) + inline_size
    for value in values:
        body += b"\0" * (len(body) % 2)
        value_at = data_at + len(body)
        data, type, count = value.data, value.type, value.count
        if value.subfields is not None:
            body += _written(value.subfields, order, big, value_at, ())
            data, type, count = (
                struct.pack(order + offset_layout, value_at),
                LONG8 if big else 4,
                1,
            )
        elif len(data) > inline_size:
            body += data
            data = struct.pack(order + offset_layout, value_at)
        field = struct.pack(order + "HH" + offset_layout, value.tag, type, count)
        entries[value.tag] = field + data.ljust(inline_size, b"\0")
    rows = b"".join(entries[tag] for tag in sorted(entries))
    return head + rows + struct.pack(order + offset_layout, following) + bytes(body)
