"""Real files that a crawl brings home, each with what has to become of it.

python -m tests.helpers.bad_files      prints the table of docs/data.md
"""

import io
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

HEIGHT, WIDTH = 48, 64


class Case(NamedTuple):
    """One file. `make` gives its bytes and, where it is converted, the right pixels."""

    name: str
    what: str
    otherwise: str  # what Image.open(...).convert("RGB") does with it
    reason: str  # of its refusal, a pattern; "" when it is converted
    make: Callable[[], tuple[bytes, np.ndarray | None]]


def picture(channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth, so that JPEG keeps it, and no flip of it is the same."""
    rng = np.random.default_rng(seed)
    shape = (6, 8, channels) if channels > 1 else (6, 8)
    coarse = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    return np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))


def encode(image: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def cut(kind: str, keep: float | int) -> Callable[[], tuple[bytes, None]]:
    def make():
        data = encode(picture(), kind)
        return data[: keep if keep < 0 else int(len(data) * keep)], None

    return make


def refused(data: Callable[[], bytes]) -> Callable[[], tuple[bytes, None]]:
    return lambda: (data(), None)


def frames(kind: str) -> bytes:
    rest = [Image.fromarray(picture(seed=k)) for k in (1, 2)]
    return encode(picture(), kind, save_all=True, append_images=rest)


def flipped_png() -> bytes:
    data = bytearray(encode(picture(), "PNG"))
    data[len(data) // 2] ^= 4
    return bytes(data)


def lab() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises much and holds nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    size, check = struct.pack(">I", 13), struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + size + body + check + b"\0\0\0\0IDAT"


def text_bomb() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 5_000_000, zip=True)
    return encode(picture(), "PNG", pnginfo=text)


def see_through(kind: str) -> bytes:
    x = picture(4).copy()
    x[..., 3] = 255
    x[3, 4, 3] = 0
    return encode(x, kind)


def gray_16(kind: str) -> bytes:
    return encode(np.uint16(picture(1)) * 257, kind)


def white_is_zero() -> bytes:
    """Pillow writes black-is-zero; one value of one tag makes it the negative."""
    data, tag = gray_16("TIFF"), struct.pack("<HHI", 262, 3, 1)
    at = data.index(tag) + len(tag)
    return data[:at] + b"\0" + data[at + 1 :]


def rotated() -> tuple[bytes, np.ndarray]:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(picture(), "JPEG", exif=exif)
    return data, np.rot90(decoded(data), -1)


def opaque() -> tuple[bytes, np.ndarray]:
    x = picture(4).copy()
    x[..., 3] = 255
    return encode(x, "PNG"), x[..., :3]


def gray_png_16() -> tuple[bytes, np.ndarray]:
    return gray_16("PNG"), np.repeat(picture(1)[..., None], 3, 2)


def gray() -> tuple[bytes, np.ndarray]:
    return encode(picture(1), "PNG"), np.repeat(picture(1)[..., None], 3, 2)


def palette() -> tuple[bytes, np.ndarray]:
    data = encode(Image.fromarray(picture()).quantize(16), "PNG")
    return data, decoded(data)


def plain(kind: str, **options) -> Callable[[], tuple[bytes, np.ndarray]]:
    def make():
        data = encode(picture(), kind, **options)
        return data, decoded(data)

    return make


def tiny() -> tuple[bytes, np.ndarray]:
    return encode(picture()[:1, :1], "PNG"), picture()[:1, :1]


def cmyk(**options) -> bytes:
    return encode(Image.fromarray(picture()).convert("CMYK"), "JPEG", **options)


def high_range() -> bytes:
    """A PNG that states the tones of HDR (PQ) by cICP."""
    data, body = encode(picture(), "PNG"), b"cICP" + bytes([9, 16, 0, 1])
    end = 8 + 4 + 4 + 13 + 4  # of the header
    added = struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:end] + added + data[end:]


SEE = "dropped, hidden colours show"
CASES = [
    Case("wave.jpg", "progressive JPEG", "right", "", plain("JPEG", progressive=True)),
    Case("webp.jpg", "WebP named .jpg", "right, by content", "", plain("WEBP")),
    Case("rotated.jpg", "EXIF orientation 6", "lies on its side", "", rotated),
    Case("gray.png", "8-bit gray", "right", "", gray),
    Case("gray16.png", "16-bit gray", "white wherever above 255", "", gray_png_16),
    Case("palette.png", "palette", "right", "", palette),
    Case("opaque.png", "alpha, all of it 255", "right", "", opaque),
    Case("tiny.png", "1 x 1 pixel", "right", "", tiny),
    Case("part.jpg", "JPEG cut in its picture", "error", "truncated", cut("JPEG", 0.8)),
    Case("tail.jpg", "JPEG but its last 2 bytes", "error", "trunc", cut("JPEG", -2)),
    Case("header.jpg", "JPEG cut in its header", "error", ".", cut("JPEG", 0.1)),
    Case("half.png", "PNG cut in half", "error", "truncated", cut("PNG", 0.5)),
    Case("flip.png", "PNG with one bit flipped", "error", ".", refused(flipped_png)),
    Case("half.webp", "WebP cut in half", "error", ".", cut("WEBP", 0.5)),
    Case("half.tif", "TIFF cut in half", "error", ".", cut("TIFF", 0.5)),
    Case("empty.jpg", "no byte", "error", "is empty", refused(lambda: b"")),
    Case(
        "page.jpg", "HTML named .jpg", "error", "not an image",
        refused(lambda: b"<html><body>404 Not Found</body></html>"),
    ),
    Case(
        "cmyk.jpg", "CMYK JPEG without a profile", "colours by guess", "mode CMYK",
        refused(cmyk),
    ),
    Case(
        "lab.png", "a Lab profile on RGB", "profile ignored", "ICC profile is Lab",
        refused(lambda: encode(picture(), "PNG", icc_profile=lab())),
    ),
    Case(
        "hdr.png", "HDR (PQ)", "dull", "is an HDR picture", refused(high_range),
    ),
    Case(
        "alpha.png", "a transparent pixel, PNG", SEE, "transparent",
        refused(lambda: see_through("PNG")),
    ),
    Case(
        "alpha.webp", "a transparent pixel, WebP", SEE, "transparent",
        refused(lambda: see_through("WEBP")),
    ),
    Case(
        "key.png", "palette with a transparent colour", SEE, "transparent",
        refused(lambda: encode(
            Image.fromarray(picture()).quantize(16), "PNG", transparency=3
        )),
    ),
    Case(
        "float.tif", "float32 TIFF", "black", "mode F",
        refused(lambda: encode(np.float32(picture(1)) / 255, "TIFF")),
    ),
    Case(
        "negative.tif", "16-bit gray, white is zero", "a negative, saturated",
        "photometric 0", refused(white_is_zero),
    ),
    Case(
        "bits.png", "1 bit", "black and white", "mode 1",
        refused(lambda: encode(Image.fromarray(picture(1)).convert("1"), "PNG")),
    ),
    Case(
        "moving.webp", "animated WebP", "its first frame", "3 frames",
        refused(lambda: frames("WEBP")),
    ),
    Case(
        "moving.png", "animated PNG", "its first frame", "3 frames",
        refused(lambda: frames("PNG")),
    ),
    Case(
        "gif.png", "GIF named .png", "256 colours", "a GIF",
        refused(lambda: encode(picture(), "GIF")),
    ),
    Case(
        "bomb.png", "100 megapixels in 13 kB", "a warning, 300 MB",
        "10000x10000 pixels, the limit",
        refused(lambda: encode(Image.new("1", (10_000, 10_000)), "PNG")),
    ),
    Case(
        "giant.png", "a header of 100000 x 100000", "error", "DecompressionBomb",
        refused(lambda: png_header(100_000, 100_000)),
    ),
    Case(
        "zero.png", "a header of 0 x 0", "error", "not an image",
        refused(lambda: png_header(0, 0)),
    ),
    Case(
        "text.png", "PNG with 5 MB of zipped text", "error", "Decompressed data",
        refused(text_bomb),
    ),
]  # fmt: skip


def table() -> str:
    """Markdown, with the reasons as `decode` words them."""
    from gendr_jax.data import decode

    rows = ["| file | Pillow's `convert('RGB')` | here |", "|---|---|---|"]
    for case in CASES:
        data, _ = case.make()
        try:
            decode.read_bytes(data, case.name)
            fate = "converted"
        except Exception as error:
            fate = "left out: " + str(error).removeprefix(f"{case.name}: ")
        if case.name == "tiny.png":
            fate = "converted; left out as smaller than the crop"
        rows.append(f"| {case.what} | {case.otherwise} | {fate} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
