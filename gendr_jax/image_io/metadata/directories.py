"""Parse the directories (IFDs) of TIFF files and of EXIF blocks."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

# Bytes of one value, by the type of a field (TIFF 6.0, and BigTIFF from 16 on).
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
SIZES |= {13: 4, 16: 8, 17: 8, 18: 8}
LETTERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 18: "Q"}
SHORT, LONG = 3, 4
MAX_DIRECTORIES, MAX_VALUES = 256, 64
MAX_BYTES = 256 * 2**20  # of one field of metadata
SUBFILE_TYPE, OLD_SUBFILE_TYPE, WIDTH, HEIGHT, PHOTOMETRIC = 254, 255, 256, 257, 262
SUB_DIRECTORIES, EXTRA_SAMPLES, DNG_VERSION = 330, 338, 50706
CFA, LINEAR_RAW = 32803, 34892


@dataclass(frozen=True)
class Field:
    """One field of a directory.

    Attributes:
        tag, type, count: as stored.
        at: offset of its entry of 12 (BigTIFF: 20) bytes.
        value_at: offset of its values.
    """

    tag: int
    type: int
    count: int
    at: int
    value_at: int


@dataclass(frozen=True)
class Directory:
    """One directory: fields by tag, the offset of the next and where that is stored."""

    fields: dict[int, Field]
    next_at: int
    next: int


class Directories:
    """The directories of a seekable file.

    Raises:
        ValueError: neither TIFF nor EXIF; `struct.error`: truncated.
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
        entry_size, layout = (20, "Q") if self.big else (12, "I")
        start = at + (8 if self.big else 2)
        fields = {}
        for i in range(min(length, 4096)):
            entry_at = start + i * entry_size
            tag, type = self._numbers("HH", entry_at)
            count = self._number(layout, entry_at + 4)
            value_at = entry_at + (12 if self.big else 8)
            if count * SIZES.get(type, 1) > (8 if self.big else 4):
                value_at = self._number(layout, value_at)
            fields[tag] = Field(tag, type, count, entry_at, value_at)
        next_at = start + length * entry_size
        return Directory(fields, next_at, self._number(layout, next_at))

    def chain(self) -> Iterator[Directory]:
        """The directories from the first on, each once."""
        at, seen = self.first, set()
        while at and at not in seen and len(seen) < MAX_DIRECTORIES:
            seen.add(at)
            directory = self.read(at)
            yield directory
            at = directory.next

    def data(self, field: Field) -> bytes:
        """The bytes of a field's values, in the byte order of the file."""
        size = SIZES.get(field.type, 0) * field.count
        if size > MAX_BYTES:
            raise ValueError(f"field {field.tag} has {size} bytes")
        self._file.seek(field.value_at)
        data = self._file.read(size)
        if len(data) < size:
            raise ValueError(f"field {field.tag} ends beyond the file")
        return data

    def raw(self, field: Field) -> bytes:
        """The stored bytes of a field's entry in its directory."""
        self._file.seek(field.at)
        return self._file.read(20 if self.big else 12)

    def values(self, directory: Directory, tag: int) -> tuple[int, ...]:
        """The integers of a field, MAX_VALUES at most; empty if it is missing."""
        field = directory.fields.get(tag)
        if field is None or field.type not in LETTERS:
            return ()
        count = min(field.count, MAX_VALUES)
        return self._numbers(LETTERS[field.type] * count, field.value_at)

    def value(self, directory: Directory, tag: int, absent: int = 0) -> int:
        """The first integer of a field."""
        return next(iter(self.values(directory, tag)), absent)

    def _number(self, layout: str, at: int) -> int:
        return self._numbers(layout, at)[0]

    def _numbers(self, layout: str, at: int) -> tuple[int, ...]:
        self._file.seek(at)
        layout = self.order + layout
        return struct.unpack(layout, self._file.read(struct.calcsize(layout)))


@dataclass(frozen=True)
class Pages:
    """The pictures of a TIFF file.

    Attributes:
        raw: whether it is a camera raw file.
        full: (page, index of the SubIFD or -1) of each full-size picture.
        extra: ExtraSamples of the first of those: 0 not stated, 1 opacity that colours
            are multiplied by, 2 opacity.
        copies: number of pages with reduced-size copies and masks alone.
    """

    raw: bool
    full: tuple[tuple[int, int], ...]
    extra: tuple[int, ...]
    copies: int


def pages(file: BinaryIO) -> Pages:
    """Scan all directories of a TIFF file.

    Raises:
        ValueError, struct.error: they cannot be parsed.
    """
    directories = Directories(file)
    full: list[tuple[int, int]] = []
    extra: list[tuple[int, ...]] = []
    raw, copies = False, 0
    for page, directory in enumerate(directories.chain()):
        raw |= DNG_VERSION in directory.fields
        raw |= directories.value(directory, PHOTOMETRIC) in (CFA, LINEAR_RAW)
        pixels = _pixels(directories, directory)
        largest = None if _is_copy(directories, directory) else (pixels, -1, directory)
        for subifd, offset in enumerate(directories.values(directory, SUB_DIRECTORIES)):
            sub_directory = directories.read(offset)
            raw |= directories.value(sub_directory, PHOTOMETRIC) in (CFA, LINEAR_RAW)
            size = _pixels(directories, sub_directory)
            if not _is_copy(directories, sub_directory) and size > (
                largest[0] if largest else 0
            ):
                largest = size, subifd, sub_directory
        if largest is None:
            copies += 1
            continue
        full.append((page, largest[1]))
        extra.append(directories.values(largest[2], EXTRA_SAMPLES))
    return Pages(raw, tuple(full), extra[0] if extra else (), copies)


def _is_copy(directories: Directories, directory: Directory) -> bool:
    """Whether a directory is marked as a reduced-size copy or a mask."""
    bits = directories.value(directory, SUBFILE_TYPE)
    return bool(bits & 5) or directories.value(directory, OLD_SUBFILE_TYPE) == 2


def _pixels(directories: Directories, directory: Directory) -> int:
    return directories.value(directory, WIDTH) * directories.value(directory, HEIGHT)
