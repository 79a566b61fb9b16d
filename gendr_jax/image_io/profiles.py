"""Colour management by ICC profiles: file colours to network input, and back.

Grey pictures and RGB within 2 levels of sRGB are not converted and keep their profile.
Other RGB profiles are converted to Display P3, and back when the result is written;
CMYK and Lab become sRGB for good. By libvips (Little CMS), relative colorimetric, so
that white stays white.
"""

import dataclasses
import functools
from typing import Literal

import numpy as np
import pyvips

from gendr_jax.image_io.picture import Image, Space

ICC = "icc-profile-data"
INTENT = "relative"
NEAR = 2  # of 255 levels: invisible, and two conversions would cost more accuracy


def blob(image: pyvips.Image, name: str) -> bytes | None:
    """A metadata field of bytes, such as the profile; None if it is missing."""
    value = image.get(name) if name in image.get_fields() else None
    assert value is None or isinstance(value, bytes), (name, type(value))
    return value


def fields(image: pyvips.Image, **blobs: bytes | None) -> pyvips.Image:
    """A copy with these metadata fields; "icc_profile" means "icc-profile-data"."""
    image = image.copy()
    for name, value in blobs.items():
        name = f"{name.replace('_', '-')}-data"
        if value:
            # ty: ignore[invalid-argument-type]  the stub of pyvips lacks bytes
            image.set_type(pyvips.GValue.blob_type, name, value)
        elif name in image.get_fields():
            image.remove(name)
    return image


def builtin(name: str) -> bytes:
    """A profile built into libvips: "srgb", "p3" or "cmyk"."""
    return pyvips.Operation.call("profile_load", name)


def to_working(
    image: pyvips.Image,
) -> tuple[pyvips.Image, Space, bytes | None]:
    """(picture for the networks, its colour space, profile for the written result).

    In the space "p3" it always has 16 bits a channel.
    """
    icc = blob(image, ICC)
    grey = image.interpretation in ("b-w", "grey16")
    if icc and image.interpretation != "cmyk" and not _is_embeddable(icc, grey):
        icc = None
    image = fields(image, icc_profile=icc)
    deep = image.format == "ushort"
    if image.interpretation == "cmyk":
        depth = 16 if deep else 8
        image = image.icc_transform(
            "srgb", embedded=True, input_profile="cmyk", intent=INTENT, depth=depth
        )
        return image, "file", builtin("srgb")
    if image.interpretation in ("lab", "labs"):
        image = image.colourspace("srgb").cast("uchar")
        return image, "file", builtin("srgb")
    if icc is None or icc[16:20] != b"RGB " or grey:
        return image, "file", icc
    treatment = _treatment(icc)
    if treatment == "keep":
        return image, "file", icc
    image = image.icc_transform("p3", embedded=True, intent=INTENT, depth=16)
    return image, "p3", icc if treatment == "return" else builtin("p3")


def from_working(
    image: pyvips.Image,
    space: Space,
    icc: bytes | None,
    bits: int,
    *,
    tag: Literal["all", "colour", "no"],
) -> pyvips.Image:
    """The inverse of `to_working`.

    Args:
        tag: "all": the file may have any profile; "colour": RGB profiles only, as WebP
            stores grey as RGB; "no": none. Colours become sRGB where it has none.
    """
    if is_grey(icc) and (tag != "all" or image.bands > 2):
        image, icc = _grey_as_srgb(image, icc), None
    if space == "p3":
        image = fields(image, icc_profile=None)
        if tag == "no":
            image = image.icc_transform(
                "srgb", input_profile="p3", intent=INTENT, depth=bits
            )
        elif icc == builtin("p3"):
            if (image.format, bits) == ("ushort", 8):
                # libvips writes 16 bits where the interpretation says so.
                image = (image / 257).rint().cast("uchar").copy(interpretation="srgb")
        else:
            lab = image.icc_import(input_profile="p3", intent=INTENT)
            lab = fields(lab, icc_profile=icc)
            image = lab.icc_export(intent=INTENT, depth=bits)
    return fields(image, icc_profile=None if tag == "no" else icc)


def is_plain(icc: bytes | None, grey: bool) -> bool:
    """Whether pixels are sRGB without conversion: no profile, or one close to sRGB."""
    if icc is None or not _is_embeddable(icc, grey):
        return True
    if grey or icc[16:20] != b"RGB ":
        return not is_grey(icc)
    return _treatment(icc) == "keep"


