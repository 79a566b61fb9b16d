"""Directories of TIFF files and EXIF blocks taken out, put in, and added to.

Values keep their bytes; where the byte order changes, numbers are turned by their type.
"""

import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from gendr_jax.image_io.metadata.directories import LONG, SIZES, Directories, Directory

EXIF, GPS, INTEROPERABILITY = 0x8769, 0x8825, 0xA005
BRANCHES = (EXIF, GPS, INTEROPERABILITY)
LONG8 = 16
# How many bytes are turned together; other types have no order.
WIDTHS = {3: 2, 4: 4, 5: 4, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
DEEPEST = 3


@dataclass(frozen=True)
class Value:
    """One field, apart from where it stood.

    Attributes:
        tag, kind, count: as stored; `kind` and `count` do not matter with `inside`.
        data: its values in the byte order of the tree.
        inside: the fields of the directory that it leads to, or None.
    """

    tag: int
    kind: int
    count: int
    data: bytes
    inside: tuple["Value", ...] | None = None


def take(
    read: Directories,
    directory: Directory,
    wanted: Callable[[int], bool] = lambda tag: True,
    depth: int = 0,
) -> tuple[Value, ...]:
    """The fields of a directory, those of EXIF, GPS and interoperability with theirs.

    Fields of a type that is not known are left out.

    Raises:
        ValueError, struct.error: it cannot be followed.
    """
    found = []
    for tag, field in sorted(directory.fields.items()):
        if not wanted(tag) or field.kind not in SIZES:
            continue
        if tag in BRANCHES and depth < DEEPEST:
            inner = read.read(read.value(directory, tag))
            inside = take(read, inner, depth=depth + 1)
            found.append(Value(tag, LONG, 1, b"", inside))
        else:
            found.append(Value(tag, field.kind, field.count, read.data(field)))
    return tuple(found)


def turned(values: Sequence[Value], order: str, wanted: str) -> tuple[Value, ...]:
    """The same in another byte order ("<" or ">")."""
    if order == wanted:
        return tuple(values)
    return tuple(_turned(value, order, wanted) for value in values)


def block(values: Sequence[Value], order: str = "<") -> bytes:
    """An EXIF block of these fields, without prefix."""
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8)
    return start + _written(values, order, False, 8, ())


def added(
    read: Directories,
    end: int,
    values: Sequence[Value],
    *,
    without: Collection[int] = (),
) -> bytes:
    """What stands at `end` once the first directory, moved there, has more fields.

    Everything else stays where it is; the header has to lead to `end` afterwards, see
    `header_field`. Fields of the same tags are replaced.

    Args:
        values: in the byte order of the file.
        without: tags that are left out.
    """
    directory = read.read(read.first)
    new = {value.tag for value in values} | set(without)
    kept = [
        (tag, read.raw(field))
        for tag, field in directory.fields.items()
        if tag not in new
    ]
    return _written(values, read.order, read.big, end, kept, directory.next)


def header_field(read: Directories, end: int) -> tuple[int, bytes]:
    """(where the header says where the first directory is, what it has to say)."""
    if read.big:
        return 8, struct.pack(read.order + "Q", end)
    return 4, struct.pack(read.order + "I", end)


def _turned(value: Value, order: str, wanted: str) -> Value:
    if value.inside is not None:
        inside = turned(value.inside, order, wanted)
        return Value(value.tag, value.kind, value.count, b"", inside)
    width, data = WIDTHS.get(value.kind, 1), value.data
    if width > 1:
        pieces = (data[i : i + width][::-1] for i in range(0, len(data), width))
        data = b"".join(pieces)
    return Value(value.tag, value.kind, value.count, data)


def _written(
    values: Sequence[Value],
    order: str,
    big: bool,
    at: int,
    kept: Sequence[tuple[int, bytes]],
    following: int = 0,
) -> bytes:
    """A directory that starts at `at`, then what its fields hold.

    Args:
        kept: (tag, entry as it is stored) of fields whose values stay elsewhere.
        following: where the next directory starts.
    """
    counts, wide, room = ("Q", "Q", 8) if big else ("H", "I", 4)
    entries, body = dict(kept), bytearray()
    number = len(values) + len(kept)
    head = struct.pack(order + counts, number)
    data_at = at + len(head) + number * (4 + 2 * room) + room
    for value in values:
        body += b"\0" * (len(body) % 2)
        place = data_at + len(body)
        data, kind, count = value.data, value.kind, value.count
        if value.inside is not None:
            body += _written(value.inside, order, big, place, ())
            data, kind, count = struct.pack(order + wide, place), LONG8 if big else 4, 1
        elif len(data) > room:
            body += data
            data = struct.pack(order + wide, place)
        field = struct.pack(order + "HH" + wide, value.tag, kind, count)
        entries[value.tag] = field + data.ljust(room, b"\0")
    rows = b"".join(entries[tag] for tag in sorted(entries))
    return head + rows + struct.pack(order + wide, following) + bytes(body)
