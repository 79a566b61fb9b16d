"""Pictures to files: `write`, and `save` for pixels that stream.

A file appears whole or not at all: it is written under a temporary name first.
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from gendr_jax import files
from gendr_jax.errors import InputError
from gendr_jax.image_io import metadata as metadata_lib
from gendr_jax.image_io import profiles
from gendr_jax.image_io.metadata.statements import Metadata
from gendr_jax.image_io.picture import DENSITY, FORMATS, Image

SIDES = {"JPEG": 65535, "WEBP": 16383}
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {"compression": 6},
    "JPEG": {"Q": 95, "subsample_mode": "off"},
    "WEBP": {"lossless": True, "exact": True},
    "TIFF": {"compression": "deflate", "predictor": "horizontal"},
}
LOSSY: dict[str, dict[str, Any]] = {
    "JPEG": {"subsample_mode": "off"},
    "WEBP": {"smart_subsample": True, "exact": True},
}
SAVERS: dict[str, Callable[..., Any]] = {
    "PNG": pyvips.Image.pngsave,
    "JPEG": pyvips.Image.jpegsave,
    "WEBP": pyvips.Image.webpsave,
    "TIFF": pyvips.Image.tiffsave,
}
# TIFF above this many pixels is tiled, so that viewers need not decode all of it, and
# may exceed 4 GB.
TILED = 64 * 1024 * 1024


def write(
    path: Path | str,
    image: Image,
    *,
    metadata: bool = True,
    quality: int | None = None,
) -> tuple[str, ...]:
    """Write one picture; the suffix decides the format.

    Args:
        quality: 1 to 100, of JPEG (None: 95; never with chroma subsampling) and of
            WebP (None: lossless); other formats are lossless.

    Without metadata, colours are those of sRGB, as no profile says otherwise.

    Returns:
        What of the metadata the file cannot hold, in words for people.

    Raises:
        InputError: unknown suffix, or a format that cannot hold the picture.
    """
    image = without_opaque_alpha(path, image)
    height, width = image.pixels_hwc.shape[:2]
    require_fit(Path(path), image, height, width, alpha=image.alpha_hw is not None)
    return save(Path(path), as_vips(image), image, metadata=metadata, quality=quality)


def without_opaque_alpha(path: Path | str, image: Image) -> Image:
    """Without alpha where it hides nothing and the format has none."""
    alpha = image.alpha_hw
    opaque = alpha is not None and alpha.min() == np.iinfo(alpha.dtype).max
    if opaque and FORMATS.get(Path(path).suffix.lower()) == "JPEG":
        return dataclasses.replace(image, alpha_hw=None)
    return image


def as_vips(image: Image) -> pyvips.Image:
    """The pixels, alpha last, as a picture of libvips without metadata."""
    pixels, alpha = image.pixels_hwc, image.alpha_hw
    if alpha is not None:
        pixels = np.concatenate([pixels, alpha[..., None]], axis=-1)
    grey, deep = pixels.shape[-1] < 3, pixels.dtype == np.uint16
    name = ("grey16" if grey else "rgb16") if deep else ("b-w" if grey else "srgb")
    array = np.ascontiguousarray(pixels)
    return pyvips.Image.new_from_array(array, interpretation=name)


def require_fit(
    path: Path, like: Image, height: int, width: int, *, alpha: bool
) -> None:
    """Refuse a suffix that is not written or cannot hold the picture.

    Raises:
        InputError: with the reason.
    """
    if path.suffix.lower() not in FORMATS:
        known = " ".join(FORMATS)
        raise InputError(f"{path} has no suffix that is written. Use one of {known}.")
    problem = misfit(path.suffix, height, width, bits=depth(like), alpha=alpha)
    if problem:
        raise InputError(f"{path}: {problem}. Use --ext png.")


def require_writable(path: Path) -> None:
    """Refuse a file that cannot be written where it shall be, as far as can be told.

    Raises:
        InputError: with what is in the way.
        OSError: a name that the file system does not take.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder. Name another -o, or a --suffix.")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise InputError(f"{path} cannot be written, as {above} is a file. Move it.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(
            f"{path} cannot be written, as nothing may be written into {above}. "
            "Check its permissions, or name another -o."
        )


def misfit(suffix: str, height: int, width: int, *, bits: int, alpha: bool) -> str:
    """Why files of this suffix cannot hold such a picture, or ""."""
    kind = FORMATS[suffix.lower()]
    if kind == "JPEG" and alpha:
        return "JPEG cannot hold transparency"
    if kind in ("JPEG", "WEBP") and bits == 16:
        return f"{kind} cannot hold 16 bits"
    limit = SIDES.get(kind)
    if limit and max(height, width) > limit:
        return f"{kind} ends at {limit} pixels a side, this is {width}x{height}"
    return ""


def depth(image: Image) -> int:
    """Bits a channel in the file."""
    return image.bits or 8 * image.pixels_hwc.dtype.itemsize


def save(
    path: Path,
    pixels: pyvips.Image,
    like: Image,
    *,
    metadata: bool,
    quality: int | None = None,
) -> tuple[str, ...]:
    """Write what `pixels` gives, row by row, with the metadata of `like`.

    Returns:
        What of it the file cannot hold, in words for people.
    """
    kind = FORMATS[path.suffix.lower()]
    deep = pixels.format == "ushort"
    grey = pixels.bands < 3
    name = ("grey16" if grey else "rgb16") if deep else ("b-w" if grey else "srgb")
    pixels = pixels.copy(interpretation=name)
    tag = "no" if not metadata else ("colour" if kind == "WEBP" else "all")
    pixels = profiles.from_working(pixels, like.space, like.icc, depth(like), tag=tag)
    said = Metadata()
    if metadata:
        size_hw = pixels.height, pixels.width
        said = metadata_lib.fitted(_said(like), kind, size_hw, like.from_hw)
    across, down = said.density or (DENSITY, DENSITY)
    pixels = pixels.copy(xres=across, yres=down)
    options = dict(SAVE_OPTIONS[kind])
    if quality is not None and kind in LOSSY:
        options = LOSSY[kind] | {"Q": quality}
    if kind == "TIFF" and pixels.width * pixels.height > TILED:
        options |= {"tile": True, "tile_width": 256, "tile_height": 256}
        options |= {"bigtiff": True}
    with files.replacing(path) as unfinished:
        # Pixels and profile by libvips, which would encode some of the rest anew.
        bare = files.temporary_name(unfinished)
        try:
            keep = "icc" if metadata else "none"
            SAVERS[kind](pixels, str(bare), keep=keep, **options)
            metadata_lib.insert(bare, unfinished, kind, said)
        except pyvips.Error as error:
            # Pixels are in memory: what fails is the disk.
            raise OSError(" ".join(str(error).split())) from error
        finally:
            bare.unlink(missing_ok=True)
    return said.lost


def _said(like: Image) -> Metadata:
    return Metadata(
        like.exif, like.xmp, like.iptc, like.comment, like.text, like.density, like.lost
    )
