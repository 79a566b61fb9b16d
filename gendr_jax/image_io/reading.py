"""Read an image file into memory (`read`), or its header alone (`probe`)."""

import dataclasses
from pathlib import Path

import numpy as np
import pyvips

from gendr_jax.image_io import loading, metadata, pillow, profiles, stated_colours
from gendr_jax.image_io.encoded import Source
from gendr_jax.image_io.metadata.statements import Metadata
from gendr_jax.image_io.picture import MAX_PIXELS, Header, Image

DTYPES = {"uchar": np.dtype(np.uint8), "ushort": np.dtype(np.uint16)}


def read(path: Source | str, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Read one picture, turned upright by its EXIF orientation.

    Raises:
        InputError: missing, not an image file, truncated, larger than `max_pixels`, or
            not supported; the message names the file.
    """
    path = Path(path) if isinstance(path, str) else path
    file_format = loading.format_of(path)
    if file_format in loading.PILLOW_FORMATS:
        return pillow.read(path, max_pixels=max_pixels)
    with loading.errors(path):
        image, like = open_upright(path, file_format, max_pixels=max_pixels)
        pixels, alpha = split(image.numpy(), image.hasalpha())
    return dataclasses.replace(like, pixels_hwc=pixels, alpha_hw=alpha)


def probe(path: Source | str, *, max_pixels: int = MAX_PIXELS) -> Header:
    """The header of a file; damaged pixels are not noticed.

    Raises:
        InputError: as `read`.
    """
    path = Path(path) if isinstance(path, str) else path
    file_format = loading.format_of(path)
    if file_format in loading.PILLOW_FORMATS:  # usually small, and decoded at once
        image = pillow.read(path, max_pixels=max_pixels)
        pixels = image.pixels_hwc
        return Header(*pixels.shape, image.alpha_hw is not None, pixels.dtype)
    with loading.errors(path):
        return header(
            open_upright(path, file_format, max_pixels=max_pixels, random=True)[0]
        )


def open_upright(
    path: Source, file_format: str, *, max_pixels: int, random: bool = False
) -> tuple[pyvips.Image, Image]:
    """(upright picture of 8 or 16 bits with 1 to 4 bands, its `Image` without pixels).

    libvips decodes later, so callers fetch pixels inside `loading.errors`.
    """
    access = "random" if random else "sequential"
    image = loading.load(path, file_format, max_pixels=max_pixels, access=access)
    fields = image.get_fields()
    file_metadata = _read_metadata(path, file_format, image)
    density = file_metadata.density
    orientation = image.get("orientation") if "orientation" in fields else 1
    assert isinstance(orientation, int), orientation
    if orientation > 1:
        # Rotation reads rows in another order than sequential access delivers them.
        image = (image if random else image.copy_memory()).autorot()
        if density is not None and orientation >= 5:
            density = density[::-1]
    bits = loading.DEPTHS.get(image.format, 8)
    from_hw = image.height, image.width
    image = _with_profile(path, file_format, image, file_metadata)
    image, space, icc = profiles.to_working(image)
    channels = image.bands - image.hasalpha()
    like = Image(
        np.empty((0, 0, channels), DTYPES[str(image.format)]),
        icc=icc,
        exif=file_metadata.exif,
        xmp=file_metadata.xmp,
        iptc=file_metadata.iptc,
        space=space,
        bits=bits,
        density=density,
        from_hw=from_hw,
        comment=file_metadata.comment,
        text=file_metadata.text,
        lost=file_metadata.lost,
    )
    return image, like


def _read_metadata(path: Source, file_format: str, image: pyvips.Image) -> Metadata:
    """Metadata by the reader of metadata/ for the format, else by libvips."""
    if file_format in metadata.READERS:
        return metadata.read(path, file_format)
    exif, xmp = profiles.blob(image, "exif-data"), profiles.blob(image, "xmp-data")
    comment = image.get("gif-comment") if "gif-comment" in image.get_fields() else None
    text = comment.encode() if isinstance(comment, str) else None
    return Metadata(exif=exif, xmp=xmp, comment=text)


def _with_profile(
    path: Source, file_format: str, image: pyvips.Image, file_metadata: Metadata
) -> pyvips.Image:
    """The picture with the profile of the colours that the file states."""
    if image.interpretation not in ("b-w", "grey16", "srgb", "rgb", "rgb16"):
        return image
    embedded = profiles.blob(image, profiles.ICC)
    grey = image.interpretation in ("b-w", "grey16")
    stated = stated_colours.profile(
        path, file_format, embedded, file_metadata.exif, grey=grey
    )
    return image if stated == embedded else profiles.fields(image, icc_profile=stated)


def header(image: pyvips.Image) -> Header:
    """The header of an upright libvips picture."""
    alpha, dtype = bool(image.hasalpha()), DTYPES[str(image.format)]
    return Header(image.height, image.width, image.bands - alpha, alpha, dtype)


def split(pixels_hwc: np.ndarray, alpha: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """(colours [H, W, 1 or 3], alpha_hw or None) of an array of libvips."""
    if pixels_hwc.ndim == 2:
        pixels_hwc = pixels_hwc[..., None]
    if not alpha:
        return pixels_hwc, None
    return pixels_hwc[..., :-1], pixels_hwc[..., -1]
