"""Restore one picture by tiles: shared norm statistics, blending, colour correction.

Three steps: samples of the picture give the norm statistics that all tiles share, so
that tiles do not differ in brightness; tiles are restored, blended and stored; colours
are corrected block by block, from statistics of the full picture. Memory is needed for
a row of tiles.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gendr_jax.errors import InputError
from gendr_jax.image_io import resize
from gendr_jax.restore import color, tiling
from gendr_jax.restore.programs import Programs
from gendr_jax.restore.tiling import Layout

# Samples along each side of a picture, in total as large as a tile, so that statistics
# need no more memory, but each large enough compared with its border.
SAMPLES, MIN_SAMPLE = 4, 128
# A pass has failed if its output hardly varies although its input does.
SPREAD_OF_INPUT, MIN_SPREAD = 0.02, 0.02
# Side of the blocks for colour correction; the halo is a small share of it.
BLOCK = 512

# (top, left, height, width) of the bicubic enlargement -> float32 [h, w, 3] in [0, 1].
Enlarged = Callable[[int, int, int, int], np.ndarray]
Progress = Callable[[int, int], None]


class Store(Protocol):
    """Storage of the float32 pixels of a picture, in memory or on disk."""

    def write(self, top: int, left: int, block_hwc: np.ndarray) -> None:
        """Write a block of pixels."""

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Read a block of pixels."""


