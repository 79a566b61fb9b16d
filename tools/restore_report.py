"""PSNR before and after restoring degraded photographs, and a contact sheet.

    python tools/restore_report.py --lr LR --hr HR --weights DIR... [-n 10]
        [--sr NAME=DIR ...] [--crop 192] [-o sheet.png]

LR and HR are folders of equal file names, as `gendr degrade` writes them. "Before" is
bicubic enlargement. Luma, studio range, no border (docs: metrics/psnr_ssim.py). Of
several weights, each has a column; NAME=DIR titles it. Results of other programs, PNG
files of the same names in folders, have columns before them. The sheet has the centres
of --crop pixels, the figures are those of the complete pictures.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from gendr_jax import metrics
from gendr_jax.image_io.resize import bicubic
from gendr_jax.restore.pipeline import Restorer

TITLE = 14


def enlarged(low: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The picture at the truth's size, by bicubic interpolation."""
    plain = bicubic(low.astype(np.float32) / 255.0, truth.shape[:2])
    return np.round(np.clip(plain, 0, 1) * 255).astype(np.uint8)


def main() -> None:
    """Flags, a table, a sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lr", type=Path, required=True)
    parser.add_argument("--hr", type=Path, required=True)
    parser.add_argument("--weights", required=True, nargs="+", metavar="[NAME=]DIR")
    parser.add_argument("--sr", default=[], nargs="+", metavar="NAME=DIR")
    parser.add_argument("--crop", type=int, default=0, help="0: complete pictures")
    parser.add_argument("-n", type=int, default=10, help="how many pictures")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    restorers = {}
    for text in options.weights:
        title, _, source = text.rpartition("=")
        title = title or ("GenDR" if len(options.weights) == 1 else Path(source).name)
        restorers[title] = Restorer.from_pretrained(source, dtype="float32")
    others = dict(text.rpartition("=")[::2] for text in options.sr)
    titles = ("bicubic", *others, *restorers)
    names = sorted(p.name for p in options.hr.iterdir() if p.is_file())[: options.n]
    scores, rows = [], []
    for name in names:
        truth = np.asarray(Image.open(options.hr / name).convert("RGB"))
        low = np.asarray(Image.open(options.lr / name).convert("RGB"))
        scale = truth.shape[0] / low.shape[0]
        pictures = [enlarged(low, truth)]
        for results in others.values():
            path = Path(results) / Path(name).with_suffix(".png")
            pictures.append(np.asarray(Image.open(path).convert("RGB")))
        pictures += [restorer(low, scale=scale) for restorer in restorers.values()]
        scores.append([float(metrics.psnr(picture, truth)) for picture in pictures])
        print_scores(name, titles, scores[-1])
        headings = [
            f"{title} {score:.2f} dB"
            for title, score in zip(titles, scores[-1], strict=True)
        ]
        columns = [middle(picture, options.crop) for picture in (*pictures, truth)]
        rows.append(([*headings, name], columns))
    print_scores(f"mean of {len(names)}", titles, np.mean(scores, axis=0))
    if options.output:
        sheet(rows).save(options.output)


def middle(pixels: np.ndarray, side: int) -> np.ndarray:
    """The centre ``side`` x ``side``, or less where there is less; 0: all."""
    if not side:
        return pixels
    top, left = (max(n - side, 0) // 2 for n in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def print_scores(
    name: str, titles: tuple[str, ...], scores: Sequence[float] | np.ndarray
) -> None:
    """A line of PSNR values."""
    columns = [
        f"{title} {score:6.2f} dB" for title, score in zip(titles, scores, strict=True)
    ]
    print(f"{name:<28} {'   '.join(columns)}")


def sheet(rows: list[tuple[list[str], list[np.ndarray]]]) -> Image.Image:
    """One row a picture: bicubic, a column for each weights, the truth."""
    width = max(sum(p.shape[1] for p in pictures) for _, pictures in rows)
    height = sum(pictures[0].shape[0] + TITLE for _, pictures in rows)
    canvas, top = Image.new("RGB", (width, height), "white"), 0
    pen = ImageDraw.Draw(canvas)
    for headings, pictures in rows:
        left = 0
        for heading, pixels in zip(headings, pictures, strict=True):
            pen.text((left + 2, top + 1), heading, fill="black")
            canvas.paste(Image.fromarray(pixels), (left, top + TITLE))
            left += pixels.shape[1]
        top += pictures[0].shape[0] + TITLE
    return canvas


if __name__ == "__main__":
    main()
