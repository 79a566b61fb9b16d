"""Write pictures to files: `write`, and `save` for pixels that libvips streams.

Files are written atomically: under a temporary name first.
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

MAX_SIDES = {"JPEG": 65535, "WEBP": 16383}
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
# TIFF files of more pixels are tiled, so that viewers need not decode all of it, and
# BigTIFF, so that they may exceed 4 GB.
TILED_PIXELS = 64 * 1024 * 1024


def write(
    path: Path | str,
    image: Image,
    *,
    metadata: bool = True,
    quality: int | None = None,
) -> tuple[str, ...]:
    """Write one picture; the suffix decides the format.

    Args:
        metadata: without it the file has no profile, so colours are converted to sRGB.
        quality: 1 to 100, of JPEG (None: 95; never with chroma subsampling) and of
            WebP (None: lossless); other formats are lossless.

    Returns:
        Names of the metadata that the format cannot store.

    Raises:
        InputError: unknown suffix, or a format that cannot store the picture.
    """
    image = without_opaque_alpha(path, image)
    height, width = image.pixels_hwc.shape[:2]
    require_fit(Path(path), image, height, width, alpha=image.alpha_hw is not None)
    return save(Path(path), as_vips(image), image, metadata=metadata, quality=quality)


def without_opaque_alpha(path: Path | str, image: Image) -> Image:
    """The picture without fully opaque alpha if the format (JPEG) has no alpha."""
    alpha = image.alpha_hw
    opaque = alpha is not None and alpha.min() == np.iinfo(alpha.dtype).max
    if opaque and FORMATS.get(Path(path).suffix.lower()) == "JPEG":
        return dataclasses.replace(image, alpha_hw=None)
    return image


def as_vips(image: Image) -> pyvips.Image:
    """The pixels, alpha last, as a libvips picture without metadata."""
    pixels, alpha = image.pixels_hwc, image.alpha_hw
    if alpha is not None:
        pixels = np.concatenate([pixels, alpha[..., None]], axis=-1)
    is_grey, is_16_bit = pixels.shape[-1] < 3, pixels.dtype == np.uint16
    interpretation = (
        ("grey16" if is_grey else "rgb16")
        if is_16_bit
        else ("b-w" if is_grey else "srgb")
    )
    array = np.ascontiguousarray(pixels)
    return pyvips.Image.new_from_array(array, interpretation=interpretation)


def require_fit(
    path: Path, like: Image, height: int, width: int, *, alpha: bool
) -> None:
    """Refuse a suffix that is not supported or whose format cannot store the picture.

    Raises:
        InputError: with the reason.
    """
    if path.suffix.lower() not in FORMATS:
        supported = " ".join(FORMATS)
        raise InputError(f"{path} has no supported suffix. Use one of {supported}.")
    problem = misfit(path.suffix, height, width, bits=depth(like), alpha=alpha)
    if problem:
        raise InputError(f"{path}: {problem}. Use --ext png.")


def require_writable(path: Path) -> None:
    """Refuse an output path that cannot be written, as far as can be checked before.

    Raises:
        InputError: a folder of that name, a file as its folder, no permission.
        OSError: a name that the file system refuses.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder. Give another -o, or a --suffix.")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise InputError(f"{path} cannot be written, as {parent} is a file. Move it.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(
            f"{path} cannot be written, as the folder {parent} is not writable. Check "
            "its permissions, or give another -o."
        )


def misfit(suffix: str, height: int, width: int, *, bits: int, alpha: bool) -> str:
    """Why the format of this suffix cannot store such a picture, or ""."""
    file_format = FORMATS[suffix.lower()]
    if file_format == "JPEG" and alpha:
        return "JPEG cannot hold transparency"
    if file_format in ("JPEG", "WEBP") and bits == 16:
        return f"{file_format} cannot hold 16 bits"
    limit = MAX_SIDES.get(file_format)
    if limit and max(height, width) > limit:
        return (
            f"{file_format} has at most {limit} pixels a side, this is {width}x{height}"
        )
    return ""


def depth(image: Image) -> int:
    """Bits a channel in a file of this picture."""
    return image.bits or 8 * image.pixels_hwc.dtype.itemsize


def save(
    path: Path,
    pixels: pyvips.Image,
    like: Image,
    *,
    metadata: bool,
    quality: int | None = None,
) -> tuple[str, ...]:
    """Write `pixels`, streamed row by row, with the metadata of `like`.

    Returns:
        Names of the metadata that the format cannot store.
    """
    file_format = FORMATS[path.suffix.lower()]
    is_16_bit = pixels.format == "ushort"
    is_grey = pixels.bands < 3
    interpretation = (
        ("grey16" if is_grey else "rgb16")
        if is_16_bit
        else ("b-w" if is_grey else "srgb")
    )
    pixels = pixels.copy(interpretation=interpretation)
    tag = "no" if not metadata else ("colour" if file_format == "WEBP" else "all")
    pixels = profiles.from_working(pixels, like.space, like.icc, depth(like), tag=tag)
    file_metadata = Metadata()
    if metadata:
        size_hw = pixels.height, pixels.width
        file_metadata = metadata_lib.fitted(
            _metadata_of(like), file_format, size_hw, like.from_hw
        )
    across, down = file_metadata.density or (DENSITY, DENSITY)
    pixels = pixels.copy(xres=across, yres=down)
    options = dict(SAVE_OPTIONS[file_format])
    if quality is not None and file_format in LOSSY:
        options = LOSSY[file_format] | {"Q": quality}
    if file_format == "TIFF" and pixels.width * pixels.height > TILED_PIXELS:
        options |= {"tile": True, "tile_width": 256, "tile_height": 256}
        options |= {"bigtiff": True}
    with files.replacing(path) as unfinished:
        # libvips writes pixels and profile only: it would re-encode other metadata.
        pixels_path = files.temporary_name(unfinished)
        try:
            keep = "icc" if metadata else "none"
            SAVERS[file_format](pixels, str(pixels_path), keep=keep, **options)
            metadata_lib.insert(pixels_path, unfinished, file_format, file_metadata)
        except pyvips.Error as error:
            # Pixels were decoded before, so this is an error of the disk.
            raise OSError(" ".join(str(error).split())) from error
        finally:
            pixels_path.unlink(missing_ok=True)
    return file_metadata.lost


def _metadata_of(like: Image) -> Metadata:
    return Metadata(
        like.exif, like.xmp, like.iptc, like.comment, like.text, like.density, like.lost
    )
