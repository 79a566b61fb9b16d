"""Contact sheets and before/after strips: several pictures with titles as one image."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_MARGIN = 2
_STRIP = 14  # height of the titles, pixels


def contact_sheet(columns: Mapping[str, np.ndarray], caption: str = "") -> np.ndarray:
    """One row a sample, one column a title.

    Args:
        columns: {title: image_bhwc in [0, 1]}, one or three channels, in order. Smaller
            pictures are enlarged without smoothing to the height of the tallest.
        caption: written above the titles.

    Returns:
        sheet_hwc, uint8 RGB.
    """
    height = max(images.shape[1] for images in columns.values())
    top = _STRIP * (1 + bool(caption))
    font = ImageFont.load_default()
    strips = []
    for title, images in columns.items():
        pictures = [_picture(image_hwc, height) for image_hwc in images]
        # A title wider than its pictures widens the column.
        width = max(*(p.width for p in pictures), int(font.getlength(title)) + _MARGIN)
        size = (width + _MARGIN, top + len(pictures) * (height + _MARGIN))
        strip = Image.new("RGB", size)
        ImageDraw.Draw(strip).text((1, top - _STRIP), title, "white", font)
        for row, picture in enumerate(pictures):
            strip.paste(picture, (0, top + row * (height + _MARGIN)))
        strips.append(strip)
    width = max(sum(s.width for s in strips), int(font.getlength(caption)) + _MARGIN)
    sheet = Image.new("RGB", (width, max(s.height for s in strips)))
    left = 0
    for strip in strips:
        sheet.paste(strip, (left, 0))
        left += strip.width
    if caption:
        ImageDraw.Draw(sheet).text((1, 0), caption, "white", font)
    return np.asarray(sheet)


def _picture(image_hwc: np.ndarray, height: int) -> Image.Image:
    values = np.nan_to_num(np.asarray(image_hwc, np.float32))
    levels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    if levels.shape[-1] == 1:
        levels = np.repeat(levels, 3, axis=-1)
    picture = Image.fromarray(levels)
    width = round(picture.width * height / picture.height)
    return picture.resize((width, height), Image.Resampling.NEAREST)


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


def stack(rows: list[Image.Image]) -> Image.Image:
    """Pictures stacked from top to bottom."""
    size = max(row.width for row in rows), sum(row.height for row in rows)
    sheet, top = Image.new("RGB", size, "white"), 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def split(before: np.ndarray, after: np.ndarray) -> Image.Image:
    """Left half of `before`, right half of `after`, a white line between."""
    middle = before.shape[1] // 2
    line = slice(max(0, middle - 1), middle + 1)
    joined = np.concatenate([before[:, :middle], after[:, middle:]], axis=1)
    joined[:, line] = 255
    return strip({"before | after": joined})


def save(sheet: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        sheet.save(temporary, format="PNG")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
