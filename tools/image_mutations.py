"""Damaged picture files for ``tools.fuzz images``, and the outcome of reading them.

A case depends on its number and a seed alone. Damage: flipped bits, overwritten bytes,
cuts, duplicated and deleted ranges, false numbers in headers.
"""

import io
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image as Pil

from gendr_jax import image_io
from gendr_jax.errors import InputError
from gendr_jax.image_io import Image, profiles
from gendr_jax.image_io.regions import Reader

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (48, 60, 4), np.uint8)
SMOOTH = np.add.outer(np.arange(96), np.arange(120))[..., None] + np.arange(4)
SMOOTH = SMOOTH.astype(np.uint8)
LIMIT = 4_000_000  # pixels; a header with more is false
FALSE_NUMBERS = (0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def sources() -> dict[str, tuple[str, bytes]]:
    """name -> (suffix, bytes) of undamaged files of all formats."""
    files = {}

    def by_pillow(name: str, mode: str, suffix: str, **options) -> None:
        memory, pixels = io.BytesIO(), NOISE if mode == "RGBA" else SMOOTH
        image = Pil.fromarray(pixels).convert("RGB" if mode == "P" else mode)
        image = image.quantize(16) if mode == "P" else image.convert(mode)
        kind = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
        image.save(memory, kind, **options)
        files[name] = (suffix, memory.getvalue())

    def by_tifffile(name: str, pixels: np.ndarray, **options) -> None:
        memory = io.BytesIO()
        tifffile.imwrite(memory, pixels, photometric="rgb", **options)
        files[name] = ("tif", memory.getvalue())

    exif, p3, cmyk = _exif(), profiles.builtin("p3"), profiles.builtin("cmyk")[:4000]
    by_pillow("jpeg", "RGB", "jpg", exif=exif, icc_profile=p3)
    by_pillow("jpeg progressive", "L", "jpg", progressive=True)
    by_pillow("jpeg cmyk", "CMYK", "jpg", icc_profile=cmyk)
    by_pillow("png", "RGBA", "png", exif=exif, icc_profile=p3)
    by_pillow("png palette", "P", "png", transparency=0)
    by_pillow("png bilevel", "1", "png")
    by_pillow("webp", "RGBA", "webp", lossless=True, exif=exif)
    by_pillow("webp lossy", "RGB", "webp", icc_profile=p3)
    by_pillow("avif", "RGB", "avif", exif=exif)
    by_pillow("gif", "P", "gif")
    by_pillow("bmp", "RGB", "bmp")
    by_pillow("ppm", "RGB", "ppm")
    by_pillow("tiff lzw", "RGB", "tif", compression="tiff_lzw", icc_profile=p3)
    by_pillow("tiff jpeg", "RGB", "tif", compression="jpeg")
    by_pillow("tiff fax", "1", "tif", compression="group4")
    by_tifffile("tiff 16", SMOOTH[..., :3].astype(np.uint16) * 257)
    by_tifffile("tiff tiled", np.tile(SMOOTH[..., :3], (3, 3, 1)), tile=(64, 64))
    by_tifffile("tiff big", SMOOTH[..., :3], bigtiff=True, compression="zlib")
    deep = Image(SMOOTH[..., :3].astype(np.uint16) * 257)
    with tempfile.TemporaryDirectory() as folder:
        image_io.write(Path(folder) / "a.png", deep)
        files["png 16"] = ("png", (Path(folder) / "a.png").read_bytes())
    return files


def _exif() -> Pil.Exif:
    exif = Pil.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    exif.get_ifd(0x8769)[0x927C] = bytes(range(200))
    return exif


# ---- damage: (bytes, generator) -> bytes


def flip_bits(data: bytearray, rng: np.random.Generator) -> bytes:
    for at in rng.integers(0, 8 * len(data), rng.integers(1, 9)):
        data[at // 8] ^= 1 << at % 8
    return bytes(data)


def flip_bits_of_the_header(data: bytearray, rng: np.random.Generator) -> bytes:
    head = min(len(data), 300)
    return flip_bits(data[:head], rng) + bytes(data[head:])


def overwrite(data: bytearray, rng: np.random.Generator) -> bytes:
    at, size = rng.integers(0, len(data)), rng.integers(1, 60)
    data[at : at + size] = rng.bytes(len(data[at : at + size]))
    return bytes(data)


def cut(data: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(data[: rng.integers(0, len(data))])


def delete_range(data: bytearray, rng: np.random.Generator) -> bytes:
    at = rng.integers(0, len(data))
    del data[at : at + rng.integers(1, 200)]
    return bytes(data)


def duplicate_range(data: bytearray, rng: np.random.Generator) -> bytes:
    at, size = rng.integers(0, len(data)), rng.integers(1, 400)
    return bytes(data[: at + size] + data[at:])


def false_number(data: bytearray, rng: np.random.Generator) -> bytes:
    """Change a number in the first bytes, or in a directory at the end."""
    number = int(rng.choice(FALSE_NUMBERS))
    code = str(rng.choice(["<H", ">H", "<I", ">I"]))
    width = struct.calcsize(code)
    at = int(rng.integers(0, min(len(data), 200) - width))
    if rng.random() < 0.3:
        at = len(data) - width - at
    data[at : at + width] = struct.pack(code, number & (1 << 8 * width) - 1)
    return _with_checksums(bytes(data))


def false_size(data: bytearray, rng: np.random.Generator) -> bytes:
    """Replace a side of the picture by another number, everywhere."""
    number, side = (
        int(rng.choice(FALSE_NUMBERS)),
        int(rng.choice([96, 120, 48, 60, 288, 360])),
    )
    for code in ("<H", ">H", "<I", ">I"):
        width = struct.calcsize(code)
        replacement = struct.pack(code, number & (1 << 8 * width) - 1)
        data = data.replace(struct.pack(code, side), replacement, 2)
    return _with_checksums(bytes(data))


DAMAGE: tuple[Callable[[bytearray, np.random.Generator], bytes], ...] = (
    flip_bits,
    flip_bits_of_the_header,
    overwrite,
    cut,
    delete_range,
    duplicate_range,
    false_number,
    false_size,
)


def _with_checksums(data: bytes) -> bytes:
    """The data with correct checksums, if it is a PNG: so that false numbers count."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    fixed, at = data[:8], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4])
        body = data[at + 4 : at + 8 + size]
        if len(body) != size + 4:
            break
        fixed += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return fixed + data[at:]


def case(number: int, seed: int, files: dict[str, tuple[str, bytes]]):
    """(source, damage, suffix, bytes) of this number."""
    rng = np.random.default_rng((seed, number))
    source = list(files)[number % len(files)]
    damage = DAMAGE[int(rng.integers(len(DAMAGE)))]
    suffix, data = files[source]
    return source, damage.__name__, suffix, damage(bytearray(data), rng)


def attempt(path: str) -> tuple[str, str]:
    """Read a file, its header, and a region of it: (kind of outcome, message).

    "read": without an error. "refused": one line that names the file. Anything else is
    a fault: "silent" is an invalid picture in memory.
    """
    try:
        image_io.probe(path, max_pixels=LIMIT)
        image = image_io.read(path, max_pixels=LIMIT)
        region = Reader(path, max_pixels=LIMIT).read(0, 0, 1, 1)
        image_io.write(f"{path}.out.png", image)
    except InputError as error:
        message = str(error)
        is_one_line = path in message and "\n" not in message and len(message) < 500
        return ("refused" if is_one_line else "message"), message
    except MemoryError as error:
        return "memory", str(error)
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    finally:
        if os.path.exists(f"{path}.out.png"):
            os.unlink(f"{path}.out.png")
    pixels = image.pixels_hwc
    sound = pixels.ndim == 3 and pixels.shape[2] in (1, 3) and pixels.size > 0
    sound &= pixels.dtype in (np.uint8, np.uint16)
    sound &= np.array_equal(region.pixels_hwc[0, 0], pixels[0, 0])
    return ("read" if sound else "silent"), str(pixels.shape)