def srgb_8(image: Image) -> np.ndarray:
    """The colours in sRGB, uint8 [H, W, 3]; grey as three equal channels."""
    image = grey_in_srgb(image)
    pixels = image.pixels_hwc
    if image.space == "p3":
        wide = pyvips.Image.new_from_array(pixels, interpretation="rgb16")
        pixels = from_working(wide, "p3", image.icc, 8, tag="no").numpy()
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def is_grey(icc: bytes | None) -> bool:
    """Whether it is a grey profile."""
    return icc is not None and icc[16:20] == b"GRAY"


def grey_in_srgb(image: Image) -> Image:
    """Convert a picture with a grey profile to sRGB's tone curve without profile."""
    if not is_grey(image.icc) or image.pixels_hwc.dtype not in (np.uint8, np.uint16):
        return image
    pixels = np.ascontiguousarray(image.pixels_hwc[..., :1])
    name = "grey16" if pixels.dtype == np.uint16 else "b-w"
    vips_image = pyvips.Image.new_from_array(pixels, interpretation=name)
    srgb = _grey_as_srgb(vips_image, image.icc).numpy().reshape(*pixels.shape)
    srgb = np.repeat(srgb, image.pixels_hwc.shape[-1], axis=-1)
    return dataclasses.replace(image, pixels_hwc=srgb, icc=None)


def _grey_as_srgb(image: pyvips.Image, icc: bytes | None) -> pyvips.Image:
    """Convert grey (1, 2 or 3 equal bands, perhaps alpha) to sRGB's tone curve."""
    srgb_levels = _srgb_levels(icc or b"", image.format == "ushort")
    if srgb_levels is None:  # a damaged profile
        return image
    colours = 1 if image.bands <= 2 else 3
    mapped = image.extract_band(0, n=colours).maplut(
        pyvips.Image.new_from_array(srgb_levels[None, :, None])
    )
    if image.bands > colours:
        mapped = mapped.bandjoin(image.extract_band(colours))
    return mapped.copy(interpretation=image.interpretation)


@functools.lru_cache(maxsize=8)
def _srgb_levels(icc: bytes, deep: bool) -> np.ndarray | None:
    """The sRGB level of each level of a grey profile; None if it is damaged.

    By luminance in floats: by 16-bit Lab dark levels would change by eight.
    """
    dtype = np.uint16 if deep else np.uint8
    max_level = np.iinfo(dtype).max
    ramp = np.arange(max_level + 1).astype(dtype)[None, :, None]
    name = "grey16" if deep else "b-w"
    levels = fields(
        pyvips.Image.new_from_array(ramp, interpretation=name), icc_profile=icc
    )
    try:
        xyz = levels.icc_import(embedded=True, intent=INTENT, pcs="xyz").numpy()
    except pyvips.Error:
        return None
    luminance = np.clip(xyz[0, :, 1] / 100, 0, 1)
    curve = np.where(
        luminance <= 0.0031308,
        12.92 * luminance,
        1.055 * luminance ** (1 / 2.4) - 0.055,
    )
    return np.rint(curve * max_level).astype(dtype)


@functools.lru_cache(maxsize=64)
def _is_embeddable(icc: bytes, grey: bool) -> bool:
    """Whether files can have this profile: libpng, the strictest, accepts it."""
    pixel = pyvips.Image.black(1, 1, bands=1 if grey else 3)
    pixel = pixel.copy(interpretation="b-w" if grey else "srgb")
    try:
        stored = fields(pixel, icc_profile=icc).pngsave_buffer()
        back = pyvips.Image.pngload_buffer(stored)
    except pyvips.Error:
        return False
    return icc[36:40] == b"acsp" and ICC in back.get_fields()


@functools.lru_cache(maxsize=64)
def _treatment(icc: bytes) -> str:
    """ "keep": close to sRGB; "return": to P3 and back; "leave": to P3 only."""
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    patches = pyvips.Image.new_from_array(cube).copy(interpretation="srgb")
    patches = fields(patches, icc_profile=icc)
    try:
        srgb = patches.icc_transform("srgb", embedded=True, intent=INTENT, depth=8)
        if np.abs(srgb.numpy().astype(int) - cube).max() <= NEAR:
            return "keep"
    except pyvips.Error:
        return "keep"  # a damaged profile
    try:
        lab = patches.icc_import(embedded=True, intent=INTENT)
        lab.icc_export(intent=INTENT, depth=8).numpy()
    except pyvips.Error:  # an input-only profile, as scanners have
        return "leave"
    return "return"
