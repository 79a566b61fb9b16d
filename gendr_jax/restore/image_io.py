"""Picture files to arrays and back, by Pillow.

What lives here: `read`, `write` and the list of files that are handled. What does not:
arithmetic on pixels (resize.py), arrays and PIL pictures of callers (pictures.py).

Nothing is read wrongly in silence: a file whose content Pillow would cut down (16-bit
colour, several frames) or that needs colour management (CMYK, Lab) is refused.
"""

import contextlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Pil
from PIL import ImageOps, UnidentifiedImageError

from gendr_jax.errors import InputError

# Pillow's own limit, above which it calls a file a decompression bomb (about 89 Mpx).
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3
READABLE = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "GIF", "PPM")
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
# Taken from a folder. The second half cannot be read: better an error than silence.
PICTURE_SUFFIXES = frozenset(
    [*FORMATS, ".bmp", ".gif", ".ppm", ".pgm", ".pbm"]
    + [".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd", ".exr", ".hdr"]
    + [".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"]
)
ORIENTATION, PIXEL_X, PIXEL_Y, EXIF_IFD = 0x0112, 0xA002, 0xA003, 0x8769
SAVE_OPTIONS = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
    "TIFF": {"compression": "tiff_adobe_deflate"},
}


@dataclass(frozen=True)
class Image:
    """One picture, upright, with what must survive beside the pixels.

    Attributes:
        pixels_hwc: uint8 or uint16, one (grey) or three (RGB) channels.
        alpha_hw: opacity in the same dtype, or None.
        icc: the embedded colour profile, or None; passed through, never applied.
        exif: the EXIF block with its orientation removed, or None.
    """

    pixels_hwc: np.ndarray
    alpha_hw: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None


def read(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Read one picture, turned upright by its EXIF orientation.

    Raises:
        InputError: missing, not a picture, truncated, larger than `max_pixels`, or of
            a kind that is not handled; the message names the file.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder. Name a picture file.")
    if not path.exists():
        raise InputError(f"{path} does not exist. Check the path.")
    try:
        with warnings.catch_warnings():
            # The size is checked below; Pillow warns at the same limit.
            warnings.simplefilter("ignore", Pil.DecompressionBombWarning)
            with Pil.open(path) as opened:
                return from_pil(opened, str(path), max_pixels=max_pixels)
    except InputError:
        raise
    except Pil.DecompressionBombError:
        raise _too_large(str(path), "more than 178 million", max_pixels) from None
    except UnidentifiedImageError:
        what = "is empty" if path.stat().st_size == 0 else "is not a picture"
        raise InputError(
            f"{path} {what} that Pillow can read. Give PNG, JPEG, WebP, TIFF or BMP."
        ) from None
    except PermissionError:
        raise InputError(f"{path} may not be read. Check its permissions.") from None
    except Exception as error:  # decoders raise almost anything on broken files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} is damaged or truncated ({reason}). Replace the file."
        ) from error


def from_pil(opened: Pil.Image, name: str, *, max_pixels: int = MAX_PIXELS) -> Image:
    """The picture that a PIL image holds; `name` is for messages.

    Grey stays grey, a palette becomes RGB, bilevel becomes grey; transparency of any
    kind becomes alpha.

    Raises:
        InputError: as `read`, for what is not handled. Decoding errors of Pillow pass.
    """
    width, height = opened.size
    if width * height > max_pixels:
        raise _too_large(name, f"{width}x{height} =", max_pixels)
    _refuse_unhandled(opened, name)
    icc, exif = opened.info.get("icc_profile"), opened.getexif()
    image = ImageOps.exif_transpose(opened)
    image.load()
    exif = _upright_exif(exif)
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16)
        return Image(pixels[..., None], icc=icc, exif=exif)
    image = image.convert(_plain_mode(image))
    pixels = np.array(image)
    if image.mode in ("LA", "RGBA"):
        return Image(pixels[..., :-1], pixels[..., -1], icc, exif)
    return Image(pixels.reshape(*pixels.shape[:2], -1), icc=icc, exif=exif)


def to_pil(image: Image) -> Pil.Image:
    """The same picture as a PIL image of mode L, LA, RGB, RGBA or I;16.

    Raises:
        InputError: 16-bit colour or 16-bit alpha, which Pillow cannot hold.
    """
    pixels, alpha = image.pixels_hwc, image.alpha_hw
    if pixels.dtype == np.uint16 and (pixels.shape[-1] != 1 or alpha is not None):
        raise InputError(
            "a 16-bit colour picture cannot be written, Pillow holds 16 bits in grey "
            "only. Convert it to 8 bits."
        )
    if alpha is not None:
        pixels = np.concatenate([pixels, alpha[..., None]], axis=-1)
    if pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    return Pil.fromarray(np.ascontiguousarray(pixels))


