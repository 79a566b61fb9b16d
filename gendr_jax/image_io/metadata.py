"""EXIF and XMP once a picture has been turned upright and enlarged.

A block that cannot be understood is kept as it is, or left out where it might turn the
picture a second time.
"""

import re
import warnings

from PIL import Image as Pil

ORIENTATION, PIXEL_X, PIXEL_Y, EXIF_IFD = 0x0112, 0xA002, 0xA003, 0x8769
XMP_ORIENTATION = re.compile(
    rb"(tiff:Orientation\s*=\s*[\"']|<tiff:Orientation>\s*)[1-8]"
)


def exif_for(exif: bytes | None, height: int, width: int) -> bytes | None:
    """The block without orientation, and with this size where it states one."""
    if not exif:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it skips
            return _upright(exif, height, width)
    except Exception:  # damaged blocks raise almost anything
        return None


def _upright(exif: bytes, height: int, width: int) -> bytes | None:
    tags = Pil.Exif()
    tags.load(exif)
    if ORIENTATION in tags:
        del tags[ORIENTATION]
    inner = tags.get_ifd(EXIF_IFD)
    for tag, value in ((PIXEL_X, width), (PIXEL_Y, height)):
        if tag in inner:
            inner[tag] = value
    return tags.tobytes() if len(tags) else None


def upright_xmp(xmp: bytes | None) -> bytes | None:
    """The packet with its orientation, where it states one, set to upright."""
    return XMP_ORIENTATION.sub(rb"\g<1>1", xmp) if xmp else None
