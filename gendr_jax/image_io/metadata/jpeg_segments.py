"""Read and insert the metadata segments of JPEG files."""

import hashlib
import shutil
import struct
from collections.abc import Iterator
from typing import BinaryIO

from gendr_jax.image_io.metadata import photoshop, xmp
from gendr_jax.image_io.metadata.exif import MM_PER_INCH, PREFIX
from gendr_jax.image_io.metadata.statements import Metadata

MAX_SEGMENT = 65533  # the 16-bit length of a segment includes its own two bytes
MAX_EXIF = MAX_SEGMENT - len(PREFIX)
XMP = b"http://ns.adobe.com/xap/1.0/\0"
EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
MAX_XMP = MAX_SEGMENT - len(XMP)
PHOTOSHOP = b"Photoshop 3.0\0"
JFIF, APP1, APP2, APP13, COMMENT = 0xE0, 0xE1, 0xE2, 0xED, 0xFE
# Segments that are not metadata: for decoders, for programs, thumbnails, the profile.
IGNORED = (b"JFXX\0", b"Adobe", b"Ducky", b"ICC_PROFILE\0")
NAMES = {b"MPF\0": "other pictures (MPF)", b"JP": "content credentials (JUMBF)"}
PER_UNIT = {1: MM_PER_INCH, 2: 10.0}


def read(file: BinaryIO) -> Metadata:
    """The metadata in the segments before the pixels."""
    exif_block = density = None
    packet, resources, comments, lost = b"", b"", [], []
    extension: dict[bytes, dict[int, bytes]] = {}
    for marker, data in segments(file):
        if marker == JFIF and data.startswith(b"JFIF\0") and len(data) >= 12:
            density = density or _density(data)
        elif marker == APP1 and data.startswith(PREFIX):
            exif_block = exif_block or data[len(PREFIX) :]
        elif marker == APP1 and data.startswith(XMP):
            packet = packet or data[len(XMP) :]
        elif marker == APP1 and data.startswith(EXTENSION):
            guid, body = data[len(EXTENSION) :][:32], data[len(EXTENSION) + 32 :]
            offset = int.from_bytes(body[4:8])
            extension.setdefault(guid, {})[offset] = body[8:]
        elif marker == APP13 and data.startswith(PHOTOSHOP):
            resources += data[len(PHOTOSHOP) :]
        elif marker == COMMENT:
            comments.append(data)
        elif 0xE0 <= marker <= 0xEF and not data.startswith(IGNORED):
            lost.append(_name(marker, data))
    iptc, has_others = photoshop.split(resources)
    for guid, pieces in extension.items():
        if guid in packet:
            packet = xmp.merged(
                packet, b"".join(pieces[offset] for offset in sorted(pieces))
            )
    return Metadata(
        exif=exif_block,
        xmp=packet or None,
        iptc=iptc,
        comment=b"\n".join(comments) if comments else None,
        density=density,
        lost=(*lost, *(["Photoshop resources"] if has_others else [])),
    )


def insert(source: BinaryIO, out: BinaryIO, metadata: Metadata) -> None:
    """Copy a file without metadata, with this metadata inserted."""
    start = source.read(4)
    if start[2:] == b"\xff\xe0":  # the encoder's own JFIF segment
        source.seek(int.from_bytes(source.read(2)) - 2, 1)
    else:
        source.seek(2)
    out.write(start[:2])
    _segment(out, JFIF, _jfif(metadata.density))
    if metadata.exif is not None:
        _segment(out, APP1, PREFIX + metadata.exif)
    if metadata.xmp is not None:
        _write_xmp(out, metadata.xmp)
    if metadata.iptc is not None:
        resources = photoshop.of_iptc(metadata.iptc)
        for piece in _pieces(resources, MAX_SEGMENT - len(PHOTOSHOP)):
            _segment(out, APP13, PHOTOSHOP + piece)
    for piece in _pieces(metadata.comment or b"", MAX_SEGMENT):
        _segment(out, COMMENT, piece)
    shutil.copyfileobj(source, out, 2**20)


def segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(marker, data) of the segments before the pixels."""
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


def _name(marker: int, data: bytes) -> str:
    for start, name in NAMES.items():
        if data.startswith(start):
            return name
    label = data[:16].split(b"\0")[0].decode("latin-1")
    return f"segment APP{marker & 15} {label!r}"


def _density(data: bytes) -> tuple[float, float] | None:
    unit, across, down = struct.unpack(">BHH", data[7:12])
    if unit not in PER_UNIT or not across or not down:
        return None
    return across / PER_UNIT[unit], down / PER_UNIT[unit]


def _jfif(density: tuple[float, float] | None) -> bytes:
    """A JFIF segment. Unit 1: dots an inch; 0: square pixels of unknown size."""
    unit, across, down = 0, 1, 1
    if density is not None:
        unit = 1
        across, down = (min(round(d * MM_PER_INCH), 2**16 - 1) for d in density)
    return struct.pack(">5sHBHHBB", b"JFIF\0", 0x101, unit, across, down, 0, 0)


def _write_xmp(out: BinaryIO, packet: bytes) -> None:
    """In one segment, or as extended XMP (XMP, part 3, 1.1.3.1)."""
    packet = packet if len(packet) <= MAX_XMP else xmp.without_padding(packet)
    if len(packet) <= MAX_XMP:
        _segment(out, APP1, XMP + packet)
        return
    guid = hashlib.md5(packet, usedforsecurity=False).hexdigest().upper().encode()
    _segment(out, APP1, XMP + xmp.extended_by(guid))
    piece_size, offset = MAX_SEGMENT - len(EXTENSION) - 40, 0
    for piece in _pieces(packet, piece_size):
        head = EXTENSION + guid + struct.pack(">II", len(packet), offset)
        _segment(out, APP1, head + piece)
        offset += len(piece)


def _segment(out: BinaryIO, marker: int, data: bytes) -> None:
    out.write(struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data)


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    for offset in range(0, len(data), size):
        yield data[offset : offset + size]
