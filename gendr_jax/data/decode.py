"""Decode one image file to HWC uint8 sRGB for training, or refuse it with the reason.

The format is recognised by content, never by the file name. Pixels are those of
`image_io`, as `gendr restore` reads its input. Training refuses more: transparency,
CMYK without a profile, 1-bit images. JPEG that needs no colour conversion is decoded by
Pillow, to the same pixels in half the time. No jax: worker processes import this file.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from gendr_jax import image_io
from gendr_jax.data import retry
from gendr_jax.errors import InputError, TryAgainError, UsageError
from gendr_jax.image_io import profiles, stated_colours
from gendr_jax.image_io.encoded import Encoded
from gendr_jax.image_io.metadata.exif import PREFIX

T = TypeVar("T")
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "BMP", "TIFF")
MAX_PIXELS = 64_000_000
MAX_BYTES = 512_000_000
_GRAY_16 = ("I;16", "I;16L", "I;16B", "I;16N")
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
# colour spaces of the profiles that a mode may have, RGB where it is not listed
_SPACES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("L", "LA", "La", "I", *_GRAY_16), ("RGB", "GRAY")),
    "CMYK": ("CMYK",),
}
_MODES = ("RGB", "L", "P", "YCbCr", "CMYK", *_TRANSPARENT, *_GRAY_16)


def read(path: Path) -> np.ndarray:
    """The picture in `path`, HWC uint8 sRGB, turned upright by its EXIF orientation.

    Raises:
      InputError: it is damaged, or its colours are ambiguous; the message names the
        file and the reason.
      TryAgainError, UsageError: the file cannot be read just now (retry.py).
    """
    return _with_image(path, str(path), lambda image: _pixels(image, path))


def read_bytes(data: bytes, name: str) -> np.ndarray:
    """The picture in an encoded file's bytes, as `read`; `name` is for messages."""
    return _with_image(data, name, lambda image: _pixels(image, data))


def read_size(path: Path) -> tuple[int, int]:
    """Height and width from the header, before any rotation; pixels are not decoded.

    Raises:
      InputError: as `read`, for what the header shows.
    """
    return _with_image(path, str(path), _size)


def read_size_bytes(data: bytes, name: str) -> tuple[int, int]:
    """Height and width from the header of an encoded file's bytes, as `read_size`."""
    return _with_image(data, name, _size)


def _with_image(file: Path | bytes, name: str, work: Callable[[Image.Image], T]) -> T:
    """`work` of the opened picture; a damaged file is an InputError.

    An unreachable file system, or too little memory, is not damage (retry.py).
    """

    def open_and_work() -> T:
        with _open(file) as image:
            return work(image)

    try:
        return retry.with_retries(open_and_work, name)
    except (MemoryError, TryAgainError, UsageError):
        raise
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    # Pillow raises whatever its decoders raise: OSError, ValueError, SyntaxError,
    # struct.error and more, all of which mean the same thing here.
    except Exception as error:
        raise InputError(f"{name}: {_reason(error)}") from error


def _pixels(image: Image.Image, file: Path | bytes) -> np.ndarray:
    _check(image)
    if _is_plain_jpeg(image):
        image.load()
        _check(image)  # some formats know their mode and frames only now
        ImageOps.exif_transpose(image, in_place=True)
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    data = file if isinstance(file, bytes) else file.read_bytes()
    picture = image_io.read(Encoded(data, "it"), max_pixels=MAX_PIXELS)
    opaque = np.iinfo(picture.pixels_hwc.dtype).max
    if picture.alpha_hw is not None and picture.alpha_hw.min() < opaque:
        raise InputError("some pixels are transparent")
    return profiles.srgb_8(picture)


def _is_plain_jpeg(image: Image.Image) -> bool:
    """Whether it is a JPEG in sRGB, so that no colour conversion is needed."""
    if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
        return False
    grey, exif = image.mode == "L", image.info.get("exif")
    icc = stated_colours.profile(
        Encoded(b"", "it"),  # unused: a JPEG states colours in its ICC and EXIF only
        "JPEG",
        image.info.get("icc_profile") or None,
        exif and exif.removeprefix(PREFIX),
        grey=grey,
    )
    return profiles.is_plain(icc, grey)


def _size(image: Image.Image) -> tuple[int, int]:
    _check(image)
    return image.height, image.width


def _open(file: Path | bytes) -> Image.Image:
    size = len(file) if isinstance(file, bytes) else file.stat().st_size
    if size == 0:
        raise InputError("the file is empty")
    if size > MAX_BYTES:
        raise InputError(f"the file has {size} bytes, the limit is {MAX_BYTES}")
    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)


def _check(image: Image.Image) -> None:
    """Refuse what would be decoded to wrong colours; reads the header only."""
    if image.format not in FORMATS:
        raise InputError(f"it is a {image.format}, not one of {', '.join(FORMATS)}")
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        raise InputError(f"it has {size} pixels, the limit is {MAX_PIXELS}")
    # an MPO is a photograph followed by its thumbnails or its second eye
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise InputError(f"it has {frames} frames, not one")
    space = _space(image.info.get("icc_profile"))
    is_convertible = image.mode in _MODES or _is_png_gray_16(image)
    if not is_convertible or (image.mode == "CMYK" and space != "CMYK"):
        raise InputError(f"pixels of mode {image.mode} have no safe conversion to RGB")
    if space not in ("", *_SPACES.get(image.mode, ("RGB",))):
        raise InputError(f"its ICC profile is {space}, its pixels are {image.mode}")
    if isinstance(image, TiffImageFile) and image.mode in _GRAY_16:
        # Pillow neither inverts white-is-zero here nor stretches 12 bits to 16
        photometric, bits = image.tag_v2.get(262, 1), image.tag_v2.get(258, (16,))
        if photometric != 1 or bits != (16,):
            raise InputError(
                f"it is a gray TIFF of {bits[0]} bits and photometric {photometric}, "
                "not of 16 bits and photometric 1"
            )


def _space(icc: bytes | None) -> str:
    """The colour space of an ICC profile, such as "RGB"; "" if there is none."""
    if not icc or icc[36:40] != b"acsp":
        return ""
    return icc[16:20].decode("latin-1").strip()


def _is_png_gray_16(image: Image.Image) -> bool:
    """Pillow before 11.3 opens 16-bit gray PNG files in mode I."""
    return image.mode == "I" and image.format == "PNG"


def _reason(error: Exception) -> str:
    """The message as one line, after the exception's type."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image file"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
