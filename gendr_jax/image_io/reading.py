"""Files to pictures in memory: `read`, and `probe` for the header alone."""

import dataclasses
from pathlib import Path

import numpy as np
import pyvips

from gendr_jax.image_io import exif_files, loading, pillow, profiles
from gendr_jax.image_io.picture import DENSITY, MAX_PIXELS, Header, Image

DEFAULT_DENSITIES = (1.0, DENSITY)  # pixels a millimetre, by loader
DTYPES = {"uchar": np.dtype(np.uint8), "ushort": np.dtype(np.uint16)}


def read(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Read one picture, turned upright by its EXIF orientation.

    Raises:
        InputError: missing, not a picture, truncated, larger than `max_pixels`, or of
            a kind that is not handled; the message names the file.
    """
    path = Path(path)
    kind = loading.kind_of(path)
    if kind in loading.PILLOW:
        return pillow.read(path, max_pixels=max_pixels)
    with loading.errors(path):
        image, like = open_upright(path, kind, max_pixels=max_pixels)
        pixels, alpha = split(image.numpy(), image.hasalpha())
    return dataclasses.replace(like, pixels_hwc=pixels, alpha_hw=alpha)


def probe(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> Header:
    """What the header says; damage of pixels goes unnoticed.

    Raises:
        InputError: as `read`.
    """
    path = Path(path)
    kind = loading.kind_of(path)
    if kind in loading.PILLOW:  # formats of old: small, and read whole
        image = pillow.read(path, max_pixels=max_pixels)
        pixels = image.pixels_hwc
        return Header(*pixels.shape, image.alpha_hw is not None, pixels.dtype)
    with loading.errors(path):
        return header(open_upright(path, kind, max_pixels=max_pixels, random=True)[0])


def open_upright(
    path: Path, kind: str, *, max_pixels: int, random: bool = False
) -> tuple[pyvips.Image, Image]:
    """(upright picture of 8 or 16 bits with 1 to 4 bands, its `Image` without pixels).

    Decoding happens later, so whoever asks for pixels does it inside `loading.errors`.
    """
    access = "random" if random else "sequential"
    image = loading.load(path, kind, max_pixels=max_pixels, access=access)
    fields = image.get_fields()
    exif, xmp, iptc = (
        image.get(name) if name in fields else None
        for name in ("exif-data", "xmp-data", "iptc-data")
    )
    if kind in ("JPEG", "PNG", "WEBP"):
        exif = exif_files.read(path, kind)  # libvips gives some formats' encoded anew
    if "orientation" in fields and image.get("orientation") > 1:
        # Turning needs rows in another order than they come.
        image = (image if random else image.copy_memory()).autorot()
    bits = loading.DEPTHS.get(image.format, 8)
    density = None if _is_default(image) else (image.xres, image.yres)
    from_hw = image.height, image.width
    image, space, icc = profiles.to_working(image)
    channels = image.bands - image.hasalpha()
    like = Image(
        np.empty((0, 0, channels), DTYPES[image.format]),
        icc=icc,
        exif=exif,
        xmp=xmp,
        iptc=iptc,
        space=space,
        bits=bits,
        density=density,
        from_hw=from_hw,
    )
    return image, like


def _is_default(image: pyvips.Image) -> bool:
    """Whether the density is what libvips says where a file has none, or the same."""
    across, down = image.xres, image.yres
    return across == down and min(abs(across - d) for d in DEFAULT_DENSITIES) < 0.001


def header(image: pyvips.Image) -> Header:
    """Size and kind of an upright picture of libvips."""
    alpha, dtype = bool(image.hasalpha()), DTYPES[image.format]
    return Header(image.height, image.width, image.bands - alpha, alpha, dtype)


def split(pixels_hwc: np.ndarray, alpha: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """(colours [H, W, 1 or 3], alpha_hw or None) of what libvips gives."""
    if pixels_hwc.ndim == 2:
        pixels_hwc = pixels_hwc[..., None]
    if not alpha:
        return pixels_hwc, None
    return pixels_hwc[..., :-1], pixels_hwc[..., -1]
