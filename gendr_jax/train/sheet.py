"""A contact sheet: columns of pictures under their titles, as one image.

What lives here: arrays to one picture. What does not: which pictures (a stage's
`sample`), when, and where they go (`loop.py`, `log.py`).
"""

from collections.abc import Mapping

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
