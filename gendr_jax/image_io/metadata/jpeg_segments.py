"""What a JPEG file states, out of its segments and into them."""

import hashlib
import shutil
import struct
from collections.abc import Iterator
from typing import BinaryIO

from gendr_jax.image_io.metadata import photoshop, xmp
from gendr_jax.image_io.metadata.exif import MM_PER_INCH, PREFIX
from gendr_jax.image_io.metadata.statements import Metadata

MOST = 65533  # a segment says its length, itself included, in 16 bits
MOST_EXIF = MOST - len(PREFIX)
XMP = b"http://ns.adobe.com/xap/1.0/\0"
EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
MOST_XMP = MOST - len(XMP)
PHOTOSHOP = b"Photoshop 3.0\0"
JFIF, APP1, APP2, APP13, COMMENT = 0xE0, 0xE1, 0xE2, 0xED, 0xFE
# What decoding needs, what only programs ask for, and thumbnails.
SILENT = (b"JFXX\0", b"Adobe", b"Ducky", b"ICC_PROFILE\0")
NAMES = {b"MPF\0": "other pictures (MPF)", b"JP": "content credentials (JUMBF)"}
PER_UNIT = {1: MM_PER_INCH, 2: 10.0}


def read(file: BinaryIO) -> Metadata:
    """What the segments before the pixels say."""
    block = density = None
    packet, resources, comments, lost = b"", b"", [], []
    extension: dict[bytes, dict[int, bytes]] = {}
    for marker, data in segments(file):
        if marker == JFIF and data.startswith(b"JFIF\0") and len(data) >= 12:
            density = density or _density(data)
        elif marker == APP1 and data.startswith(PREFIX):
            block = block or data[len(PREFIX) :]
        elif marker == APP1 and data.startswith(XMP):
            packet = packet or data[len(XMP) :]
        elif marker == APP1 and data.startswith(EXTENSION):
            guid, rest = data[len(EXTENSION) :][:32], data[len(EXTENSION) + 32 :]
            at = int.from_bytes(rest[4:8])
            extension.setdefault(guid, {})[at] = rest[8:]
        elif marker == APP13 and data.startswith(PHOTOSHOP):
            resources += data[len(PHOTOSHOP) :]
        elif marker == COMMENT:
            comments.append(data)
        elif 0xE0 <= marker <= 0xEF and not data.startswith(SILENT):
            lost.append(_name(marker, data))
    iptc, others = photoshop.split(resources)
    for guid, parts in extension.items():
        if guid in packet:
            packet = xmp.merged(packet, b"".join(parts[at] for at in sorted(parts)))
    return Metadata(
        exif=block,
        xmp=packet or None,
        iptc=iptc,
        comment=b"\n".join(comments) if comments else None,
        density=density,
        lost=(*lost, *(["Photoshop resources"] if others else [])),
    )


def insert(source: BinaryIO, out: BinaryIO, said: Metadata) -> None:
    """Copy a file that states nothing, with what `said` says."""
    start = source.read(4)
    if start[2:] == b"\xff\xe0":  # the encoder's own JFIF segment
        source.seek(int.from_bytes(source.read(2)) - 2, 1)
    else:
        source.seek(2)
    out.write(start[:2])
    _segment(out, JFIF, _jfif(said.density))
    if said.exif is not None:
        _segment(out, APP1, PREFIX + said.exif)
    if said.xmp is not None:
        _write_xmp(out, said.xmp)
    if said.iptc is not None:
        resources = photoshop.of_iptc(said.iptc)
        for part in _parts(resources, MOST - len(PHOTOSHOP)):
            _segment(out, APP13, PHOTOSHOP + part)
    for part in _parts(said.comment or b"", MOST):
        _segment(out, COMMENT, part)
    shutil.copyfileobj(source, out, 2**20)


def segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(marker, data) up to the pixels."""
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
    """Unit 1 is dots an inch; 0 states nothing but square pixels."""
    unit, across, down = 0, 1, 1
    if density is not None:
        unit = 1
        across, down = (min(round(d * MM_PER_INCH), 2**16 - 1) for d in density)
    return struct.pack(">5sHBHHBB", b"JFIF\0", 0x101, unit, across, down, 0, 0)


def _write_xmp(out: BinaryIO, packet: bytes) -> None:
    """In one segment, or by extension (XMP, part 3, 1.1.3.1)."""
    packet = packet if len(packet) <= MOST_XMP else xmp.without_padding(packet)
    if len(packet) <= MOST_XMP:
        _segment(out, APP1, XMP + packet)
        return
    guid = hashlib.md5(packet, usedforsecurity=False).hexdigest().upper().encode()
    _segment(out, APP1, XMP + xmp.extended_by(guid))
    room, at = MOST - len(EXTENSION) - 40, 0
    for part in _parts(packet, room):
        head = EXTENSION + guid + struct.pack(">II", len(packet), at)
        _segment(out, APP1, head + part)
        at += len(part)


def _segment(out: BinaryIO, marker: int, data: bytes) -> None:
    out.write(struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data)


def _parts(data: bytes, most: int) -> Iterator[bytes]:
    for at in range(0, len(data), most):
        yield data[at : at + most]
