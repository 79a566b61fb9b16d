"""Check which metadata `gendr restore` keeps, by format, profile, depth, orientation.

    python tools/restore_fields.py [--weights gendr-tiny] [--keep DIR] [-o TABLE.md]

Makes 40 files, runs `gendr restore` on the folder, and prints a Markdown table of the
fields that each result has kept, read by Pillow and tifffile. Exit status 1 where a
field is lost and no message names it.
"""

import argparse
import contextlib
import io
import json
import os
import struct
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image as Pil

from gendr_jax import image_io
from gendr_jax.cli import main as main_lib
from gendr_jax.image_io import icc, profiles
from gendr_jax.image_io.icc import Curve
from gendr_jax.image_io.stated_colours import ADOBE
from tools import described_pictures as described

HEIGHT, WIDTH, SCALE = 24, 32, 2
ORIENTATION = 0x0112
NEAR = 16  # levels of the mean colour: the networks may move it by some


def pixels() -> np.ndarray:
    """A smooth picture of strong colours, in which the corners differ."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] / WIDTH
    return (255 * np.dstack([0.2 + 0.7 * x, 0.8 - 0.6 * y, 0.3 + 0.3 * y])).astype("u1")


def make(folder: Path) -> None:
    """The files."""
    rgb, picture = pixels(), Pil.fromarray(pixels())
    for end in described.SUFFIXES.values():
        described.write(folder / f"described{end}", rgb)
    described.write(folder / "large packet.jpg", rgb, xmp=described.packet(30_000))
    for turn in range(1, 9):
        tags = Pil.Exif()
        tags[ORIENTATION] = turn
        picture.save(folder / f"turned {turn}.jpg", exif=tags, quality=95)
    _profiles(folder, picture)
    _depths(folder, rgb, picture)
    _formats(folder, picture)
    for name in (
        "é 日本 ⛰.png",
        "a[page=2].png",
        "%d.png",
        "-o.png",
        "IMG.JPG",
        "IMG.jpg",
    ):
        picture.save(
            folder / name, "JPEG" if name[-1] in "Gg" and "I" in name else "PNG"
        )
    picture.save(folder / ("n" * 200 + ".png"))


def _profiles(folder: Path, picture: Pil.Image) -> None:
    p3 = profiles.builtin("p3")
    picture.save(folder / "p3.jpg", icc_profile=p3, quality=95)
    adobe = icc.profile("Adobe RGB", ADOBE, Curve(563 / 256))
    picture.save(folder / "adobe.tif", icc_profile=adobe)
    grey = icc.grey_profile("linear grey", Curve(1.0))
    picture.convert("L").save(folder / "grey profile.png", icc_profile=grey)
    picture.convert("CMYK").save(
        folder / "cmyk.jpg", icc_profile=profiles.builtin("cmyk"), quality=95
    )
    picture.save(folder / "p3.webp", icc_profile=p3, lossless=True)
    picture.save(folder / "stated.png")
    data = (folder / "stated.png").read_bytes()
    cicp = b"cICP" + bytes([12, 13, 0, 1])
    crc = struct.pack(">I", zlib.crc32(cicp))
    chunk = struct.pack(">I", 4) + cicp + crc
    (folder / "stated.png").write_bytes(data[:33] + chunk + data[33:])


def _depths(folder: Path, rgb: np.ndarray, picture: Pil.Image) -> None:
    deep = rgb.astype(np.uint16) * 257
    image_io.write(folder / "16 bits.png", image_io.Image(deep))
    tifffile.imwrite(folder / "16 bits.tif", deep, photometric="rgb")
    Pil.fromarray(deep[..., 0]).save(folder / "16 bits grey.png")
    picture.convert("L").save(folder / "grey.jpg", quality=95)
    picture.convert("1").save(folder / "1 bit.png")
    clear = picture.copy()
    clear.putalpha(Pil.fromarray(rgb[..., 0]))
    clear.save(folder / "clear.png")
    clear.save(folder / "clear.webp", lossless=True)
    clear.convert("LA").save(folder / "clear grey.png")


def _formats(folder: Path, picture: Pil.Image) -> None:
    picture.save(folder / "a.avif", quality=95, subsampling="4:4:4")
    picture.save(folder / "b.bmp")
    picture.save(folder / "c.gif")
    picture.save(folder / "d.ppm")
    picture.save(folder / "e.jfif", "JPEG", quality=95)
    picture.quantize(64).save(folder / "palette.png")


def compare(source: Path, result: Path, entry: dict) -> list[tuple[str, str]]:
    """(field, "kept", "changed as wanted", "lost, named" or "LOST")."""
    before, after = described.read(source), described.read(result)
    named = " ".join(entry.get("metadata_lost") or ())
    rows = []
    for name, value in before.items():
        if name in ("profile", "resolution") and source.suffix in (".bmp", ".gif"):
            continue
        if after.get(name) == value:
            rows.append((name, "kept"))
        elif name == "profile" and "cmyk" in source.name:
            rows.append((name, "sRGB, converted"))
        else:
            rows.append((name, "lost, named" if name in named else "LOST"))
    with Pil.open(source) as before_picture, Pil.open(result) as after_picture:
        turned = before_picture.getexif().get(ORIENTATION, 1) >= 5
        size = before_picture.size[::-1] if turned else before_picture.size
        fine = after_picture.size == tuple(SCALE * side for side in size)
        rows.append(("size", "kept" if fine else "LOST"))
        upright = after_picture.getexif().get(ORIENTATION, 1) == 1
        rows.append(("orientation", "upright" if upright else "LOST"))
    kinds = image_io.probe(source), image_io.probe(result)
    same = kinds[0].dtype == kinds[1].dtype or kinds[1].dtype.itemsize == 1
    rows.append(("alpha", "kept" if kinds[0].alpha == kinds[1].alpha else "LOST"))
    bits = [image_io.read(p).bits or 8 for p in (source, result)]
    rows.append(("depth", "kept" if bits[0] == bits[1] and same else "LOST"))
    off = np.abs(_corners(source) - _corners(result)).max()
    rows.append(("colours", "kept" if off <= NEAR else f"LOST ({off:.0f} levels)"))
    return rows


def _corners(path: Path) -> np.ndarray:
    """Mean colours of the four quarters, in sRGB, as a viewer shows them."""
    image = image_io.read(path)
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.png"
        image_io.write(plain, image, metadata=False)
        buffer.write(plain.read_bytes())
    with Pil.open(buffer) as picture:
        x = np.asarray(picture.convert("RGBA") if picture.mode != "I;16" else picture)
    x = x[..., None].repeat(3, -1) / 257 if x.ndim == 2 else x[..., :3]
    rows, columns = x.shape[0] // 2, x.shape[1] // 2
    quarters = (x[:rows, :columns], x[:rows, columns:], x[rows:, :columns])
    return np.stack([q.reshape(-1, 3).mean(0) for q in (*quarters, x[rows:, columns:])])


def table(entries: list[dict]) -> tuple[str, int]:
    """(Markdown, how many fields are lost without a word)."""
    lines, lost_fields = ["| file | result | fields |", "|---|---|---|"], 0
    for entry in sorted(entries, key=lambda e: e["input"]):
        source = Path(entry["input"])
        name = source.name if len(source.name) < 40 else f"{source.name[:20]}..."
        if entry["status"] != "done":
            lines.append(f"| {name} | {entry['status']} | {entry['error']} |")
            lost_fields += 1
            continue
        result, groups = Path(entry["output"]), {}
        for field, fate in compare(source, result, entry):
            groups.setdefault(fate, []).append(field)
        lost_fields += sum(
            len(v) for fate, v in groups.items() if fate.startswith("LOST")
        )
        outcomes = "; ".join(f"{fate}: {', '.join(v)}" for fate, v in groups.items())
        result_name = result.name if len(result.name) < 40 else f"{result.name[:20]}..."
        lines.append(f"| {name} | {result_name} | {outcomes} |")
    return "\n".join(lines), lost_fields


def main(args: list[str]) -> int:
    """Make, restore, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="gendr-tiny")
    parser.add_argument("--keep", help="folder for the files; default: none is kept")
    parser.add_argument("-o", "--output", help="file for the table; default: stdout")
    flags = parser.parse_args(args)
    with contextlib.ExitStack() as stack:
        home = flags.keep or stack.enter_context(tempfile.TemporaryDirectory())
        folder, out, report = (Path(home) / n for n in ("in", "out", "report.jsonl"))
        folder.mkdir(parents=True)
        make(folder)
        count = len(os.listdir(folder))
        status = main_lib.main(
            ["restore", "-i", str(folder), "-o", str(out), "-s", str(SCALE)]
            + ["--weights", flags.weights, "--report", str(report)]
        )
        entries = [json.loads(line) for line in report.read_text().splitlines()]
        text, lost_fields = table(entries)
    text += (
        f"\n\n{count} files, exit status {status}, {lost_fields} fields lost unnamed\n"
    )
    if flags.output:
        Path(flags.output).write_text(text)
    else:
        print(text)
    return 1 if lost_fields or status else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
