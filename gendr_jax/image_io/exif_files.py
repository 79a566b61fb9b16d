"""An EXIF block into and out of JPEG, PNG and WebP files, byte for byte."""

import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gendr_jax.image_io.exif import PREFIX

PNG_START = b"\x89PNG\r\n\x1a\n"
MOST_IN_JPEG = 65533 - len(PREFIX)  # a segment says its length in 16 bits
HAS_EXIF, HAS_ALPHA = 0x08, 0x10


def read(path: Path, kind: str) -> bytes | None:
    """The block of a file without its prefix, or None."""
    with open(path, "rb") as file:
        if kind == "JPEG":
            for marker, data in _segments(file):
                if marker == 0xE1 and data.startswith(PREFIX):
                    return data[len(PREFIX) :]
        elif kind == "PNG":
            for name, at, length in _chunks(file):
                if name == b"eXIf":
                    file.seek(at)
                    return file.read(length).removeprefix(PREFIX)
        elif kind == "WEBP":
            for name, data in _riff_chunks(file, {b"EXIF"}):
                if name == b"EXIF" and data is not None:
                    return data.removeprefix(PREFIX)
    return None


def insert(
    path: Path,
    target: Path,
    kind: str,
    block: bytes | None,
    dots_per_inch: tuple[float, float] | None = None,
) -> None:
    """Copy a file that has neither to `target`, with an EXIF block and a resolution.

    A block that is too large for JPEG is left out. The resolution is for JPEG alone,
    as libvips writes it into the other formats.
    """
    with open(path, "rb") as source, open(target, "wb") as out:
        if kind == "JPEG":
            out.write(source.read(2))
            if dots_per_inch is not None:
                out.write(_jfif(*dots_per_inch))
            if block is not None and len(block) <= MOST_IN_JPEG:
                data = PREFIX + block
                out.write(b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data)
        elif kind == "PNG" and block is not None:
            out.write(source.read(len(PNG_START) + 25))  # and its first chunk, IHDR
            crc = zlib.crc32(b"eXIf" + block)
            out.write(struct.pack(">I", len(block)) + b"eXIf" + block)
            out.write(struct.pack(">I", crc))
        elif kind == "WEBP" and block is not None:
            _insert_riff(source, out, block)
        shutil.copyfileobj(source, out, 2**20)


def _jfif(across: float, down: float) -> bytes:
    """The first segment of a JFIF file; its unit 1 is dots an inch."""
    limited = (min(round(d), 2**16 - 1) for d in (across, down))
    return struct.pack(
        ">2sH5sHBHHBB", b"\xff\xe0", 16, b"JFIF\0", 0x101, 1, *limited, 0, 0
    )


def _segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(marker, data) of a JPEG file up to its pixels."""
    file.seek(2)
    while len(head := file.read(2)) == 2 and head[0] == 0xFF:
        marker = head[1]
        if marker == 0xFF:  # fill
            file.seek(-1, 1)
            continue
        if marker in (0xDA, 0xD9):
            return
        length = int.from_bytes(file.read(2))
        if length < 2:
            return
        yield marker, file.read(length - 2)


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """(name, where its data starts, its length) of a PNG file's chunks."""
    at = len(PNG_START)
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        length = int.from_bytes(head[:4])
        yield head[4:], at + 8, length
        at += 12 + length


def _riff_chunks(
    file: BinaryIO, wanted: set[bytes]
) -> Iterator[tuple[bytes, bytes | None]]:
    """(name, data where wanted) of a WebP file's chunks."""
    at = 12
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        length = int.from_bytes(head[4:], "little")
        yield head[:4], file.read(length) if head[:4] in wanted else None
        at += 8 + length + length % 2


def _insert_riff(source: BinaryIO, out: BinaryIO, block: bytes) -> None:
    """Write the whole file: the extended header says that there is a block."""
    source.seek(12)
    body = source.read()
    if body[:4] == b"VP8X":
        header = bytearray(body[:18])
        header[8] |= HAS_EXIF
        body = body[18:]
    else:
        bits = int.from_bytes(body[9:13], "little")  # VP8L: 14 bits a side, alpha
        width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
        if body[:4] == b"VP8 ":
            width, height = (v & 0x3FFF for v in struct.unpack_from("<HH", body, 14))
            width, height, alpha = width - 1, height - 1, 0
        flags = HAS_EXIF | HAS_ALPHA * alpha
        header = bytearray(b"VP8X" + struct.pack("<II", 10, flags))
        header += width.to_bytes(3, "little") + height.to_bytes(3, "little")
    body += b"EXIF" + struct.pack("<I", len(block)) + block + b"\0" * (len(block) % 2)
    body = bytes(header) + body
    out.write(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body)
