"""A sheet of crops of photographs, degraded by us and by the torch reference.

    python -m tools.degrade_sheet FILES -o docs/images/degraded.jpg

FILES: see tools/degrade_reference.py. Of each pair the upper picture is ours.
Both have the same parameters, drawn by the law of the default preset; each has its own
noise. Low-quality pixels are shown two wide and high.
"""

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from gendr_jax.data.photos import photographs
from tools.degrade_parameters import ours
from tools.degrade_reference import Reference, draw

SIDE, COLUMNS, GAP, TITLE = 256, 12, 4, 16
CELL = SIDE // 2


def crops() -> list[np.ndarray]:
    """Five of each colour photograph and four of a grey one, on a diagonal zigzag."""
    crops_hwc, pictures = [], dict(photographs())
    for name in ("astronaut", "chelsea", "coffee", "rocket", "camera"):
        pixels, count = pictures[name], 4 if name == "camera" else 5
        height, width = pixels.shape[:2]
        for column in range(count):
            top = (height - SIDE) * (column * 2 % count) // (count - 1)
            left = (width - SIDE) * column // (count - 1)
            crops_hwc.append(pixels[top : top + SIDE, left : left + SIDE])
    return crops_hwc


def sheet(pairs: list[tuple[np.ndarray, np.ndarray]]) -> Image.Image:
    """Two rows of pairs, ours above the reference's."""
    bands = -(-len(pairs) // COLUMNS)
    band = TITLE + 2 * (CELL + GAP)
    picture = Image.new("RGB", (COLUMNS * (CELL + GAP), bands * band), "white")
    write = ImageDraw.Draw(picture)
    for k, pair in enumerate(pairs):
        left, top = k % COLUMNS * (CELL + GAP), k // COLUMNS * band
        if k % COLUMNS == 0:
            title = (
                "above: gendr_jax      below: basicsr 1.4.2 in torch, same parameters"
            )
            write.text((2, top + 2), title, fill="black")
        for row, pixels in enumerate(pair):
            enlarged = Image.fromarray(pixels).resize((CELL, CELL), Image.NEAREST)
            picture.paste(enlarged, (left, top + TITLE + row * (CELL + GAP)))
    return picture


def main() -> None:
    """Flags, pairs, a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path)
    parser.add_argument("-o", type=Path, required=True)
    flags = parser.parse_args()
    torch.manual_seed(0)
    reference, rng, pairs = Reference(flags.files), random.Random(24), []
    for k, hq_hwc in enumerate(crops()):
        p = draw(rng) | {"case": k, "recipe": "osediff"}
        pairs.append((ours(hq_hwc, p), reference.apply(hq_hwc, p)))
    sheet(pairs).save(flags.o, quality=85)
    gaps = [np.abs(a.astype(float).mean() - b.mean()) for a, b in pairs]
    print(
        f"means of pairs differ by {np.mean(gaps):.2f} levels, at most {max(gaps):.2f}"
    )


if __name__ == "__main__":
    main()
