"""What restoring has added that the input does not bear out.

Detail that networks invent is fine as long as it averages to what was there; where a
reduced result differs, something was made up, moved or recoloured. Noise that was
removed shows too, so read figures against those of like pictures (docs/restore.md).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gendr_jax import image_io
from gendr_jax.image_io import Image, arrays, resize
from gendr_jax.image_io.regions import Reader

CELL = 16  # input pixels; a face or a letter that came or went fills some
BAND = 256  # input rows of a file that are held at a time
MAP_TOP = 0.25  # what the map shows as white


@dataclass(frozen=True)
class Residual:
    """Differences in units of full range, transparent pixels left out.

    Attributes:
        rms: root mean square over the picture.
        peak: that of the worst cell of 16 x 16 pixels.
        map_hw: of each input pixel, root mean square over its channels.
    """

    rms: float
    peak: float
    map_hw: np.ndarray


def residual(restored: Image, source: Image) -> Residual:
    """Compare a result with what it was made of."""
    after, _ = arrays.to_unit(restored)
    before, alpha = arrays.to_unit(source)
    square = _square(resize.bicubic(after, before.shape[:2]), before)
    return _residual(square, np.ones_like(square) if alpha is None else alpha)


def residual_of_files(
    restored: Path, source: Path, *, max_pixels: int = image_io.MAX_PIXELS
) -> Residual:
    """The same of files, of which some rows are held at a time."""
    before = Reader(source, max_pixels=max_pixels)
    height, width = before.header.height, before.header.width
    after = Reader(restored, max_pixels=2**62)  # our own result is no bomb
    from_hw, rows = (after.header.height, after.header.width), []

    def colours(*part: int) -> np.ndarray:
        return arrays.to_unit(after.read(*part))[0]

    for top in range(0, height, BAND):
        part = (top, 0, min(BAND, height - top), width)
        rgb, alpha = arrays.to_unit(before.read(*part))
        reduced = resize.bicubic_region(colours, from_hw, (height, width), part)
        rows.append(
            (_square(reduced, rgb), np.ones(part[2:]) if alpha is None else alpha)
        )
    return _residual(*(np.concatenate(x) for x in zip(*rows, strict=True)))


def as_picture(map_hw: np.ndarray) -> Image:
    """The map in grey: black is no difference, white a quarter of full range."""
    levels = np.rint(np.clip(map_hw / MAP_TOP, 0, 1) * 255).astype(np.uint8)
    return Image(levels[..., None])


def _square(reduced_hwc: np.ndarray, before_hwc: np.ndarray) -> np.ndarray:
    return np.mean((reduced_hwc - before_hwc) ** 2, axis=-1)


def _residual(square_hw: np.ndarray, weight_hw: np.ndarray) -> Residual:
    square = square_hw * weight_hw
    # A cell that hardly shows says little.
    cells = _cells(square) / np.maximum(_cells(weight_hw), CELL)
    return Residual(
        rms=float(np.sqrt(square.sum() / max(weight_hw.sum(), 1e-6))),
        peak=float(np.sqrt(cells.max())),
        map_hw=np.sqrt(square),
    )


def _cells(x_hw: np.ndarray) -> np.ndarray:
    """Sums over cells; those at the bottom and right may be cut."""
    for axis in (0, 1):
        x_hw = np.add.reduceat(x_hw, range(0, x_hw.shape[axis], CELL), axis=axis)
    return x_hw
