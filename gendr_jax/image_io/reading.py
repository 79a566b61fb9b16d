"""Files to pictures in memory: `read`, and `probe` for the header alone."""

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
        InputError: missing, not a picture, truncated, larger than `max_pixels`, or of
            a kind that is not handled; the message names the file.
    """
    path = Path(path) if isinstance(path, str) else path
    kind = loading.kind_of(path)
    if kind in loading.PILLOW:
        return pillow.read(path, max_pixels=max_pixels)
    with loading.errors(path):
        image, like = open_upright(path, kind, max_pixels=max_pixels)
        pixels, alpha = split(image.numpy(), image.hasalpha())
    return dataclasses.replace(like, pixels_hwc=pixels, alpha_hw=alpha)


def probe(path: Source | str, *, max_pixels: int = MAX_PIXELS) -> Header:
    """What the header says; damage of pixels goes unnoticed.

    Raises:
        InputError: as `read`.
    """
    path = Path(path) if isinstance(path, str) else path
    kind = loading.kind_of(path)
    if kind in loading.PILLOW:  # formats of old: small, and read whole
        image = pillow.read(path, max_pixels=max_pixels)
        pixels = image.pixels_hwc
        return Header(*pixels.shape, image.alpha_hw is not None, pixels.dtype)
    with loading.errors(path):
        return header(open_upright(path, kind, max_pixels=max_pixels, random=True)[0])


def open_upright(
    path: Source, kind: str, *, max_pixels: int, random: bool = False
) -> tuple[pyvips.Image, Image]:
    """(upright picture of 8 or 16 bits with 1 to 4 bands, its `Image` without pixels).

    Decoding happens later, so whoever asks for pixels does it inside `loading.errors`.
    """
    access = "random" if random else "sequential"
    image = loading.load(path, kind, max_pixels=max_pixels, access=access)
    fields = image.get_fields()
    said = _said(path, kind, image)
    density = said.density
    turned = image.get("orientation") if "orientation" in fields else 1
    assert isinstance(turned, int), turned
    if turned > 1:
        # Turning needs rows in another order than they come.
        image = (image if random else image.copy_memory()).autorot()
        if density is not None and turned >= 5:
            density = density[::-1]
    bits = loading.DEPTHS.get(image.format, 8)
    from_hw = image.height, image.width
    image = _with_profile(path, kind, image, said)
    image, space, icc = profiles.to_working(image)
    channels = image.bands - image.hasalpha()
    like = Image(
        np.empty((0, 0, channels), DTYPES[str(image.format)]),
        icc=icc,
        exif=said.exif,
        xmp=said.xmp,
        iptc=said.iptc,
        space=space,
        bits=bits,
        density=density,
        from_hw=from_hw,
        comment=said.comment,
        text=said.text,
        lost=said.lost,
    )
    return image, like


def _said(path: Source, kind: str, image: pyvips.Image) -> Metadata:
    """The metadata of a file, by our own readers where there is one for its format."""
    if kind in metadata.READERS:
        return metadata.read(path, kind)
    exif, xmp = profiles.blob(image, "exif-data"), profiles.blob(image, "xmp-data")
    comment = image.get("gif-comment") if "gif-comment" in image.get_fields() else None
    text = comment.encode() if isinstance(comment, str) else None
    return Metadata(exif=exif, xmp=xmp, comment=text)


def _with_profile(
    path: Source, kind: str, image: pyvips.Image, said: Metadata
) -> pyvips.Image:
    """With the profile that says what the file states of its colours."""
    if image.interpretation not in ("b-w", "grey16", "srgb", "rgb", "rgb16"):
        return image
    embedded = profiles.blob(image, profiles.ICC)
    grey = image.interpretation in ("b-w", "grey16")
    stated = stated_colours.profile(path, kind, embedded, said.exif, grey=grey)
    return image if stated == embedded else profiles.fields(image, icc_profile=stated)


def header(image: pyvips.Image) -> Header:
    """Size and kind of an upright picture of libvips."""
    alpha, dtype = bool(image.hasalpha()), DTYPES[str(image.format)]
    return Header(image.height, image.width, image.bands - alpha, alpha, dtype)


def split(pixels_hwc: np.ndarray, alpha: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """(colours [H, W, 1 or 3], alpha_hw or None) of what libvips gives."""
    if pixels_hwc.ndim == 2:
        pixels_hwc = pixels_hwc[..., None]
    if not alpha:
        return pixels_hwc, None
    return pixels_hwc[..., :-1], pixels_hwc[..., -1]
