"""Directories of TIFF files and of EXIF blocks, which are built alike."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

# Bytes of one value, by the type of a field (TIFF 6.0, and BigTIFF from 16 on).
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
SIZES |= {13: 4, 16: 8, 17: 8, 18: 8}
LETTERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 18: "Q"}
SHORT, LONG = 3, 4
MOST_DIRECTORIES, MOST_VALUES = 256, 64
MOST_BYTES = 256 * 2**20  # of one field of metadata
SUBFILE_TYPE, OLD_SUBFILE_TYPE, WIDTH, HEIGHT, PHOTOMETRIC = 254, 255, 256, 257, 262
SUB_DIRECTORIES, EXTRA_SAMPLES, DNG_VERSION = 330, 338, 50706
CFA, LINEAR_RAW = 32803, 34892


@dataclass(frozen=True)
class Field:
    """One field of a directory.

    Attributes:
        tag, kind, count: as stored.
        at: where its 12 (BigTIFF: 20) bytes start.
        value_at: where its values start.
    """

    tag: int
    kind: int
    count: int
    at: int
    value_at: int


@dataclass(frozen=True)
class Directory:
    """One directory: its fields by tag, and where the offset of the next one stands."""

    fields: dict[int, Field]
    next_at: int
    next: int


class Directories:
    """The directories of a seekable file.

    Raises:
        ValueError: a file that is none of these; `struct.error` where it ends early.
    """

    def __init__(self, file: BinaryIO):
        """Read the header."""
        self._file = file
        file.seek(0)
        head = file.read(16)
        self.order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        if not self.order:
            raise ValueError("neither II nor MM")
        (magic,) = struct.unpack_from(self.order + "H", head, 2)
        self.big = magic == 43
        layout, at = ("Q", 8) if self.big else ("I", 4)
        (self.first,) = struct.unpack_from(self.order + layout, head, at)

    def read(self, at: int) -> Directory:
        """The directory that starts at this offset."""
        length = self._number("Q" if self.big else "H", at)
        entry, wide = (20, "Q") if self.big else (12, "I")
        start = at + (8 if self.big else 2)
        fields = {}
        for i in range(min(length, 4096)):
            here = start + i * entry
            tag, kind = self._numbers("HH", here)
            count = self._number(wide, here + 4)
            value_at = here + (12 if self.big else 8)
            if count * SIZES.get(kind, 1) > (8 if self.big else 4):
                value_at = self._number(wide, value_at)
            fields[tag] = Field(tag, kind, count, here, value_at)
        next_at = start + length * entry
        return Directory(fields, next_at, self._number(wide, next_at))

    def chain(self) -> Iterator[Directory]:
        """The directories from the first on, each once."""
        at, seen = self.first, set()
        while at and at not in seen and len(seen) < MOST_DIRECTORIES:
            seen.add(at)
            directory = self.read(at)
            yield directory
            at = directory.next

    def data(self, field: Field) -> bytes:
        """The bytes of a field's values, in the byte order of the file."""
        size = SIZES.get(field.kind, 0) * field.count
        if size > MOST_BYTES:
            raise ValueError(f"field {field.tag} has {size} bytes")
        self._file.seek(field.value_at)
        found = self._file.read(size)
        if len(found) < size:
            raise ValueError(f"field {field.tag} ends beyond the file")
        return found

    def raw(self, field: Field) -> bytes:
        """A field's entry in its directory, as it is stored."""
        self._file.seek(field.at)
        return self._file.read(20 if self.big else 12)

    def values(self, directory: Directory, tag: int) -> tuple[int, ...]:
        """The first whole numbers of a field; empty where there is none."""
        field = directory.fields.get(tag)
        if field is None or field.kind not in LETTERS:
            return ()
        count = min(field.count, MOST_VALUES)
        return self._numbers(LETTERS[field.kind] * count, field.value_at)

    def value(self, directory: Directory, tag: int, absent: int = 0) -> int:
        """The first whole number of a field."""
        return next(iter(self.values(directory, tag)), absent)

    def _number(self, layout: str, at: int) -> int:
        return self._numbers(layout, at)[0]

    def _numbers(self, layout: str, at: int) -> tuple[int, ...]:
        self._file.seek(at)
        layout = self.order + layout
        return struct.unpack(layout, self._file.read(struct.calcsize(layout)))


@dataclass(frozen=True)
class Pages:
    """What a TIFF file holds, apart from copies at a reduced size and masks.

    Attributes:
        raw: whether it is the raw data of a camera.
        full: (page, sub-directory or -1) of each picture.
        extra: meanings of the extra samples of the first of those: 0 not stated, 1
            opacity that colours are multiplied by, 2 opacity.
        copies: pages that are no picture of their own.
    """

    raw: bool
    full: tuple[tuple[int, int], ...]
    extra: tuple[int, ...]
    copies: int


def pages(file: BinaryIO) -> Pages:
    """Look through all directories of a TIFF file.

    Raises:
        ValueError, struct.error: it cannot be followed.
    """
    read = Directories(file)
    full: list[tuple[int, int]] = []
    extra: list[tuple[int, ...]] = []
    raw, copies = False, 0
    for page, directory in enumerate(read.chain()):
        raw |= DNG_VERSION in directory.fields
        raw |= read.value(directory, PHOTOMETRIC) in (CFA, LINEAR_RAW)
        pixels = _pixels(read, directory)
        best = None if _is_copy(read, directory) else (pixels, -1, directory)
        for sub, at in enumerate(read.values(directory, SUB_DIRECTORIES)):
            inner = read.read(at)
            raw |= read.value(inner, PHOTOMETRIC) in (CFA, LINEAR_RAW)
            size = _pixels(read, inner)
            if not _is_copy(read, inner) and size > (best[0] if best else 0):
                best = size, sub, inner
        if best is None:
            copies += 1
            continue
        full.append((page, best[1]))
        extra.append(read.values(best[2], EXTRA_SAMPLES))
    return Pages(raw, tuple(full), extra[0] if extra else (), copies)


def _is_copy(read: Directories, directory: Directory) -> bool:
    """Whether a directory says that it is a reduced copy or a mask."""
    bits = read.value(directory, SUBFILE_TYPE)
    return bool(bits & 5) or read.value(directory, OLD_SUBFILE_TYPE) == 2


def _pixels(read: Directories, directory: Directory) -> int:
    return read.value(directory, WIDTH) * read.value(directory, HEIGHT)
