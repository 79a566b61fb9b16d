"""What restoring has added that the input does not bear out.

What lives here: the restored picture, reduced to the input's size, against the input.
Detail that networks invent is fine as long as it averages to what was there; where a
reduced result differs, something was made up, moved or recoloured. Noise that was
removed shows too, so read figures against those of like pictures (docs/restore.md).
"""

from dataclasses import dataclass

import numpy as np

from gendr_jax.restore import pictures, resize
from gendr_jax.restore.image_io import Image

CELL = 16  # input pixels; a face or a letter that came or went fills some
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
    after, _ = pictures.to_unit(restored)
    before, alpha = pictures.to_unit(source)
    reduced = resize.bicubic(after, before.shape[:2])
    square = np.mean((reduced - before) ** 2, axis=-1)
    weight = np.ones_like(square) if alpha is None else alpha
    square = square * weight
    cells, counts = _cells(square), np.maximum(_cells(weight), 1e-6)
    return Residual(
        rms=float(np.sqrt(square.sum() / max(weight.sum(), 1e-6))),
        # A cell that hardly shows says little.
        peak=float(np.sqrt((cells / np.maximum(counts, CELL)).max())),
        map_hw=np.sqrt(square),
    )


def as_picture(map_hw: np.ndarray) -> Image:
    """The map in grey: black is no difference, white a quarter of full range."""
    levels = np.rint(np.clip(map_hw / MAP_TOP, 0, 1) * 255).astype(np.uint8)
    return Image(levels[..., None])


def _cells(x_hw: np.ndarray) -> np.ndarray:
    """Sums over cells; those at the bottom and right may be cut."""
    for axis in (0, 1):
        x_hw = np.add.reduceat(x_hw, range(0, x_hw.shape[axis], CELL), axis=axis)
    return x_hw
