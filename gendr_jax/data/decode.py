"""One image file to HWC uint8 sRGB, or the reason why it cannot be trusted.

A file is judged by its content, never by its name, and is either converted correctly or
refused: Pillow by itself would drop transparency, ignore the orientation, saturate
16-bit gray and show the first frame of an animation without a word.

No jax: worker processes import this file.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageCms, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from gendr_jax.data import patience
from gendr_jax.errors import InputError, TryAgainError, UsageError

T = TypeVar("T")
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "BMP", "TIFF")
MAX_PIXELS = 64_000_000
MAX_BYTES = 512_000_000
_GRAY_16 = ("I;16", "I;16L", "I;16B", "I;16N")
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
_MODES = ("RGB", "L", "P", "YCbCr", *_TRANSPARENT, *_GRAY_16)


def read(path: Path) -> np.ndarray:
    """The picture in `path`, HWC uint8 sRGB, upright.

    Raises:
      InputError: it is damaged, or not to be read without guessing; the message names
        the file and the reason.
      TryAgainError, UsageError: the file system does not give it (patience.py).
    """
    return _judged(path, str(path), _pixels)


def read_bytes(data: bytes, name: str) -> np.ndarray:
    """The picture in an encoded file's bytes, as `read`; `name` is for the message."""
    return _judged(data, name, _pixels)


def read_size(path: Path) -> tuple[int, int]:
    """Height and width from the header, before any rotation; pixels stay unread.

    Raises:
      InputError: as `read`, for what the header shows.
    """
    return _judged(path, str(path), _size)


def read_size_bytes(data: bytes, name: str) -> tuple[int, int]:
    """Height and width from the header of an encoded file's bytes, as `read_size`."""
    return _judged(data, name, _size)


def _judged(file: Path | bytes, name: str, work: Callable[[Image.Image], T]) -> T:
    """What `work` makes of an opened picture; damage is an InputError.

    A store that is away, or too little memory, is not damage (patience.py).
    """

    def opened() -> T:
        with _open(file) as image:
            return work(image)

    try:
        return patience.patiently(opened, name)
    except (MemoryError, TryAgainError, UsageError):
        raise
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    # Pillow raises whatever its decoders raise: OSError, ValueError, SyntaxError,
    # struct.error and more, all of which mean the same thing here.
    except Exception as error:
        raise InputError(f"{name}: {_reason(error)}") from error


def _pixels(image: Image.Image) -> np.ndarray:
    _check(image)
    image.load()
    _check(image)  # some formats know their mode and frames only now
    ImageOps.exif_transpose(image, in_place=True)
    return _to_rgb(image)


def _size(image: Image.Image) -> tuple[int, int]:
    _check(image)
    return image.height, image.width


def _open(file: Path | bytes) -> Image.Image:
    size = len(file) if isinstance(file, bytes) else file.stat().st_size
    if size == 0:
        raise InputError("the file is empty")
    if size > MAX_BYTES:
        raise InputError(f"{size} bytes, more than the {MAX_BYTES} allowed")
    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)


def _check(image: Image.Image) -> None:
    """Refuse what would come out wrong; everything here is known from the header."""
    if image.format not in FORMATS:
        raise InputError(f"it is a {image.format}, not one of {', '.join(FORMATS)}")
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        raise InputError(f"{size} pixels, more than the {MAX_PIXELS} allowed")
    # an MPO is a photograph followed by its thumbnails or its second eye
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise InputError(f"{frames} frames, not one picture")
    if image.mode not in _MODES and not _is_png_gray_16(image):
        raise InputError(f"pixels of mode {image.mode} have no safe conversion to RGB")
    if isinstance(image, TiffImageFile) and image.mode in _GRAY_16:
        # Pillow neither inverts white-is-zero here nor stretches 12 bits to 16
        photometric, bits = image.tag_v2.get(262, 1), image.tag_v2.get(258, (16,))
        if photometric != 1 or bits != (16,):
            raise InputError(
                f"gray TIFF of {bits[0]} bits and photometric {photometric}, only 16 "
                "and 1 are converted"
            )


def _is_png_gray_16(image: Image.Image) -> bool:
    """Pillow before 11.3 opens 16-bit gray PNG files in mode I."""
    return image.mode == "I" and image.format == "PNG"


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode in _GRAY_16 or image.mode == "I":
        image = _to_gray_8(image)
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        profile = image.info.get("icc_profile")
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            raise InputError("some pixels are transparent")
        image = image.convert("RGB")
        image.info["icc_profile"] = profile
    return np.asarray(_to_srgb(image))


def _to_gray_8(image: Image.Image) -> Image.Image:
    """16-bit gray scaled, not saturated; profile kept."""
    gray = np.asarray(image)
    if np.any(gray == image.info.get("transparency", -1)):
        raise InputError("some pixels are transparent")
    scaled = Image.fromarray(((gray.astype(np.uint32) + 128) // 257).astype(np.uint8))
    scaled.info["icc_profile"] = image.info.get("icc_profile")
    return scaled


def _to_srgb(image: Image.Image) -> Image.Image:
    """Apply the colour profile, if there is one that says something."""
    data = image.info.get("icc_profile")
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    if not data:
        return rgb
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    except Exception:
        return rgb  # unreadable by everybody: every viewer shows the plain pixels
    if "srgb" in (profile.profile.profile_description or "").lower():
        return rgb
    space = profile.profile.xcolor_space.strip()
    if space == "GRAY" and image.mode == "L":
        source = image
    elif space == "RGB":
        source = rgb
    else:
        raise InputError(f"a {space} colour profile on {image.mode} pixels")
    converted = ImageCms.profileToProfile(
        source, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert converted is not None  # it is where the picture is not changed in place
    return converted


def _reason(error: Exception) -> str:
    """One line that says something even where the exception says nothing."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
