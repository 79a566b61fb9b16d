"""Read and insert the metadata chunks of PNG files."""

import shutil
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from gendr_jax.image_io.metadata import photoshop
from gendr_jax.image_io.metadata.exif import PREFIX
from gendr_jax.image_io.metadata.statements import Metadata

START = b"\x89PNG\r\n\x1a\n"
XMP = b"XML:com.adobe.xmp"
TEXT = (b"tEXt", b"zTXt", b"iTXt")
MAX_TEXT = 64 * 2**20  # bytes of an uncompressed text
RAW = b"Raw profile type "  # ImageMagick and others write EXIF and IPTC as text
KNOWN = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"bKGD", b"hIST", b"sBIT"}
KNOWN |= {b"iCCP", b"cICP", b"gAMA", b"cHRM", b"sRGB", b"tIME", b"mDCV", b"cLLI"}
KNOWN |= {b"mDCv", b"cLLi"}


def read(file: BinaryIO) -> Metadata:
    """The metadata in its chunks."""
    exif_block = packet = iptc = density = None
    text, lost = [], []
    for name, offset, length in chunks(file):
        if name in TEXT or name in (b"eXIf", b"pHYs"):
            file.seek(offset)
            data = file.read(length)
        if name == b"eXIf":
            exif_block = data.removeprefix(PREFIX)
        elif name == b"pHYs" and len(data) == 9:
            across, down, unit = struct.unpack(">IIB", data)
            if unit == 1 and across and down:
                density = across / 1000, down / 1000
        elif name in TEXT:
            keyword = data.split(b"\0")[0]
            if keyword == XMP:
                packet = words(name + data)[1]
            elif keyword.startswith(RAW):
                profile = _raw_profile(words(name + data)[1])
                profile_type = keyword.removeprefix(RAW).lower()
                if profile_type in (b"exif", b"app1") and profile.startswith(PREFIX):
                    exif_block = exif_block or profile.removeprefix(PREFIX)
                elif profile_type in (b"iptc", b"8bim"):
                    records, _ = photoshop.split(profile)
                    iptc = records or profile
                elif profile_type == b"xmp":
                    packet = packet or profile
            else:
                text.append(name + data)
        elif name not in KNOWN:
            lost.append(f"PNG chunk {name.decode('latin-1')!r}")
    return Metadata(exif_block, packet, iptc, None, tuple(text), density, tuple(lost))


def insert(source: BinaryIO, out: BinaryIO, metadata: Metadata) -> None:
    """Copy a file without metadata, with this metadata inserted."""
    out.write(source.read(len(START)))
    while len(head := source.read(8)) == 8:
        length, name = int.from_bytes(head[:4]), head[4:]
        if name == b"IDAT":
            out.write(head)
            break
        data = source.read(length + 4)
        if name != b"pHYs":  # libvips always writes one; _write has ours
            out.write(head + data)
        if name == b"IHDR":
            _write(out, metadata)
    shutil.copyfileobj(source, out, 2**20)


def words(chunk: bytes) -> tuple[str, bytes]:
    """(keyword, text in UTF-8) of a text chunk, given as its name and data."""
    name, (keyword, _, data) = chunk[:4], chunk[4:].partition(b"\0")
    if name == b"iTXt":
        is_compressed, (_, _, data) = data[:1] == b"\1", data[2:].partition(b"\0")
        _, _, data = data.partition(b"\0")
        data = _decompressed(data) if is_compressed else data
    else:
        data = _decompressed(data[1:]) if name == b"zTXt" else data
        data = data.decode("latin-1").encode()
    return keyword.decode("latin-1"), data


def text(keyword: str, content: bytes) -> bytes:
    """A text chunk, as its name and data; iTXt for UTF-8, tEXt for Latin-1."""
    if content.isascii():
        return b"tEXt" + keyword.encode("latin-1") + b"\0" + content
    try:
        content.decode()
    except UnicodeDecodeError:
        return b"tEXt" + keyword.encode("latin-1") + b"\0" + content
    return b"iTXt" + keyword.encode("latin-1") + b"\0\0\0\0\0" + content


def chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """(name, offset of the data, its length) of each chunk."""
    offset = len(START)
    while True:
        file.seek(offset)
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        length = int.from_bytes(head[:4])
        yield head[4:], offset + 8, length
        offset += 12 + length


def _write(out: BinaryIO, metadata: Metadata) -> None:
    if metadata.density is not None:
        across, down = (round(d * 1000) for d in metadata.density)
        _chunk(out, b"pHYs" + struct.pack(">IIB", across, down, 1))
    if metadata.exif is not None:
        _chunk(out, b"eXIf" + metadata.exif)
    if metadata.xmp is not None:
        _chunk(out, b"iTXt" + XMP + b"\0\0\0\0\0" + metadata.xmp)
    for text_chunk in metadata.text:
        _chunk(out, text_chunk)


def _chunk(out: BinaryIO, chunk: bytes) -> None:
    crc = struct.pack(">I", zlib.crc32(chunk))
    out.write(struct.pack(">I", len(chunk) - 4) + chunk + crc)


def _decompressed(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, MAX_TEXT)
    except zlib.error:
        return b""


def _raw_profile(content: bytes) -> bytes:
    """The bytes of a raw profile: lines of its name, its length, hexadecimal digits."""
    lines = content.split(b"\n")
    digits = b"".join(lines[3:]) if len(lines) > 3 else b""
    try:
        return bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return b""
