"""Read and insert the metadata chunks of WebP files."""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from gendr_jax.image_io.metadata.exif import PREFIX
from gendr_jax.image_io.metadata.statements import Metadata

HAS_XMP, HAS_EXIF, HAS_ALPHA = 0x04, 0x08, 0x10
KNOWN = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ICCP", b"ANIM", b"ANMF"}


def read(file: BinaryIO) -> Metadata:
    """The metadata in its chunks."""
    exif_block = packet = None
    lost = []
    for name, data in _chunks(file, {b"EXIF", b"XMP "}):
        if name == b"EXIF" and data is not None:
            exif_block = data.removeprefix(PREFIX)
        elif name == b"XMP ":
            packet = data
        elif name not in KNOWN:
            lost.append(f"WebP chunk {name.decode('latin-1')!r}")
    return Metadata(exif=exif_block, xmp=packet, lost=tuple(lost))


def insert(source: BinaryIO, out: BinaryIO, metadata: Metadata) -> None:
    """Copy a file without metadata, with this metadata and the extended header."""
    added = [(b"EXIF", metadata.exif, HAS_EXIF), (b"XMP ", metadata.xmp, HAS_XMP)]
    added = [(name, data, flag) for name, data, flag in added if data is not None]
    body = source.read()[12:]
    if added:
        header, body = _extended(body)
        for name, data, flag in added:
            header[8] |= flag
            body += name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        body = bytes(header) + body
    out.write(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body)


def _extended(body: bytes) -> tuple[bytearray, bytes]:
    """(extended header VP8X, the other chunks); the header is added if missing."""
    if body[:4] == b"VP8X":
        return bytearray(body[:18]), body[18:]
    bits = int.from_bytes(body[9:13], "little")  # VP8L: 14 bits a side, alpha
    width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
    if body[:4] == b"VP8 ":
        width, height = (v & 0x3FFF for v in struct.unpack_from("<HH", body, 14))
        width, height, alpha = width - 1, height - 1, 0
    header = bytearray(b"VP8X" + struct.pack("<II", 10, HAS_ALPHA * alpha))
    header += width.to_bytes(3, "little") + height.to_bytes(3, "little")
    return header, body


def _chunks(file: BinaryIO, wanted: set[bytes]) -> Iterator[tuple[bytes, bytes | None]]:
    """(name, data if wanted, else None) of each chunk."""
    offset = 12
    while True:
        file.seek(offset)
        head = file.read(8)
        if len(head) < 8:
            return
        length = int.from_bytes(head[4:], "little")
        yield head[:4], file.read(length) if head[:4] in wanted else None
        offset += 8 + length + length % 2
