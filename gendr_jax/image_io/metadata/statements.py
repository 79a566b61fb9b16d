"""`Metadata`: the metadata of a file, the same fields for all formats."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metadata:
    """Metadata of an image file, apart from its ICC profile.

    Attributes:
        exif: the block without prefix; for a TIFF file, built from its fields.
        xmp: the packet; for a JPEG file, merged with its extension.
        iptc: the records (IIM) without wrapper.
        comment: of a JPEG or GIF file.
        text: text chunks of a PNG file (name and data), without XMP and raw profiles.
        density: pixels a millimetre (across, down).
        lost: names of metadata of the file that is in none of the other fields.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    comment: bytes | None = None
    text: tuple[bytes, ...] = ()
    density: tuple[float, float] | None = None
    lost: tuple[str, ...] = ()