def write(path: Path | str, image: Image, *, metadata: bool = True) -> None:
    """Write one picture; the suffix decides the format (JPEG: quality 95, 4:4:4).

    The file appears whole or not at all: it is written under a temporary name first.

    Raises:
        InputError: unknown suffix, or a format that cannot hold the picture.
    """
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        known = " ".join(FORMATS)
        raise InputError(f"{path} has no suffix that is written. Use one of {known}.")
    if problem := _misfit(image, path.suffix):
        raise InputError(f"{path}: {problem}. Use --ext png.")
    options = dict(SAVE_OPTIONS[kind])
    if metadata and image.icc:
        options["icc_profile"] = image.icc
    if metadata and image.exif:
        options["exif"] = _sized_exif(image)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        to_pil(image).save(temporary, format=kind, **options)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _misfit(image: Image, suffix: str) -> str:
    """Why files of this suffix cannot hold the picture, or ""."""
    kind = FORMATS[suffix.lower()]
    height, width = image.pixels_hwc.shape[:2]
    limit = {"JPEG": 65535, "WEBP": 16383}.get(kind)
    if kind == "JPEG" and image.alpha_hw is not None:
        return "JPEG cannot hold transparency"
    if kind in ("JPEG", "WEBP") and image.pixels_hwc.dtype == np.uint16:
        return f"{kind} cannot hold 16 bits"
    if limit and max(height, width) > limit:
        return f"{kind} ends at {limit} pixels a side, this is {width}x{height}"
    return ""


def _refuse_unhandled(image: Pil.Image, name: str) -> None:
    """Raise for what Pillow would read only in part or in other colours."""
    reason = ""
    frames = getattr(image, "n_frames", 1)
    raw_modes = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()) or ())
    if image.format is not None and image.format not in READABLE:
        reason = f"is {image.format}, which is not handled"
    elif frames > 1 and image.format != "MPO":  # MPO: a camera's JPEG with previews
        reason = f"has {frames} frames, and one would be read"
    elif image.mode in ("CMYK", "LAB", "HSV"):
        reason = f"is {image.mode}, which needs colour management"
    elif image.mode in ("I", "F"):
        reason = f"has {image.mode} pixels (32 bits), whose range is unknown"
    elif not image.mode.startswith("I;16") and (";16" in raw_modes or _wide(image)):
        reason = f"has more than 8 bits a channel, and Pillow reads 8 of {image.mode}"
    elif image.mode.startswith("I;16") and "transparency" in image.info:
        reason = "is 16-bit grey with a transparent level"
    elif image.mode.startswith("I;16") and _tag(image, 262) == 0:
        reason = "is 16-bit grey stored as a negative"
    if reason:
        raise InputError(f"{name} {reason}. Convert it to an 8-bit RGB PNG.")


def _wide(image: Pil.Image) -> bool:
    """More than 8 bits a channel, by what TIFF and PPM files say of themselves."""
    bits = _tag(image, 258) or (8,)
    ppm = [
        tile[3] for tile in getattr(image, "tile", ()) or () if image.format == "PPM"
    ]
    maxval = max(
        (a for args in ppm if isinstance(args, tuple) for a in args[1:]), default=0
    )
    return max(bits) > 8 or (isinstance(maxval, int) and maxval > 255)


def _tag(image: Pil.Image, number: int):
    tags = getattr(image, "tag_v2", None)
    return None if tags is None else tags.get(number)


def _plain_mode(image: Pil.Image) -> str:
    """The mode among L, LA, RGB and RGBA that loses nothing."""
    grey = image.mode in ("1", "L", "LA", "La")
    clear = image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    clear = clear or "transparency" in image.info
    return ("LA" if clear else "L") if grey else ("RGBA" if clear else "RGB")


def _upright_exif(exif: Pil.Exif) -> bytes | None:
    if ORIENTATION in exif:
        del exif[ORIENTATION]
    return exif.tobytes() if len(exif) else None


def _sized_exif(image: Image) -> bytes:
    """EXIF whose pixel dimensions, where it states them, are those of the picture."""
    exif = Pil.Exif()
    exif.load(image.exif)
    height, width = image.pixels_hwc.shape[:2]
    inner = exif.get_ifd(EXIF_IFD)
    for tag, value in ((PIXEL_X, width), (PIXEL_Y, height)):
        if tag in inner:
            inner[tag] = value
    return exif.tobytes()


def _too_large(name: str, size: str, max_pixels: int) -> InputError:
    return InputError(
        f"{name} has {size} pixels, the limit for a file is {max_pixels}. "
        "Cut it into parts."
    )
