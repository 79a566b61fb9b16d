"""PSNR before and after restoring degraded photographs, and a contact sheet.

    python tools/restore_report.py --lr LR --hr HR --weights DIR [-n 10] [-o sheet.png]

LR and HR are folders of equal file names, as `gendr degrade` writes them. "Before" is
bicubic enlargement. Luma, studio range, no border (docs: metrics/psnr_ssim.py).
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from gendr_jax import metrics
from gendr_jax.image_io.resize import bicubic
from gendr_jax.restore.pipeline import Restorer

TITLE = 14


def panels(low: np.ndarray, truth: np.ndarray, restorer: Restorer):
    """(bicubic, GenDR) pictures of the truth's size."""
    scale = truth.shape[0] / low.shape[0]
    ours = restorer(low, scale=scale)
    plain = bicubic(low.astype(np.float32) / 255.0, truth.shape[:2])
    return np.round(np.clip(plain, 0, 1) * 255).astype(np.uint8), ours


def main() -> None:
    """Flags, a table, a sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lr", type=Path, required=True)
    parser.add_argument("--hr", type=Path, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("-n", type=int, default=10, help="how many pictures")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    restorer = Restorer.from_pretrained(options.weights, dtype="float32")
    names = sorted(p.name for p in options.hr.iterdir() if p.is_file())[: options.n]
    scores, rows = [], []
    for name in names:
        truth = np.asarray(Image.open(options.hr / name).convert("RGB"))
        low = np.asarray(Image.open(options.lr / name).convert("RGB"))
        plain, ours = panels(low, truth, restorer)
        pair = [float(metrics.psnr(image, truth)) for image in (plain, ours)]
        scores.append(pair)
        print(f"{name:<28} bicubic {pair[0]:6.2f} dB   GenDR {pair[1]:6.2f} dB")
        rows.append((name, pair, [plain, ours, truth]))
    mean = np.mean(scores, axis=0)
    print(
        f"{'mean of ' + str(len(names)):<28} bicubic {mean[0]:6.2f} dB   GenDR ", end=""
    )
    print(f"{mean[1]:6.2f} dB")
    if options.output:
        sheet(rows).save(options.output)


def sheet(rows: list) -> Image.Image:
    """One row a picture: bicubic, GenDR, truth."""
    width = max(sum(p.shape[1] for p in images) for _, _, images in rows)
    height = sum(images[0].shape[0] + TITLE for _, _, images in rows)
    canvas, top = Image.new("RGB", (width, height), "white"), 0
    pen = ImageDraw.Draw(canvas)
    for name, (before, after), images in rows:
        titles = (f"bicubic {before:.2f} dB", f"GenDR {after:.2f} dB", name)
        left = 0
        for title, pixels in zip(titles, images, strict=True):
            pen.text((left + 2, top + 1), title, fill="black")
            canvas.paste(Image.fromarray(pixels), (left, top + TITLE))
            left += pixels.shape[1]
        top += images[0].shape[0] + TITLE
    return canvas


if __name__ == "__main__":
    main()
