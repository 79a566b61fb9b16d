"""A file as a picture of libvips: found out by content, checked before it is decoded.

Only the loaders named here ever see a file; what they would read in part (animations,
several pages) or in an unknown range (floats) is refused.
"""

import contextlib
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyvips

from gendr_jax.errors import InputError
from gendr_jax.image_io.encoded import Encoded, Source, opened
from gendr_jax.image_io.metadata.directories import Pages, pages
from gendr_jax.image_io.picture import KINDS, RAW_SUFFIXES, require_size

# libvips reports through Python's logging, which without a handler prints.
logging.getLogger("pyvips").addHandler(logging.NullHandler())

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_START = b"\x89PNG\r\n\x1a\n"
LOADERS = {
    "PNG": pyvips.Image.pngload,
    "JPEG": pyvips.Image.jpegload,
    "WEBP": pyvips.Image.webpload,
    "TIFF": pyvips.Image.tiffload,
    "AVIF": pyvips.Image.heifload,
    "GIF": pyvips.Image.gifload,
}
BUFFER_LOADERS = {
    "PNG": pyvips.Image.pngload_buffer,
    "JPEG": pyvips.Image.jpegload_buffer,
    "WEBP": pyvips.Image.webpload_buffer,
    "TIFF": pyvips.Image.tiffload_buffer,
    "AVIF": pyvips.Image.heifload_buffer,
    "GIF": pyvips.Image.gifload_buffer,
}
PILLOW = ("BMP", "PPM")
DEPTHS = {"uchar": 8, "ushort": 16}
COLOURS = ("b-w", "srgb", "rgb", "rgb16", "grey16", "cmyk", "lab", "labs")


def kind_of(path: Source) -> str:
    """The format by the first bytes: a key of LOADERS, or one of PILLOW.

    Raises:
        InputError: missing, a folder, empty, not to be read, or of another format.
    """
    if isinstance(path, Path) and path.is_dir():
        raise InputError(f"{path} is a folder. Name a picture file.")
    # opening a pipe waits for ever
    if isinstance(path, Path) and path.exists() and not path.is_file():
        raise InputError(f"{path} is a pipe or a device. Name a picture file.")
    try:
        with opened(path) as file:
            head = file.read(64)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Check the path.") from None
    except PermissionError:
        raise InputError(f"{path} may not be read. Check its permissions.") from None
    if _is_raw(path, head):
        raise InputError(
            f"{path} is the raw data of a camera, of which only a small preview could "
            "be read. Develop it to TIFF or PNG first, for example with darktable."
        )
    if kind := kind_of_bytes(head):
        return kind
    if head[4:8] == b"ftyp":
        brand = head[8:12].decode("latin-1")
        raise InputError(
            f"{path} is HEIF of the brand {brand!r}, of which AVIF alone is read. "
            "Convert it to PNG or JPEG."
        )
    what = "is not a picture that is read" if head else "is empty"
    raise InputError(f"{path} {what}. {KINDS}")


def kind_of_bytes(head: bytes) -> str | None:
    """The format of a file that starts with these 64 bytes; None if it is not read."""
    if head.startswith(PNG_START):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:4] in TIFF_STARTS:
        return "TIFF"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    brands = {head[i : i + 4] for i in range(8, 64, 4)}
    if head[4:8] == b"ftyp" and brands & {b"avif", b"avis"}:
        return "AVIF"
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "BMP"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    return None


def _is_raw(path: Source, head: bytes) -> bool:
    """Whether a file is raw data of a camera, by its start, its fields or its name.

    Many of these start as a TIFF file whose first picture is a preview.
    """
    starts = b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM"
    if head.startswith(starts) or head[8:10] == b"CR" or head[4:12] == b"ftypcrx ":
        return True
    if head[:4] not in TIFF_STARTS:
        return False
    if isinstance(path, Path) and path.suffix.lower() in RAW_SUFFIXES:
        return True
    found = _pages(path)
    return found is not None and found.raw


def _pages(path: Source) -> Pages | None:
    """What a TIFF file holds; None where its directories cannot be followed."""
    try:
        with opened(path) as file:
            return pages(file)
    except (ValueError, struct.error):
        return None  # libvips says what is wrong with it


