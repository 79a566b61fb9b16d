"""What a PNG file states, out of its chunks and into them."""

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
MOST = 64 * 2**20  # of a text, uncompressed
RAW = b"Raw profile type "  # how ImageMagick and others write blocks as text
KNOWN = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"bKGD", b"hIST", b"sBIT"}
KNOWN |= {b"iCCP", b"cICP", b"gAMA", b"cHRM", b"sRGB", b"tIME", b"mDCV", b"cLLI"}
KNOWN |= {b"mDCv", b"cLLi"}


def read(file: BinaryIO) -> Metadata:
    """What its chunks say."""
    block = packet = iptc = density = None
    text, lost = [], []
    for name, at, length in chunks(file):
        if name in TEXT or name in (b"eXIf", b"pHYs"):
            file.seek(at)
            data = file.read(length)
        if name == b"eXIf":
            block = data.removeprefix(PREFIX)
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
                what = keyword.removeprefix(RAW).lower()
                if what in (b"exif", b"app1") and profile.startswith(PREFIX):
                    block = block or profile.removeprefix(PREFIX)
                elif what in (b"iptc", b"8bim"):
                    inside, _ = photoshop.split(profile)
                    iptc = inside or profile
                elif what == b"xmp":
                    packet = packet or profile
            else:
                text.append(name + data)
        elif name not in KNOWN:
            lost.append(f"PNG chunk {name.decode('latin-1')!r}")
    return Metadata(block, packet, iptc, None, tuple(text), density, tuple(lost))


def insert(source: BinaryIO, out: BinaryIO, said: Metadata) -> None:
    """Copy a file that states nothing, with what `said` says."""
    out.write(source.read(len(START)))
    while len(head := source.read(8)) == 8:
        length, name = int.from_bytes(head[:4]), head[4:]
        if name == b"IDAT":
            out.write(head)
            break
        data = source.read(length + 4)
        if name != b"pHYs":  # which libvips writes whatever the file stated
            out.write(head + data)
        if name == b"IHDR":
            _write(out, said)
    shutil.copyfileobj(source, out, 2**20)


def words(chunk: bytes) -> tuple[str, bytes]:
    """(keyword, text in UTF-8) of a chunk of text: its name, then its data."""
    name, (keyword, _, data) = chunk[:4], chunk[4:].partition(b"\0")
    if name == b"iTXt":
        packed, (_, _, data) = data[:1] == b"\1", data[2:].partition(b"\0")
        _, _, data = data.partition(b"\0")
        data = _unpacked(data) if packed else data
    else:
        data = _unpacked(data[1:]) if name == b"zTXt" else data
        data = data.decode("latin-1").encode()
    return keyword.decode("latin-1"), data


def text(keyword: str, content: bytes) -> bytes:
    """A chunk of text: its name, then its data."""
    if content.isascii():
        return b"tEXt" + keyword.encode("latin-1") + b"\0" + content
    try:
        content.decode()
    except UnicodeDecodeError:
        return b"tEXt" + keyword.encode("latin-1") + b"\0" + content
    return b"iTXt" + keyword.encode("latin-1") + b"\0\0\0\0\0" + content


def chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """(name, where its data starts, its length)."""
    at = len(START)
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        length = int.from_bytes(head[:4])
        yield head[4:], at + 8, length
        at += 12 + length


def _write(out: BinaryIO, said: Metadata) -> None:
    if said.density is not None:
        across, down = (round(d * 1000) for d in said.density)
        _chunk(out, b"pHYs" + struct.pack(">IIB", across, down, 1))
    if said.exif is not None:
        _chunk(out, b"eXIf" + said.exif)
    if said.xmp is not None:
        _chunk(out, b"iTXt" + XMP + b"\0\0\0\0\0" + said.xmp)
    for one in said.text:
        _chunk(out, one)


def _chunk(out: BinaryIO, chunk: bytes) -> None:
    crc = struct.pack(">I", zlib.crc32(chunk))
    out.write(struct.pack(">I", len(chunk) - 4) + chunk + crc)


def _unpacked(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, MOST)
    except zlib.error:
        return b""


def _raw_profile(content: bytes) -> bytes:
    """Lines of a name, a length, and hexadecimal digits."""
    lines = content.split(b"\n")
    digits = b"".join(lines[3:]) if len(lines) > 3 else b""
    try:
        return bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return b""
