"""Damaged picture files of every format, and what reading them comes to.

A case is made of
its number and a seed alone. Damage: flipped bits, overwritten bytes, cuts, doubled and
lost parts, and numbers in headers that lie.
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
LIMIT = 4_000_000  # pixels; more than that is a lie of a header
LIES = (0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def sources() -> dict[str, tuple[str, bytes]]:
    """name -> (suffix, bytes) of whole files of all kinds."""
    made = {}

    def by_pillow(name: str, mode: str, suffix: str, **options) -> None:
        memory, pixels = io.BytesIO(), NOISE if mode == "RGBA" else SMOOTH
        image = Pil.fromarray(pixels).convert("RGB" if mode == "P" else mode)
        image = image.quantize(16) if mode == "P" else image.convert(mode)
        kind = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
        image.save(memory, kind, **options)
        made[name] = (suffix, memory.getvalue())

    def by_tifffile(name: str, pixels: np.ndarray, **options) -> None:
        memory = io.BytesIO()
        tifffile.imwrite(memory, pixels, photometric="rgb", **options)
        made[name] = ("tif", memory.getvalue())

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
        made["png 16"] = ("png", (Path(folder) / "a.png").read_bytes())
    return made


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


def lose_a_part(data: bytearray, rng: np.random.Generator) -> bytes:
    at = rng.integers(0, len(data))
    del data[at : at + rng.integers(1, 200)]
    return bytes(data)


def double_a_part(data: bytearray, rng: np.random.Generator) -> bytes:
    at, size = rng.integers(0, len(data)), rng.integers(1, 400)
    return bytes(data[: at + size] + data[at:])


def lie_in_the_header(data: bytearray, rng: np.random.Generator) -> bytes:
    """A number of the first bytes, or of a directory at the end, is made another."""
    lie = int(rng.choice(LIES))
    code = str(rng.choice(["<H", ">H", "<I", ">I"]))
    width = struct.calcsize(code)
    at = int(rng.integers(0, min(len(data), 200) - width))
    if rng.random() < 0.3:
        at = len(data) - width - at
    data[at : at + width] = struct.pack(code, lie & (1 << 8 * width) - 1)
    return _with_checksums(bytes(data))


def lie_about_the_size(data: bytearray, rng: np.random.Generator) -> bytes:
    """Bytes that spell a side of the picture spell something else, everywhere."""
    lie, side = int(rng.choice(LIES)), int(rng.choice([96, 120, 48, 60, 288, 360]))
    for code in ("<H", ">H", "<I", ">I"):
        width = struct.calcsize(code)
        new = struct.pack(code, lie & (1 << 8 * width) - 1)
        data = data.replace(struct.pack(code, side), new, 2)
    return _with_checksums(bytes(data))


DAMAGE: tuple[Callable[[bytearray, np.random.Generator], bytes], ...] = (
    flip_bits,
    flip_bits_of_the_header,
    overwrite,
    cut,
    lose_a_part,
    double_a_part,
    lie_in_the_header,
    lie_about_the_size,
)


def _with_checksums(data: bytes) -> bytes:
    """A PNG's, made right again, so that its lies are believed."""
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


def case(number: int, seed: int, whole: dict[str, tuple[str, bytes]]):
    """(source, damage, suffix, bytes) of this number."""
    rng = np.random.default_rng((seed, number))
    source = list(whole)[number % len(whole)]
    damage = DAMAGE[int(rng.integers(len(DAMAGE)))]
    suffix, data = whole[source]
    return source, damage.__name__, suffix, damage(bytearray(data), rng)


def attempt(path: str) -> tuple[str, str]:
    """Read a file whole, in its header, and in a region: (kind of outcome, message).

    "read": as if nothing were wrong with it. "refused": one line that names the file.
    Anything else is a fault: "silent" is a picture in memory that is none.
    """
    try:
        image_io.probe(path, max_pixels=LIMIT)
        image = image_io.read(path, max_pixels=LIMIT)
        region = Reader(path, max_pixels=LIMIT).read(0, 0, 1, 1)
        image_io.write(f"{path}.out.png", image)
    except InputError as error:
        told = str(error)
        fine = path in told and "\n" not in told and len(told) < 500
        return ("refused" if fine else "message"), told
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
