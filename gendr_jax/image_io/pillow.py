"""PIL images to `Image` and back; BMP and PPM files, which Pillow reads.

Images that Pillow would read incompletely (several frames, 32 bits) are refused. RGB
profiles are passed through; CMYK becomes sRGB.
"""

import dataclasses
import io
import warnings
from typing import Any

import numpy as np
from PIL import Image as Pil
from PIL import ImageCms, ImageOps

from gendr_jax.errors import InputError
from gendr_jax.image_io import profiles
from gendr_jax.image_io.encoded import Source, opened
from gendr_jax.image_io.metadata import exif as exif_lib
from gendr_jax.image_io.metadata import xmp as xmp_lib
from gendr_jax.image_io.metadata.exif import MM_PER_INCH, ORIENTATION, PREFIX
from gendr_jax.image_io.metadata.tiff_fields import DESCRIPTIVE
from gendr_jax.image_io.picture import MAX_PIXELS, Image, require_size


def read(path: Source, *, max_pixels: int) -> Image:
    """Read a BMP or PPM file.

    Raises:
        InputError: damaged, truncated, larger than `max_pixels`, or not supported.
    """
    try:
        with warnings.catch_warnings():
            # The size is checked below; Pillow warns at the same limit.
            warnings.simplefilter("ignore", Pil.DecompressionBombWarning)
            with (
                opened(path) as file,
                Pil.open(file, formats=("BMP", "PPM")) as image,
            ):
                return from_pil(image, str(path), max_pixels=max_pixels)
    except InputError:
        raise
    except Pil.DecompressionBombError:
        raise InputError(
            f"{path} has more than {2 * MAX_PIXELS} pixels, the limit for BMP and PPM. "
            "Cut it into pieces, or convert it to PNG or TIFF."
        ) from None
    except Exception as error:  # decoders raise almost anything on broken files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} is damaged or truncated ({reason}). Replace the file."
        ) from error


def from_pil(opened: Pil.Image, name: str, *, max_pixels: int = MAX_PIXELS) -> Image:
    """The picture of a PIL image; `name` is for messages.

    Grey stays grey, a palette becomes RGB, bilevel becomes grey; transparency of any
    kind becomes alpha.

    Raises:
        InputError: as `read`. Decoding errors of Pillow are not caught.
    """
    width, height = opened.size
    require_size(name, height, width, max_pixels)
    _refuse_unhandled(opened, name)
    icc, metadata = opened.info.get("icc_profile"), _metadata_only(opened)
    image = ImageOps.exif_transpose(opened)
    image.load()
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16)
        return dataclasses.replace(metadata, pixels_hwc=pixels[..., None], icc=icc)
    if image.mode in ("CMYK", "LAB"):
        image, icc = _to_srgb(image, icc)
    image = image.convert(_plain_mode(image))
    pixels = np.array(image)
    if image.mode in ("LA", "RGBA"):
        colours, alpha = pixels[..., :-1], pixels[..., -1]
        return dataclasses.replace(
            metadata, pixels_hwc=colours, alpha_hw=alpha, icc=icc
        )
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return dataclasses.replace(metadata, pixels_hwc=pixels, icc=icc)


def to_pil(image: Image) -> Pil.Image:
    """The same picture as a PIL image of mode L, LA, RGB, RGBA or I;16.

    Profile, EXIF, XMP, comment and resolution are in its `info`, for the arguments of
    Pillow's `save`.

    Raises:
        InputError: 16-bit colour or 16-bit alpha, which Pillow cannot hold.
    """
    pixels, alpha = image.pixels_hwc, image.alpha_hw
    if pixels.dtype == np.uint16 and (pixels.shape[-1] != 1 or alpha is not None):
        raise InputError(
            "a 16-bit colour picture cannot be a PIL image, Pillow has 16 bits for "
            "grey only. Convert it to 8 bits."
        )
    if alpha is not None:
        pixels = np.concatenate([pixels, alpha[..., None]], axis=-1)
    if pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    picture = Pil.fromarray(np.ascontiguousarray(pixels))
    picture.info.update(_info(image))
    return picture


