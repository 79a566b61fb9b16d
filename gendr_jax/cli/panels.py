"""Pictures beside each other with their names, for people to look at."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

TITLE = 18  # pixels above each panel


def strip(panels: dict[str, np.ndarray]) -> Image.Image:
    """Panels [H, W, 3] uint8 from left to right, each under its title."""
    height = max(pixels.shape[0] for pixels in panels.values()) + TITLE
    width = sum(pixels.shape[1] for pixels in panels.values())
    sheet, left = Image.new("RGB", (width, height), "white"), 0
    pen = ImageDraw.Draw(sheet)
    for title, pixels in panels.items():
        sheet.paste(Image.fromarray(pixels), (left, TITLE))
        pen.text((left + 4, 3), title, fill="black")
        left += pixels.shape[1]
    return sheet


def split(before: np.ndarray, after: np.ndarray) -> Image.Image:
    """One picture: its left half before, its right half after, a line between."""
    middle = before.shape[1] // 2
    line = slice(max(0, middle - 1), middle + 1)
    joined = np.concatenate([before[:, :middle], after[:, middle:]], axis=1)
    joined[:, line] = 255
    return strip({"before | after": joined})


def save(sheet: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        sheet.save(temporary, format="PNG")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
