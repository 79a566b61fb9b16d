"""`Image` and `Header`, the supported formats, and the limit on input pixels."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gendr_jax.errors import InputError

# Limit for inputs: a decompression bomb of a few kilobytes may claim any size; up to
# this one it takes less than 1 GB. Pillow warns at the same limit.
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3
# Pixels a millimetre if a file states none: 72 an inch, the usual default.
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
# Files of a folder that are read as pictures. The last three rows are not supported:
# naming them as errors is better than skipping them without a message.
PICTURE_SUFFIXES = frozenset(
    [*FORMATS, ".avif", ".bmp", ".dib", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".mpo"]
    + [".apng", ".avifs", ".jif", ".pjpeg", ".pjp"]
    + [".heic", ".heif", ".hif", ".jp2", ".j2k", ".jxl", ".psd", ".psb", ".exr"]
    + [".hdr", ".pam", ".pfm", ".tga", ".ico"]
    + sorted(RAW_SUFFIXES)
)
USE_SUPPORTED = "Give PNG, JPEG, WebP, TIFF, AVIF, GIF, BMP or PPM."

# Colour space of pixel values. "file": that of the file, sRGB or close to it. "p3":
# Display P3, into which wide gamuts are converted: it has sRGB's tone curve, which the
# networks were trained with, and a larger gamut.
Space = Literal["file", "p3"]


@dataclass(frozen=True)
class Image:
    """One picture, upright, with the metadata that is written to its result.

    Attributes:
        pixels_hwc: uint8 or uint16, one (grey) or three (RGB) channels.
        alpha_hw: opacity in the same dtype, or None; colours are not multiplied by it.
        icc: the ICC profile for the written file, or None.
        exif: the unchanged EXIF block, or None; its orientation has been applied, and
            is reset when the picture is written.
        xmp: the unchanged XMP packet, or None.
        iptc: the IPTC records without wrapper, or None.
        comment, text: as in `statements.Metadata`.
        lost: names of the file's metadata that is in none of these fields.
        space: colour space of `pixels_hwc`.
        bits: bits a channel for files, if fewer than `pixels_hwc` have.
        density: pixels a millimetre (across, down), if the file states them.
        bled: whether transparent pixels already have the colours of their surroundings.
        from_hw: height and width of the file, upright, to which sizes in `xmp` refer.
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
    """Size and type of a picture, turned upright; pixels are not decoded.

    Attributes:
        height, width: in pixels.
        channels: 1 (grey) or 3.
        alpha: whether it has an opacity channel.
        dtype: of `Image.pixels_hwc` when it is read.
    """

    height: int
    width: int
    channels: int
    alpha: bool
    dtype: np.dtype


def require_size(name: str, height: int, width: int, max_pixels: int) -> None:
    """Refuse pictures above the limit, such as decompression bombs.

    Raises:
        InputError: more pixels than the limit.
    """
    if height * width > max_pixels:
        raise InputError(
            f"{name} has {width}x{height} = {height * width} pixels, the limit for a "
            f"file is {max_pixels}. Cut it into pieces, or raise --max-input-pixels."
        )
