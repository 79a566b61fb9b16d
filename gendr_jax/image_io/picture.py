"""`Image`, the formats that are handled, and the limit against bombs."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gendr_jax.errors import InputError

# Of an input. A hostile file of a few kilobytes may claim any size; at this one it
# costs below 1 GB. It is the limit at which Pillow warns too.
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3
# Pixels a millimetre where none are stated: 72 an inch, as everywhere.
DENSITY = 72 / 25.4
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
RAW_SUFFIXES = frozenset(
    [".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".srw", ".pef"]
    + [".raf", ".orf", ".rw2", ".rwl", ".3fr", ".fff", ".iiq", ".erf", ".mef", ".mos"]
    + [".mrw", ".x3f", ".dcr", ".kdc"]
)
# Taken from a folder. The last three rows cannot be read: an error rather than silence.
PICTURE_SUFFIXES = frozenset(
    [*FORMATS, ".avif", ".bmp", ".dib", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".mpo"]
    + [".apng", ".avifs", ".jif", ".pjpeg", ".pjp"]
    + [".heic", ".heif", ".hif", ".jp2", ".j2k", ".jxl", ".psd", ".psb", ".exr"]
    + [".hdr", ".pam", ".pfm", ".tga", ".ico"]
    + sorted(RAW_SUFFIXES)
)
KINDS = "Give PNG, JPEG, WebP, TIFF, AVIF, GIF, BMP or PPM."

# How pixel values stand for colours. "file": as the file has them, sRGB or near. "p3":
# Display P3, into which wide gamuts are converted: sRGB's tones, so that networks see
# pictures as they know them, and room for colours beyond sRGB.
Space = Literal["file", "p3"]


@dataclass(frozen=True)
class Image:
    """One picture, upright, with what must survive beside the pixels.

    Attributes:
        pixels_hwc: uint8 or uint16, one (grey) or three (RGB) channels.
        alpha_hw: opacity in the same dtype, or None; colours are not multiplied by it.
        icc: the colour profile that the written file shall have, or None.
        exif: the EXIF block as the file has it, or None; its orientation has been
            applied, and is reset when the picture is written.
        xmp: the XMP packet, likewise, or None.
        iptc: the IPTC records without wrapper, or None.
        comment, text: as in `statements.Metadata`.
        lost: what of the file's metadata is not among these, in words for people.
        space: how `pixels_hwc` stand for colours.
        bits: of a channel in files, where `pixels_hwc` have more.
        density: pixels a millimetre, across and down, where the file states them.
        bled: whether colours under what is transparent are those of its surroundings.
        from_hw: height and width of the file, upright, that sizes in `xmp` go by.
    """

    pixels_hwc: np.ndarray
    alpha_hw: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    space: Space = "file"
    bits: int | None = None
    density: tuple[float, float] | None = None
    bled: bool = False
    from_hw: tuple[int, int] | None = None
    comment: bytes | None = None
    text: tuple[bytes, ...] = ()
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Header:
    """What a file says of its picture, turned upright: nothing has been decoded.

    Attributes:
        height, width: in pixels.
        channels: 1 (grey) or 3.
        alpha: whether there is opacity.
        dtype: of `Image.pixels_hwc` when read.
    """

    height: int
    width: int
    channels: int
    alpha: bool
    dtype: np.dtype


def require_size(name: str, height: int, width: int, max_pixels: int) -> None:
    """Refuse a bomb.

    Raises:
        InputError: more pixels than the limit.
    """
    if height * width > max_pixels:
        raise InputError(
            f"{name} has {width}x{height} = {height * width} pixels, the limit for a "
            f"file is {max_pixels}. Cut it into parts, or raise --max-input-pixels."
        )