def _open(path: Source, kind: str, access: str) -> tuple[pyvips.Image, Pages | None]:
    """The file as libvips opens it; of a TIFF file the one full picture.

    Raises:
        InputError: a TIFF file with several pictures, or with reduced copies alone.
    """
    # Results are not taken from the cache of libvips, which goes by name.
    options: dict[str, Any] = {"access": access, "fail_on": "error"}
    found = _pages(path) if kind == "TIFF" else None
    if found is not None:
        if len(found.full) != 1:
            count = len(found.full) or "no"
            raise InputError(
                f"{path} has {count} frames or pages of full size, and one would be "
                "read. Convert it to an RGB PNG."
            )
        page, sub = found.full[0]
        options |= {"page": page, "subifd": sub}
    options["revalidate"] = True
    if isinstance(path, Encoded):
        return BUFFER_LOADERS[kind](path.data, **options), found
    return LOADERS[kind](str(path), **options), found


def _without_extra(image: pyvips.Image, extra: tuple[int, ...]) -> pyvips.Image:
    """Colours and opacity; other channels of a TIFF file (a saved selection) go."""
    colours = {"b-w": 1, "grey16": 1, "cmyk": 4}.get(image.interpretation, 3)
    if image.bands <= colours:
        return image
    kept = image.extract_band(0, n=colours)
    for i, meaning in enumerate(extra[: image.bands - colours]):
        if meaning in (1, 2):
            alpha = image.extract_band(colours + i)
            return kept.bandjoin(alpha).copy(interpretation=image.interpretation)
    return kept.copy(interpretation=image.interpretation)


def load(path: Source, kind: str, *, max_pixels: int, access: str) -> pyvips.Image:
    """The picture as the file has it; pixels are decoded later, on demand.

    Args:
        kind: a key of LOADERS.
        access: "sequential" (from top to bottom, once) or "random".

    Raises:
        InputError: larger than `max_pixels`, or of a kind that is not handled.
        pyvips.Error: a damaged header; see `errors`.
    """
    image, found = _open(path, kind, access)
    require_size(str(path), image.height, image.width, max_pixels)
    present = image.get_fields()
    pages = image.get("n-pages") if "n-pages" in present and found is None else 1
    if pages == 1 and _is_animated(path, kind):
        pages = "several"
    if found is not None:
        image = _without_extra(image, found.extra)
    reason = ""
    if pages != 1:
        reason = f"has {pages} frames or pages, and one would be read"
    elif image.format not in DEPTHS and image.interpretation != "lab":
        reason = f"has {image.format} pixels, whose range is unknown"
    elif image.interpretation not in COLOURS:
        reason = f"is {image.interpretation}, which is not handled"
    elif image.bands > 4 + (image.interpretation == "cmyk"):
        reason = f"has {image.bands} channels, and 4 are handled"
    if reason:
        raise InputError(f"{path} {reason}. Convert it to an RGB PNG.")
    return image


@contextlib.contextmanager
def errors(path: Source) -> Iterator[None]:
    """What decoders raise, as one line that names the file."""
    try:
        yield
    except pyvips.Error as error:
        detail = (error.detail or b"") if hasattr(error, "detail") else str(error)
        detail = (
            detail.decode(errors="replace") if isinstance(detail, bytes) else detail
        )
        reason = " ".join(detail.split())[:200]
        reason = f" ({reason})" if reason else ""
        raise InputError(
            f"{path} is damaged or truncated{reason}. Replace the file."
        ) from error


def _is_animated(path: Source, kind: str) -> bool:
    """Whether a PNG or AVIF says so where libvips would read its first frame.

    PNG: acTL before the pixels. AVIF: the brand of sequences.
    """
    with opened(path) as file:
        if kind == "AVIF":
            return file.read(12)[8:] == b"avis"
        if kind != "PNG":
            return False
        file.seek(len(PNG_START))
        while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
            if head[4:] == b"acTL":
                return True
            file.seek(int.from_bytes(head[:4]) + 4, 1)
    return False
