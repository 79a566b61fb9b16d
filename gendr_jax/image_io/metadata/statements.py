"""`Metadata`: one form of what files of all formats state."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metadata:
    """What a file states.

    Attributes:
        exif: the block without prefix; of a TIFF file, one made of its fields.
        xmp: the packet; of a JPEG file, with its extension.
        iptc: the records (IIM) without wrapper.
        comment: of a JPEG or GIF file.
        text: chunks of a PNG file, name and data, but XMP and profiles.
        density: pixels a millimetre, across and down.
        lost: what was there and is not in the rest, in words for people.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    comment: bytes | None = None
    text: tuple[bytes, ...] = ()
    density: tuple[float, float] | None = None
    lost: tuple[str, ...] = ()