def _metadata_only(opened: Pil.Image) -> Image:
    """The metadata of a PIL image, as an `Image` without pixels."""
    info, exif = opened.info, opened.info.get("exif")
    if not isinstance(exif, bytes):
        # For TIFF files Pillow returns all fields, also those that describe pixels.
        tags = opened.getexif()
        if opened.format == "TIFF":
            for tag in set(tags) - DESCRIPTIVE:
                del tags[tag]
        exif = tags.tobytes() if len(tags) else None
    density, dpi = None, info.get("dpi")
    if dpi is not None and min(dpi) > 0:
        density = float(dpi[0]) / MM_PER_INCH, float(dpi[1]) / MM_PER_INCH
    xmp, comment = info.get("xmp"), info.get("comment")
    return Image(
        np.empty((0, 0, 1), np.uint8),
        exif=exif and exif.removeprefix(PREFIX),
        xmp=xmp.encode() if isinstance(xmp, str) else xmp,
        comment=comment if isinstance(comment, bytes) else None,
        density=density,
        from_hw=_upright(opened),
    )


def _upright(opened: Pil.Image) -> tuple[int, int]:
    """(height, width) after rotation by the EXIF orientation."""
    width, height = opened.size
    is_rotated = opened.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    return (width, height) if is_rotated else (height, width)


def _info(image: Image) -> dict[str, Any]:
    """Entries of a PIL image's `info`."""
    size_hw = image.pixels_hwc.shape[:2]
    exif = image.exif and exif_lib.edited(image.exif, *size_hw)
    packet = image.xmp and xmp_lib.edited(image.xmp, size_hw, image.from_hw)
    dpi = image.density and tuple(d * MM_PER_INCH for d in image.density)
    entries = {
        "icc_profile": image.icc,
        "exif": exif and PREFIX + exif,
        "xmp": packet,
        "comment": image.comment,
        "dpi": dpi,
    }
    return {name: value for name, value in entries.items() if value}


def _to_srgb(image: Pil.Image, icc: bytes | None) -> tuple[Pil.Image, bytes]:
    """CMYK by its profile or a generic one, or Lab, to (sRGB, the sRGB profile)."""
    srgb = ImageCms.createProfile("sRGB")
    if image.mode == "LAB":
        source = ImageCms.createProfile("LAB")
    else:
        source = ImageCms.getOpenProfile(io.BytesIO(icc or profiles.builtin("cmyk")))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    converted = ImageCms.profileToProfile(image, source, srgb, intent, outputMode="RGB")
    assert converted is not None  # it is where the picture is not changed in place
    return converted, ImageCms.ImageCmsProfile(srgb).tobytes()


def _refuse_unhandled(image: Pil.Image, name: str) -> None:
    """Refuse images that Pillow would read incompletely or in wrong colours."""
    reason = ""
    frames = getattr(image, "n_frames", 1)
    raw_modes = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()) or ())
    if frames > 1 and image.format != "MPO":  # MPO: a camera's JPEG with previews
        reason = f"has {frames} frames, and one is needed"
    elif image.mode == "HSV":
        reason = "has HSV pixels, which are not supported"
    elif image.mode in ("I", "F"):
        reason = f"has {image.mode} pixels (32 bits), whose range is unknown"
    elif not image.mode.startswith("I;16") and (";16" in raw_modes or _is_deep(image)):
        reason = f"has more than 8 bits a channel, and Pillow reads 8 of {image.mode}"
    elif image.mode.startswith("I;16") and "transparency" in image.info:
        reason = "is 16-bit grey with a transparent level"
    elif image.mode.startswith("I;16") and _tag(image, 262) == 0:
        reason = "is 16-bit grey stored as a negative"
    if reason:
        raise InputError(
            f"{name} {reason}. Give the file's path, a numpy array, or 8-bit RGB."
        )


def _is_deep(image: Pil.Image) -> bool:
    """Whether a TIFF or PPM file has more than 8 bits a channel, by its header."""
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
    """The mode among L, LA, RGB and RGBA that keeps all channels."""
    grey = image.mode in ("1", "L", "LA", "La")
    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    has_alpha = has_alpha or "transparency" in image.info
    return ("LA" if has_alpha else "L") if grey else ("RGBA" if has_alpha else "RGB")
