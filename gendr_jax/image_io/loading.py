"""Open an image file with libvips: format by content, checks before decoding.

Only the loaders listed here are called. Files that they would read incompletely
(animations, several pages) or in an unknown range (floats) are refused.
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
from gendr_jax.image_io.picture import RAW_SUFFIXES, USE_SUPPORTED, require_size

# libvips reports through Python's logging, which without a handler prints.
logging.getLogger("pyvips").addHandler(logging.NullHandler())

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
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
PILLOW_FORMATS = ("BMP", "PPM")
DEPTHS = {"uchar": 8, "ushort": 16}
COLOURS = ("b-w", "srgb", "rgb", "rgb16", "grey16", "cmyk", "lab", "labs")


def format_of(path: Source) -> str:
    """The format by the first bytes: a key of LOADERS, or one of PILLOW.

    Raises:
        InputError: missing, a folder, empty, unreadable, or of another format.
    """
    if isinstance(path, Path) and path.is_dir():
        raise InputError(f"{path} is a folder. Give an image file.")
    # opening a pipe would block
    if isinstance(path, Path) and path.exists() and not path.is_file():
        raise InputError(f"{path} is a pipe or a device. Give an image file.")
    try:
        with opened(path) as file:
            head = file.read(64)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Check the path.") from None
    except PermissionError:
        raise InputError(f"{path} cannot be read. Check its permissions.") from None
    if _is_raw(path, head):
        raise InputError(
            f"{path} is a camera raw file, which is not supported. Develop it to TIFF "
            "or PNG first, for example with darktable."
        )
    if file_format := format_of_bytes(head):
        return file_format
    if head[4:8] == b"ftyp":
        brand = head[8:12].decode("latin-1")
        raise InputError(
            f"{path} is HEIF of brand {brand!r}, and only AVIF is supported. Convert "
            "it to PNG or JPEG."
        )
    problem = "is not a supported image file" if head else "is empty"
    raise InputError(f"{path} {problem}. {USE_SUPPORTED}")


def format_of_bytes(head: bytes) -> str | None:
    """The format of a file that starts with these 64 bytes; None if not supported."""
    if head.startswith(PNG_MAGIC):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:4] in TIFF_MAGICS:
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
    """Whether it is a camera raw file, by its first bytes, TIFF fields or suffix.

    Many raw formats are TIFF files whose first picture is a small preview.
    """
    raw_magics = (
        b"FUJIFILMCCD-RAW",
        b"IIRO",
        b"IIRS",
        b"MMOR",
        b"IIU\0",
        b"FOVb",
        b"\0MRM",
    )
    if head.startswith(raw_magics) or head[8:10] == b"CR" or head[4:12] == b"ftypcrx ":
        return True
    if head[:4] not in TIFF_MAGICS:
        return False
    if isinstance(path, Path) and path.suffix.lower() in RAW_SUFFIXES:
        return True
    tiff_pages = _pages(path)
    return tiff_pages is not None and tiff_pages.raw


def _pages(path: Source) -> Pages | None:
    """The pictures of a TIFF file; None if its directories cannot be parsed."""
    try:
        with opened(path) as file:
            return pages(file)
    except (ValueError, struct.error):
        return None  # libvips raises the error


def _open(
    path: Source, file_format: str, access: str
) -> tuple[pyvips.Image, Pages | None]:
    """The file opened by libvips; of a TIFF file its one full-size picture.

    Raises:
        InputError: a TIFF file with several full-size pictures, or none.
    """
    # revalidate: libvips caches by file name, and the file may have changed.
    options: dict[str, Any] = {"access": access, "fail_on": "error"}
    tiff_pages = _pages(path) if file_format == "TIFF" else None
    if tiff_pages is not None:
        if len(tiff_pages.full) != 1:
            count = len(tiff_pages.full) or "no"
            raise InputError(
                f"{path} has {count} frames or pages of full size, and one is needed. "
                "Convert it to an RGB PNG."
            )
        page, subifd = tiff_pages.full[0]
        options |= {"page": page, "subifd": subifd}
    options["revalidate"] = True
    if isinstance(path, Encoded):
        return BUFFER_LOADERS[file_format](path.data, **options), tiff_pages
    return LOADERS[file_format](str(path), **options), tiff_pages


def _without_extra_channels(
    image: pyvips.Image, extra: tuple[int, ...]
) -> pyvips.Image:
    """Drop extra channels of a TIFF file other than opacity, such as selections."""
    colours = {"b-w": 1, "grey16": 1, "cmyk": 4}.get(image.interpretation, 3)
    if image.bands <= colours:
        return image
    colour_bands = image.extract_band(0, n=colours)
    for i, meaning in enumerate(extra[: image.bands - colours]):
        if meaning in (1, 2):
            alpha = image.extract_band(colours + i)
            return colour_bands.bandjoin(alpha).copy(
                interpretation=image.interpretation
            )
    return colour_bands.copy(interpretation=image.interpretation)


def load(
    path: Source, file_format: str, *, max_pixels: int, access: str
) -> pyvips.Image:
    """Open the picture; libvips decodes pixels later, on demand.

    Args:
        kind: a key of LOADERS.
        access: "sequential" (rows once, from top to bottom) or "random".

    Raises:
        InputError: larger than `max_pixels`, or pixels that are not supported.
        pyvips.Error: a damaged header; see `errors`.
    """
    image, tiff_pages = _open(path, file_format, access)
    require_size(str(path), image.height, image.width, max_pixels)
    fields = image.get_fields()
    pages = image.get("n-pages") if "n-pages" in fields and tiff_pages is None else 1
    if pages == 1 and _is_animated(path, file_format):
        pages = "several"
    if tiff_pages is not None:
        image = _without_extra_channels(image, tiff_pages.extra)
    reason = ""
    if pages != 1:
        reason = f"has {pages} frames or pages, and one is needed"
    elif image.format not in DEPTHS and image.interpretation != "lab":
        reason = f"has {image.format} pixels, whose range is unknown"
    elif image.interpretation not in COLOURS:
        reason = f"has {image.interpretation} pixels, which are not supported"
    elif image.bands > 4 + (image.interpretation == "cmyk"):
        reason = f"has {image.bands} channels, and at most 4 are supported"
    if reason:
        raise InputError(f"{path} {reason}. Convert it to an RGB PNG.")
    return image


@contextlib.contextmanager
def errors(path: Source) -> Iterator[None]:
    """Turn libvips' errors into an InputError of one line that names the file."""
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


def _is_animated(path: Source, file_format: str) -> bool:
    """Whether a PNG or AVIF is animated; libvips would read its first frame alone.

    PNG: a chunk acTL before the pixels. AVIF: the brand of sequences.
    """
    with opened(path) as file:
        if file_format == "AVIF":
            return file.read(12)[8:] == b"avis"
        if file_format != "PNG":
            return False
        file.seek(len(PNG_MAGIC))
        while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
            if head[4:] == b"acTL":
                return True
            file.seek(int.from_bytes(head[:4]) + 4, 1)
    return False
