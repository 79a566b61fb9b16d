"""Test pictures with all metadata that their format can hold, and a Pillow reader."""

import io
import struct

import numpy as np
from PIL import Image as Pil
from PIL import IptcImagePlugin
from PIL.PngImagePlugin import PngInfo

from gendr_jax.image_io import profiles
from gendr_jax.image_io.metadata import trees
from gendr_jax.image_io.metadata.trees import Value

ASCII, SHORT, RATIONAL, UNDEFINED = 2, 3, 5, 7
NAME = "© Jürgen Müller 写真".encode()
NOTE = b"MAKER\0\x01\x02\xff\xfe" * 9
CAPTION = b"Harbour of Hamburg, 1911, glass plate 17 of 40"
IPTC = b"\x1c\x02\x05\0\x05Title\x1c\x02\x78" + struct.pack(">H", 46) + CAPTION
COMMENT = b"scanned by hand"
PROFILE = profiles.builtin("srgb")
DOTS = 240
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WebP": ".webp", "TIFF": ".tif"}


def packet(size=0):
    """An XMP packet with a rating, and a property of `size` bytes."""
    return (
        b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/'
        b'1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" xmlns:xmp="http://'
        b'ns.adobe.com/xap/1.0/" xmp:Rating="4" xmlns:own="own/" own:big="'
        + b"x" * size
        + b'"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def block(order="<"):
    """An EXIF block: text, rating, exposure, maker note, place."""

    def text(tag, content):
        return Value(tag, ASCII, len(content) + 1, content + b"\0")

    inner = (
        Value(0x829A, RATIONAL, 1, struct.pack("<II", 1, 250)),
        Value(0x927C, UNDEFINED, len(NOTE), NOTE),
    )
    gps = (text(1, b"N"), Value(2, RATIONAL, 3, struct.pack("<6I", *[53, 1] * 3)))
    fields = (
        text(0x010E, b"Harbour"),
        text(0x010F, b"Camera works"),
        text(0x013B, NAME),
        Value(0x4746, SHORT, 1, struct.pack("<H", 4)),
        text(0x8298, NAME),
        Value(trees.EXIF, 4, 1, b"", inner),
        Value(trees.GPS, 4, 1, b"", gps),
    )
    return trees.block(trees.swapped(fields, "<", order), order)


def write(path, pixels_hwc, *, xmp=None, order="<", described=True):
    """A file of the suffix's format that states all that it can."""
    picture, xmp = Pil.fromarray(pixels_hwc), xmp or packet()
    shared = {"icc_profile": PROFILE}
    exif = b"Exif\0\0" + block(order)
    if path.suffix == ".jpg":
        buffer = io.BytesIO()
        dots = (DOTS, DOTS)
        picture.save(buffer, "JPEG", quality=95, dpi=dots, comment=COMMENT, **shared)
        data, irb = (
            buffer.getvalue(),
            b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)),
        )
        irb += IPTC + b"\0" * (len(IPTC) % 2)
        segments = segment(0xE1, exif)
        segments += segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)
        segments += segment(0xED, b"Photoshop 3.0\0" + irb)
        path.write_bytes(data[:20] + segments + data[20:])  # behind JFIF
    elif path.suffix == ".png":
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        text.add_text("Comment", COMMENT.decode())
        text.add_text("Author", "someone else")
        text.add_text("Title", "Harbour")
        picture.save(path, pnginfo=text, exif=exif, dpi=(DOTS, DOTS), **shared)
    elif path.suffix == ".webp":
        picture.save(path, lossless=True, exif=exif, xmp=xmp, **shared)
    else:
        _write_tiff(path, picture, xmp, order)


def segment(marker, data):
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def _write_tiff(path, picture, xmp, order):
    """A plain TIFF, its directory moved to the end with the other fields."""
    from gendr_jax.image_io.metadata.directories import Directories

    picture.save(path, dpi=(DOTS, DOTS), icc_profile=PROFILE)
    read = Directories(io.BytesIO(block()))
    fields = list(trees.take(read, read.read(read.first)))
    fields += [Value(700, 1, len(xmp), xmp), Value(33723, UNDEFINED, len(IPTC), IPTC)]
    with open(path, "r+b") as file:
        read = Directories(file)
        end = file.seek(0, 2)
        added = trees.added(read, end, fields)
        file.seek(end)
        file.write(added)
        file.seek(4)
        file.write(struct.pack("<I", end))


def read(path):
    """{statement: value} of a file, by Pillow."""
    with Pil.open(path) as picture:
        tags = picture.getexif()
        exif, gps = tags.get_ifd(0x8769), tags.get_ifd(0x8825)
        xmp = picture.info.get("xmp")
        iptc = _caption(picture, tags)
        dots = picture.info.get("dpi") or (float(tags.get(0x11A, 0)),)
        if picture.format == "TIFF" and (0x11A not in tags or tags.get(0x128, 2) == 1):
            dots = (0.0,)  # Pillow says 1 where there is none
        text = getattr(picture, "text", {})
        comment = picture.info.get("comment") or text.get("Comment", "").encode()
        statements = {
            "description": _bytes(tags.get(0x010E)),
            "camera": _bytes(tags.get(0x010F)),
            "author, not ASCII": _bytes(tags.get(0x013B)),
            "copyright, not ASCII": _bytes(tags.get(0x8298)),
            "stars": tags.get(0x4746),
            "exposure": exif.get(0x829A) and float(exif[0x829A]),
            "maker note": exif.get(0x927C),
            "GPS location": gps.get(2) and tuple(float(x) for x in gps[2]),
            "XMP": xmp and b'xmp:Rating="4"' in _bytes(xmp),
            "IPTC": iptc,
            "comment": comment or None,
            "resolution": round(float(dots[0])) or None,
            "profile": picture.info.get("icc_profile"),
        }
        statements["title (PNG text)"] = _bytes(text.get("Title") or tags.get(0x010D))
    return {name: value for name, value in statements.items() if value}


def _caption(picture, tags):
    block = tags.get(33723)
    caption = None if picture.format in ("PNG", "WEBP") else _info(picture)
    if caption is None and block is not None and CAPTION in block:
        return CAPTION
    return caption


def _info(picture):
    return (IptcImagePlugin.getiptcinfo(picture) or {}).get((2, 120))


def _bytes(value):
    """Pillow reads ASCII as Latin-1."""
    return value.encode("latin-1") if isinstance(value, str) else value


def pixels(height=24, width=32):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
