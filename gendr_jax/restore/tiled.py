"""A picture of any size by tiles: shared statistics, blending, colour of the whole.

Three walks over the picture: samples give the statistics that all tiles share; tiles
are restored, blended and kept uncorrected, while moments of colour are gathered; then
colours are corrected block by block. Memory stays at a row of tiles.
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

# Samples along each side of a picture, together as large as a tile, so that statistics
# need no more memory; but each large enough to have an inside.
SAMPLES, LEAST_SAMPLE = 4, 128
# A pass whose output hardly varies although its input does has failed.
SPREAD_OF_INPUT, LEAST_SPREAD = 0.02, 0.02
# Side of the blocks whose colours are corrected together; a halo costs little of it.
BLOCK = 512

# (top, left, height, width) of the plain enlargement -> float32 [h, w, 3] in [0, 1].
Enlarged = Callable[[int, int, int, int], np.ndarray]
Progress = Callable[[int, int], None]


class Store(Protocol):
    """Float32 pixels of the whole picture, in memory or on disk."""

    def write(self, top: int, left: int, block_hwc: np.ndarray) -> None:
        """Put a block of pixels."""

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """A block of pixels."""


class Held:
    """A Store in memory."""

    def __init__(self, pixels_hwc: np.ndarray):
        """Hold these, not a copy."""
        self.pixels_hwc = pixels_hwc

    @classmethod
    def zeros(cls, height: int, width: int) -> "Held":
        """A black picture."""
        return cls(np.zeros((height, width, 3), np.float32))

    def write(self, top: int, left: int, block_hwc: np.ndarray) -> None:
        """Put a block of pixels."""
        height, width = block_hwc.shape[:2]
        self.pixels_hwc[top : top + height, left : left + width] = block_hwc

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """A block of pixels, which is not a copy."""
        return self.pixels_hwc[top : top + height, left : left + width]


def restore(
    programs: Programs,
    plan: Layout,
    enlarged: Enlarged,
    store: Store,
    progress: Progress,
) -> None:
    """Restored and blended pixels into the store, colours as the networks left them.

    Raises:
        InputError: a tile whose output is not finite or has no content.
        TooLarge: a tile that the devices cannot hold.
    """
    moments = _statistics(programs, plan, enlarged)
    places = [(row, column) for row in plan.rows for column in plan.columns]
    parts = (_padded(enlarged, plan, place, plan.pass_hw) for place in places)
    results = programs.tiles(parts, plan.pass_hw, moments)
    bands = tiling.Bands(plan)
    for i, (tile_hwc, spread) in enumerate(results):
        row, column = divmod(i, len(plan.columns))
        # Where the picture begins in it: the margin before is not the user's.
        at = tuple(max(side, 0) for side in places[i])
        require_content(spread, programs.recipe.dtype, f" of the tile at {at}")
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
    """Final pixels, block by block: emit(top, left, rgb_hwc); the store is only read.

    All blocks have one shape, so that all pictures share the programs.
    """
    matched = color_fix in ("adain", "lab")
    ours = theirs = None
    if matched:
        ours, theirs = _stats(plan, enlarged, store, color_fix)
    halo = color.WAVELET_RADIUS if color_fix == "wavelet" else 0
    values = np.asarray(strengths, np.float32)
    for (top, left, height, width), (core_top, core_left, core) in _blocks(plan, halo):
        sr_bhwc, mask_bhw = _block(store.read(top, left, height, width))
        up_bhwc, _ = _block(enlarged(top, left, height, width))
        out = _finish(color_fix, sr_bhwc, up_bhwc, mask_bhw, ours, theirs, values)
        y, x = core_top - top, core_left - left
        emit(core_top, core_left, np.asarray(out)[0, y : y + core[0], x : x + core[1]])


def require_content(spread: np.ndarray, dtype: str, where: str = "") -> None:
    """Refuse a pass that is not finite, or that is empty where its input is not.

    Raises:
        InputError: with both spreads.
    """
    before, after = (float(x) for x in spread)
    if not np.isfinite(after):
        raise InputError(
            f"the networks' output{where} is not finite in {dtype}. "
            "Use float32 (--dtype fp32), or check the weights."
        )
    if before > SPREAD_OF_INPUT and after < LEAST_SPREAD * before:
        raise InputError(
            f"the networks' output{where} is empty: it varies by {after:.2g}, its "
            f"input by {before:.2g}. Use float32 (--dtype fp32), or check the weights."
        )


def sample_side(plan: Layout, multiple: int) -> int:
    """Of the squares that the statistics of a picture come from."""
    side = max(min(plan.pass_hw) // SAMPLES, LEAST_SAMPLE)
    return min(-(-side // multiple) * multiple, *plan.pass_hw)


def _statistics(programs: Programs, plan: Layout, enlarged: Enlarged) -> Any:
    side = sample_side(plan, programs.recipe.size_multiple)
    places = tiling.samples(plan, SAMPLES, side)
    parts = [_padded(enlarged, plan, place, (side, side)) for place in places]
    return programs.statistics(np.stack(parts))


def _padded(enlarged, plan, place, size):
    """The part at this place, mirrored where the picture has ended."""
    return resize.mirrored_region(enlarged, (plan.height, plan.width), (*place, *size))


def _stats(plan, enlarged, store, name):
    """Moments of the restored picture and of its plain enlargement, in float64."""
    totals = None
    for part, _ in _blocks(plan, 0):
        both = []
        for read in (store.read, enlarged):
            block_bhwc, mask_bhw = _block(read(*part))
            found = _block_stats(name, block_bhwc, mask_bhw)
            both.append(jax.tree.map(np.float64, jax.device_get(found)))
        if totals is not None:
            both = [color.merge(*pair) for pair in zip(totals, both, strict=True)]
        totals = both
    return totals


_block_stats = jax.jit(color.stats, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _finish(color_fix, sr_bhwc, up_bhwc, mask_bhw, ours, theirs, strengths):
    if ours is not None:
        fixed = color.match(color_fix, sr_bhwc, ours, theirs)
        fixed = color.blend(fixed, sr_bhwc, strengths[0])
    else:
        fixed = color.fix(color_fix, sr_bhwc, up_bhwc, mask_bhw, strengths[0])
    return color.blend(jnp.clip(fixed, 0, 1), up_bhwc, strengths[1])


def _blocks(plan: Layout, halo: int):
    """((top, left, height, width) to read, (top, left, (height, width)) to keep)."""
    step = BLOCK - 2 * halo

    def pieces(length):
        for start in range(0, length, step):
            first, end = max(start - halo, 0), min(start + step + halo, length)
            yield first, end - first, start, min(step, length - start)

    for top, height, core_top, core_height in pieces(plan.height):
        for left, width, core_left, core_width in pieces(plan.width):
            core = core_top, core_left, (core_height, core_width)
            yield (top, left, height, width), core


def _block(block_hwc):
    """([1, BLOCK, BLOCK, 3], mask): padded to the one shape of blocks."""
    height, width = block_hwc.shape[:2]
    padded = np.zeros((1, BLOCK, BLOCK, 3), np.float32)
    padded[0, :height, :width] = block_hwc
    mask = np.zeros((1, BLOCK, BLOCK), bool)
    mask[0, :height, :width] = True
    return padded, mask
