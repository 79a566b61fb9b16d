"""Residual: difference of a result, reduced to the input's size, from the input.

Generated detail should average to the input; where the reduced result differs, content
was invented, moved or recoloured. Removed noise is part of the difference too, so
compare figures with those of similar pictures (docs/restore.md).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gendr_jax import image_io
from gendr_jax.image_io import Image, arrays, resize
from gendr_jax.image_io.regions import Reader

BLOCK = 16  # input pixels a side; an added or lost face or letter fills some blocks
BAND = 256  # input rows of a file that are read at once
MAP_TOP = 0.25  # difference that is white in the map


@dataclass(frozen=True)
class Residual:
    """Differences in units of full range, transparent pixels left out.

    Attributes:
        rms: root mean square over the picture.
        peak: largest root mean square over a block of 16 x 16 pixels.
        map_hw: root mean square over the channels of each input pixel.
    """

    rms: float
    peak: float
    map_hw: np.ndarray


def residual(restored: Image, source: Image) -> Residual:
    """Compare a result with its input."""
    after, _ = arrays.to_unit(restored)
    before, alpha = arrays.to_unit(source)
    square = _square(resize.bicubic(after, before.shape[:2]), before)
    return _residual(square, np.ones_like(square) if alpha is None else alpha)


def residual_of_files(
    restored: Path, source: Path, *, max_pixels: int = image_io.MAX_PIXELS
) -> Residual:
    """`residual` of files, reading BAND rows at once."""
    before = Reader(source, max_pixels=max_pixels)
    height, width = before.header.height, before.header.width
    after = Reader(restored, max_pixels=2**62)  # no limit for our own result
    from_hw, rows = (after.header.height, after.header.width), []

    def colours(*region: int) -> np.ndarray:
        return arrays.to_unit(after.read(*region))[0]

    for top in range(0, height, BAND):
        region = (top, 0, min(BAND, height - top), width)
        rgb, alpha = arrays.to_unit(before.read(*region))
        reduced = resize.bicubic_region(colours, from_hw, (height, width), region)
        rows.append(
            (_square(reduced, rgb), np.ones(region[2:]) if alpha is None else alpha)
        )
    return _residual(*(np.concatenate(x) for x in zip(*rows, strict=True)))


def as_picture(map_hw: np.ndarray) -> Image:
    """The map as a grey picture: black is no difference, white MAP_TOP or more."""
    levels = np.rint(np.clip(map_hw / MAP_TOP, 0, 1) * 255).astype(np.uint8)
    return Image(levels[..., None])


def _square(reduced_hwc: np.ndarray, before_hwc: np.ndarray) -> np.ndarray:
    return np.mean((reduced_hwc - before_hwc) ** 2, axis=-1)


def _residual(square_hw: np.ndarray, weight_hw: np.ndarray) -> Residual:
    square = square_hw * weight_hw
    # Blocks with few opaque pixels are weighted down.
    blocks = _block_sums(square) / np.maximum(_block_sums(weight_hw), BLOCK)
    return Residual(
        rms=float(np.sqrt(square.sum() / max(weight_hw.sum(), 1e-6))),
        peak=float(np.sqrt(blocks.max())),
        map_hw=np.sqrt(square),
    )


def _block_sums(x_hw: np.ndarray) -> np.ndarray:
    """Sums over blocks; those at the bottom and right may be smaller."""
    for axis in (0, 1):
        x_hw = np.add.reduceat(x_hw, range(0, x_hw.shape[axis], BLOCK), axis=axis)
    return x_hw
