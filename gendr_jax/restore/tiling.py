"""Tile layout and blending weights: cut a picture into passes of one shape.

Tiles of one shape are spread evenly over the picture; neighbours share at least
`overlap` pixels. Weights sum to one exactly: along each axis there is one ramp between
two neighbours, over the middle `overlap` pixels of their shared region, and the weight
of a tile is the ramp before it minus the ramp after it.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

# The default overlap is a quarter of a tile.
OVERLAP_DIVISOR = 4
# Mirrored output pixels beyond each edge of a picture: convolutions pad with zeros,
# which is visible about this far inside their output.
MARGIN = 32
# An invisible second difference: a tenth of a level of 255.
UNSEEN = 0.1 / 255


@dataclasses.dataclass(frozen=True)
class Layout:
    """Shape and positions of passes over an output picture.

    Attributes:
        height, width: of the picture.
        pass_hw: shape of one pass, a multiple of what the networks need.
        overlap: pixels over which neighbours are blended, at least one.
        rows, columns: first row of every row of tiles, first column of every column;
            the first of each is -MARGIN, where the mirrored margin starts.
    """

    height: int
    width: int
    pass_hw: tuple[int, int]
    overlap: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def tiles(self) -> int:
        """Number of passes; one means untiled."""
        return len(self.rows) * len(self.columns)

    @property
    def tiled(self) -> bool:
        """Whether there is more than one pass."""
        return self.tiles > 1


def one_pass(height: int, width: int, multiple: int) -> Layout:
    """The layout of one pass over the full picture."""
    shape = _pass_side(height, multiple), _pass_side(width, multiple)
    return Layout(height, width, shape, 1, (-MARGIN,), (-MARGIN,))


def layout(
    height: int, width: int, tile: int, overlap: int | None, multiple: int
) -> Layout:
    """Tiles over an output picture; one pass where it fits into a tile.

    Args:
        height, width: of the output picture.
        tile: side of a tile in output pixels, raised to the next multiple.
        overlap: smallest overlap in output pixels, at most half a tile; None: a
            quarter.
        multiple: sides of passes are multiples of this.
    """
    tile = -(-tile // multiple) * multiple
    if overlap is None:
        overlap = tile // OVERLAP_DIVISOR
    overlap = min(max(overlap, 1), tile // 2)

    def along_axis(length: int) -> tuple[int, tuple[int, ...]]:
        """(side of a pass, first line of every tile)."""
        if length <= tile:  # one pass, larger by its margins
            return _pass_side(length, multiple), (-MARGIN,)
        return tile, _origins(length, tile, overlap)

    (rows_side, rows), (columns_side, columns) = along_axis(height), along_axis(width)
    return Layout(height, width, (rows_side, columns_side), overlap, rows, columns)


def bucket(side: int, multiple: int) -> int:
    """The side of a pass for `side` pixels, one of few possible sides.

    1, 2, 3, 4, 6, 8, 12, 16, ... multiples: of sizes up to 1024 pixels there are eight
    a side, so that pictures of any sizes need few compiled programs. A side grows by a
    half at most.
    """
    units = -(-side // multiple)
    power = 1
    while 2 * power < units:
        power *= 2
    return next(n for n in (power, power * 3 // 2, 2 * power) if n >= units) * multiple


def weights(origins: tuple[int, ...], side: int, overlap: int) -> list[np.ndarray]:
    """The weights [side] of every tile along one axis; they sum to one everywhere.

    Symmetric: a mirrored row of tiles has mirrored weights.
    """
    # At (i + 1/2) / overlap the ramp is symmetric and never exactly 0 or 1.
    ramp = np.sin(np.pi / 2 * (np.arange(overlap) + 0.5) / overlap) ** 2
    tile_weights = [np.ones(side) for _ in origins]
    for i in range(1, len(origins)):
        shared = origins[i - 1] + side - origins[i]
        start = origins[i] + (shared - overlap) // 2
        rise = _ramp_in_tile(ramp, start, origins[i], side)
        tile_weights[i] -= 1 - rise
        tile_weights[i - 1] -= _ramp_in_tile(ramp, start, origins[i - 1], side)
    return [x.astype(np.float32) for x in tile_weights]


class Bands:
    """Accumulates weighted tiles from top to bottom, and returns finished rows.

    Holds one row of tiles. Rows must be added in order, and tiles of a row in order of
    columns, so that float32 sums do not depend on which device computed a tile.
    """

    def __init__(self, plan: Layout, channels: int = 3):
        """Start with the first row of tiles."""
        self._plan = plan
        self._rows = weights(plan.rows, plan.pass_hw[0], plan.overlap)
        self._columns = weights(plan.columns, plan.pass_hw[1], plan.overlap)
        height = plan.pass_hw[0]
        width = plan.columns[-1] - plan.columns[0] + plan.pass_hw[1]
        self._sum = np.zeros((height, width, channels), np.float32)

    def add(self, row: int, column: int, tile_hwc: np.ndarray) -> None:
        """Add the tile of this row and column, counted from 0."""
        left = self._plan.columns[column] - self._plan.columns[0]
        width = self._plan.pass_hw[1]
        weight = self._rows[row][:, None, None] * self._columns[column][None, :, None]
        self._sum[:, left : left + width] += tile_hwc * weight

    def finish(self, row: int) -> tuple[int, np.ndarray]:
        """(top, rows_hwc) that no later row of tiles changes; call once a row."""
        plan = self._plan
        top, last = plan.rows[row], row + 1 == len(plan.rows)
        end = plan.height if last else plan.rows[row + 1]
        first = max(top, 0)  # rows of the margin above are dropped
        columns = slice(-plan.columns[0], plan.width - plan.columns[0])
        finished = self._sum[first - top : max(end - top, 0), columns].copy()
        if not last:
            remaining = self._sum[end - top :].copy()
            self._sum[: len(remaining)] = remaining
            self._sum[len(remaining) :] = 0
        return first, finished


def samples(plan: Layout, count: int, side: int) -> Iterator[tuple[int, int]]:
    """Origins of count x count squares of `side`, spread evenly."""
    for top in np.linspace(0, max(plan.height - side, 0), count):
        for left in np.linspace(0, max(plan.width - side, 0), count):
            yield int(top), int(left)


def seams(residual_hwc: np.ndarray, plan: Layout) -> tuple[float, float]:
    """(jump, step): visibility of tile borders in `restored - bicubic enlargement`.

    jump: the largest mean |second difference| over a line along the middle or an end
    of a blend, relative to the median of all lines (at least `UNSEEN`); 1: invisible.
    step: the largest difference of means of two strips of `overlap` pixels on either
    side of a blend, in the units of the picture.
    """
    worst_jump, worst_step = 0.0, 0.0
    for axis, origins, side in (
        (0, plan.rows, plan.pass_hw[0]),
        (1, plan.columns, plan.pass_hw[1]),
    ):
        x = np.moveaxis(residual_hwc.astype(np.float64), axis, 0)
        second_differences = np.abs(np.diff(x, 2, axis=0)).mean((1, 2))
        for previous, current in zip(origins, origins[1:], strict=False):
            start = current + (previous + side - current - plan.overlap) // 2
            middle, end = start + plan.overlap // 2, start + plan.overlap
            lines = [
                i - 1
                for centre in (start, middle, end)
                for i in (centre - 1, centre, centre + 1)
            ]
            lines = [i for i in lines if 0 <= i < len(second_differences)]
            jump = second_differences[lines].max() / max(
                np.median(second_differences), UNSEEN
            )
            step = x[end : end + plan.overlap].mean((0, 1))
            step = step - x[max(start - plan.overlap, 0) : start].mean((0, 1))
            worst_jump = max(worst_jump, float(jump))
            worst_step = max(worst_step, float(np.abs(step).max()))
    return worst_jump, worst_step


def _pass_side(side: int, multiple: int) -> int:
    """The side of a pass for `side` pixels and a margin at both ends."""
    margins = -(-2 * MARGIN // multiple) * multiple
    return bucket(side, multiple) + margins


def _origins(length: int, side: int, overlap: int) -> tuple[int, ...]:
    """Origins of tiles of `side` over `length` > `side` pixels and both margins."""
    count = -(-(length + 2 * MARGIN - overlap) // (side - overlap))
    last = length + 2 * MARGIN - side
    return tuple(round(i * last / (count - 1)) - MARGIN for i in range(count))


def _ramp_in_tile(ramp: np.ndarray, start: int, origin: int, side: int) -> np.ndarray:
    """The ramp from 0 to 1 in the coordinates of a tile at `origin`."""
    offsets = np.arange(side) + origin - start
    clipped = np.clip(offsets, 0, len(ramp) - 1)
    return np.where(
        offsets < 0, 0.0, np.where(offsets >= len(ramp), 1.0, ramp[clipped])
    )
