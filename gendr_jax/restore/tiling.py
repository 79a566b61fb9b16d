"""How a large picture is cut into passes of one shape, and blended again.

What lives here: geometry and weights, numpy alone. What does not: networks, devices,
colour, files.

Tiles of one shape lie evenly over the picture, neighbours share at least `overlap`
pixels. Weights sum to one exactly: along each axis a ramp rises once between two
neighbours, over the middle `overlap` pixels of what they share, and the weight of a
tile is the ramp before it less the ramp after it.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

# Parts of a tile that neighbours share unless told otherwise: a quarter.
OVERLAP_PARTS = 4
# Mirrored pixels of the output beyond each edge of a picture: convolutions continue
# with zeros there, which shows about this far into what they make.
MARGIN = 32
# A bend that no eye sees: a tenth of a grey level of 255.
UNSEEN = 0.1 / 255


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where passes lie on an output picture.

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
        """How many passes; one means untiled."""
        return len(self.rows) * len(self.columns)

    @property
    def tiled(self) -> bool:
        """Whether there is more than one pass."""
        return self.tiles > 1


def one_pass(height: int, width: int, multiple: int) -> Layout:
    """One pass over everything."""
    shape = _pass_side(height, multiple), _pass_side(width, multiple)
    return Layout(height, width, shape, 1, (-MARGIN,), (-MARGIN,))


def layout(
    height: int, width: int, tile: int, overlap: int | None, multiple: int
) -> Layout:
    """Tiles over an output picture; one pass where it fits into a tile.

    Args:
        height, width: of the output picture.
        tile: side of a tile in output pixels, raised to the next multiple.
        overlap: least overlap in output pixels, at most half a tile; None is a quarter.
        multiple: of pixels, that the networks need.
    """
    tile = -(-tile // multiple) * multiple
    if overlap is None:
        overlap = tile // OVERLAP_PARTS
    overlap = min(max(overlap, 1), tile // 2)

    def along(length: int) -> tuple[int, tuple[int, ...]]:
        """(side of a pass, first line of every tile)."""
        if length <= tile:  # stays one pass, which its margin makes larger
            return _pass_side(length, multiple), (-MARGIN,)
        return tile, _origins(length, tile, overlap)

    (rows_side, rows), (columns_side, columns) = along(height), along(width)
    return Layout(height, width, (rows_side, columns_side), overlap, rows, columns)


def bucket(side: int, multiple: int) -> int:
    """The side of a pass that holds `side` pixels, of few possible ones.

    1, 2, 3, 4, 6, 8, 12, 16, ... multiples: of sizes up to 1024 pixels there are eight
    a side, so that a program that serves pictures of any sizes compiles few programs.
    A side grows by a half at most.
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
    # (i + 1/2) / overlap: neither end of a ramp is 0 or 1, and both ends are alike.
    ramp = np.sin(np.pi / 2 * (np.arange(overlap) + 0.5) / overlap) ** 2
    found = [np.ones(side) for _ in origins]
    for i in range(1, len(origins)):
        shared = origins[i - 1] + side - origins[i]
        start = origins[i] + (shared - overlap) // 2
        rises = _at(ramp, start, origins[i], side)
        found[i] -= 1 - rises
        found[i - 1] -= _at(ramp, start, origins[i - 1], side)
    return [x.astype(np.float32) for x in found]


class Bands:
    """Adds weighted tiles from top to bottom and gives the rows that are finished.

    Holds one row of tiles. Rows must come in order, and the tiles of a row in order of
    columns, so that sums are formed in one order whatever computed the tiles.
    """

    def __init__(self, plan: Layout, channels: int = 3):
        """Start above the first row."""
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
        """(top, rows_hwc) that no later row of tiles touches; call once a row."""
        plan = self._plan
        top, last = plan.rows[row], row + 1 == len(plan.rows)
        end = plan.height if last else plan.rows[row + 1]
        first = max(top, 0)  # no row of the margin above is kept
        columns = slice(-plan.columns[0], plan.width - plan.columns[0])
        done = self._sum[first - top : max(end - top, 0), columns].copy()
        if not last:
            keep = self._sum[end - top :].copy()
            self._sum[: len(keep)] = keep
            self._sum[len(keep) :] = 0
        return first, done


def samples(plan: Layout, count: int, side: int) -> Iterator[tuple[int, int]]:
    """Origins of count x count squares of `side`, evenly over the picture."""
    for top in np.linspace(0, max(plan.height - side, 0), count):
        for left in np.linspace(0, max(plan.width - side, 0), count):
            yield int(top), int(left)


def seams(residual_hwc: np.ndarray, plan: Layout) -> tuple[float, float]:
    """(jump, step): how far tiles can be seen in `restored - plain enlargement`.

    jump: the largest mean |second difference| over a line along the middle or an end
    of a blend, against the median of all lines (at least `UNSEEN`); 1 is invisible.
    step: the largest difference of means of two strips of `overlap` pixels on either
    side of a blend, in the units of the picture.
    """
    worst_jump, worst_step = 0.0, 0.0
    for axis, origins, side in (
        (0, plan.rows, plan.pass_hw[0]),
        (1, plan.columns, plan.pass_hw[1]),
    ):
        x = np.moveaxis(residual_hwc.astype(np.float64), axis, 0)
        bends = np.abs(np.diff(x, 2, axis=0)).mean((1, 2))
        for before, after in zip(origins, origins[1:], strict=False):
            start = after + (before + side - after - plan.overlap) // 2
            middle, end = start + plan.overlap // 2, start + plan.overlap
            lines = [i - 1 for at in (start, middle, end) for i in (at - 1, at, at + 1)]
            lines = [i for i in lines if 0 <= i < len(bends)]
            jump = bends[lines].max() / max(np.median(bends), UNSEEN)
            step = x[end : end + plan.overlap].mean((0, 1))
            step = step - x[max(start - plan.overlap, 0) : start].mean((0, 1))
            worst_jump = max(worst_jump, float(jump))
            worst_step = max(worst_step, float(np.abs(step).max()))
    return worst_jump, worst_step


def _pass_side(side: int, multiple: int) -> int:
    """The side of a pass that holds `side` pixels and a margin before and after."""
    margins = -(-2 * MARGIN // multiple) * multiple
    return bucket(side, multiple) + margins


def _origins(length: int, side: int, overlap: int) -> tuple[int, ...]:
    """Of tiles of `side` over more pixels than that and the margins of both ends."""
    count = -(-(length + 2 * MARGIN - overlap) // (side - overlap))
    last = length + 2 * MARGIN - side
    return tuple(round(i * last / (count - 1)) - MARGIN for i in range(count))


def _at(ramp: np.ndarray, start: int, origin: int, side: int) -> np.ndarray:
    """The ramp from 0 to 1 as a tile at `origin` sees it."""
    places = np.arange(side) + origin - start
    inside = np.clip(places, 0, len(ramp) - 1)
    return np.where(places < 0, 0.0, np.where(places >= len(ramp), 1.0, ramp[inside]))