class MemoryStore:
    """A Store in memory."""

    def __init__(self, pixels_hwc: np.ndarray):
        """Use this array, without a copy."""
        self.pixels_hwc = pixels_hwc

    @classmethod
    def zeros(cls, height: int, width: int) -> "MemoryStore":
        """A black picture."""
        return cls(np.zeros((height, width, 3), np.float32))

    def write(self, top: int, left: int, block_hwc: np.ndarray) -> None:
        """Write a block of pixels."""
        height, width = block_hwc.shape[:2]
        self.pixels_hwc[top : top + height, left : left + width] = block_hwc

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Read a block of pixels, as a view."""
        return self.pixels_hwc[top : top + height, left : left + width]


def restore(
    programs: Programs,
    plan: Layout,
    enlarged: Enlarged,
    store: Store,
    progress: Progress,
) -> None:
    """Write restored and blended pixels to the store, without colour correction.

    Raises:
        InputError: a tile whose output is not finite or has no content.
        TooLarge: a tile that exceeds the memory of the devices.
    """
    moments = _statistics(programs, plan, enlarged)
    origins = [(row, column) for row in plan.rows for column in plan.columns]
    tile_inputs = (_padded(enlarged, plan, origin, plan.pass_hw) for origin in origins)
    results = programs.tiles(tile_inputs, plan.pass_hw, moments)
    bands = tiling.Bands(plan)
    for i, (tile_hwc, spread) in enumerate(results):
        row, column = divmod(i, len(plan.columns))
        # Its position in the picture, without the mirrored margin.
        position = tuple(max(side, 0) for side in origins[i])
        require_content(spread, programs.recipe.dtype, f" of the tile at {position}")
        bands.add(row, column, tile_hwc)
        if column + 1 == len(plan.columns):
            top, rows_hwc = bands.finish(row)
            store.write(top, 0, rows_hwc)
        progress(i + 1, plan.tiles)


def correct(
    plan: Layout,
    enlarged: Enlarged,
    store: Store,
    color_fix: color.ColorFix,
    strengths: tuple[float, float],
    emit: Callable[[int, int, np.ndarray], None],
) -> None:
    """Correct colours block by block: emit(top, left, rgb_hwc); only reads the store.

    All blocks have one shape, so that all pictures share the compiled programs.
    """
    uses_stats = color_fix in ("adain", "lab")
    sr_stats = up_stats = None
    if uses_stats:
        sr_stats, up_stats = _stats(plan, enlarged, store, color_fix)
    halo = color.WAVELET_RADIUS if color_fix == "wavelet" else 0
    values = np.asarray(strengths, np.float32)
    for (top, left, height, width), (core_top, core_left, core) in _blocks(plan, halo):
        sr_bhwc, mask_bhw = _block(store.read(top, left, height, width))
        up_bhwc, _ = _block(enlarged(top, left, height, width))
        final = _finish(
            color_fix, sr_bhwc, up_bhwc, mask_bhw, sr_stats, up_stats, values
        )
        y, x = core_top - top, core_left - left
        emit(
            core_top, core_left, np.asarray(final)[0, y : y + core[0], x : x + core[1]]
        )


def require_content(spread: np.ndarray, dtype: str, where: str = "") -> None:
    """Refuse an output that is not finite, or is flat although its input is not.

    Raises:
        InputError: with both spreads.
    """
    before, after = (float(x) for x in spread)
    if not np.isfinite(after):
        raise InputError(
            f"the networks' output{where} is not finite in {dtype}. "
            "Use float32 (--dtype fp32), or check the weights."
        )
    if before > SPREAD_OF_INPUT and after < MIN_SPREAD * before:
        raise InputError(
            f"the networks' output{where} is empty: it varies by {after:.2g}, its "
            f"input by {before:.2g}. Use float32 (--dtype fp32), or check the weights."
        )


def sample_side(plan: Layout, multiple: int) -> int:
    """Side of the square samples for the norm statistics of a picture."""
    side = max(min(plan.pass_hw) // SAMPLES, MIN_SAMPLE)
    return min(-(-side // multiple) * multiple, *plan.pass_hw)


def _statistics(programs: Programs, plan: Layout, enlarged: Enlarged) -> Any:
    side = sample_side(plan, programs.recipe.size_multiple)
    origins = tiling.samples(plan, SAMPLES, side)
    sample_inputs = [
        _padded(enlarged, plan, origin, (side, side)) for origin in origins
    ]
    return programs.statistics(np.stack(sample_inputs))


def _padded(enlarged, plan, origin, size):
    """The region of `size` at this origin, mirrored beyond the picture."""
    return resize.mirrored_region(enlarged, (plan.height, plan.width), (*origin, *size))


def _stats(plan, enlarged, store, name):
    """Colour moments of the restored picture and of its enlargement, in float64."""
    totals = None
    for region, _ in _blocks(plan, 0):
        pair_stats = []
        for read in (store.read, enlarged):
            block_bhwc, mask_bhw = _block(read(*region))
            block_stats = _block_stats(name, block_bhwc, mask_bhw)
            pair_stats.append(jax.tree.map(np.float64, jax.device_get(block_stats)))
        if totals is not None:
            pair_stats = [
                color.merge(*pair) for pair in zip(totals, pair_stats, strict=True)
            ]
        totals = pair_stats
    return totals


_block_stats = jax.jit(color.stats, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _finish(color_fix, sr_bhwc, up_bhwc, mask_bhw, sr_stats, up_stats, strengths):
    if sr_stats is not None:
        fixed = color.match(color_fix, sr_bhwc, sr_stats, up_stats)
        fixed = color.blend(fixed, sr_bhwc, strengths[0])
    else:
        fixed = color.fix(color_fix, sr_bhwc, up_bhwc, mask_bhw, strengths[0])
    return color.blend(jnp.clip(fixed, 0, 1), up_bhwc, strengths[1])


def _blocks(plan: Layout, halo: int):
    """((top, left, height, width) to read, (top, left, (height, width)) to keep)."""
    step = BLOCK - 2 * halo

    def intervals(length):
        for start in range(0, length, step):
            first, end = max(start - halo, 0), min(start + step + halo, length)
            yield first, end - first, start, min(step, length - start)

    for top, height, core_top, core_height in intervals(plan.height):
        for left, width, core_left, core_width in intervals(plan.width):
            core = core_top, core_left, (core_height, core_width)
            yield (top, left, height, width), core


def _block(block_hwc):
    """([1, BLOCK, BLOCK, 3], mask): a block padded to the common shape."""
    height, width = block_hwc.shape[:2]
    padded = np.zeros((1, BLOCK, BLOCK, 3), np.float32)
    padded[0, :height, :width] = block_hwc
    mask = np.zeros((1, BLOCK, BLOCK), bool)
    mask[0, :height, :width] = True
    return padded, mask
