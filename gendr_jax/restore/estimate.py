"""What restoring a picture will take, known before any weight is read."""

import dataclasses
import functools
import math
import time

import jax
import jax.numpy as jnp

from gendr_jax import flops
from gendr_jax.errors import InputError
from gendr_jax.restore import forward, tiling
from gendr_jax.restore.forward import Recipe
from gendr_jax.restore.options import Tile
from gendr_jax.restore.tiling import Layout

# Sides of tiles in output pixels: twice what is trained on, and less when memory is
# short. Not more when there is plenty: the same picture should look the same elsewhere.
TILES = (1024, 768, 512, 384, 256, 128)
# Beside the maps: scores of one block of attention, workspaces of convolutions.
CONSTANT_BYTES = 192 * 2**20
PROMPT_TOKENS = 77


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One picture, planned.

    Attributes:
        width, height: of the output.
        tiles: passes; 1 is untiled.
        pass_hw, overlap: of a pass, in output pixels.
        flops: of all passes, and of the samples that give shared statistics.
        weight_bytes: on every device.
        peak_bytes: of one device, weights and the pass.
        seconds: None without a rate.
    """

    width: int
    height: int
    tiles: int
    pass_hw: tuple[int, int]
    overlap: int
    flops: int
    weight_bytes: int
    peak_bytes: int
    seconds: float | None


def estimate(
    recipe: Recipe,
    height: int,
    width: int,
    *,
    tile: Tile = "auto",
    tile_overlap: int | None = None,
    devices: int = 1,
    space: int = 1,
    free_bytes: int | None = None,
    rate: float | None = None,
    max_pixels: int | None = None,
) -> Estimate:
    """Plan an output of this size; reads no weights and compiles nothing.

    Args:
        recipe: configurations and dtype; `prediction` and `t_star` do not matter.
        height, width: of the output, in pixels.
        tile, tile_overlap: as for `Restorer`.
        devices: over which tiles are spread.
        space: devices that share one untiled picture.
        free_bytes: of one device, for tile="auto"; None is enough.
        rate: FLOP/s of one device, from `measured_rate` or former runs.
        max_pixels: as for `Restorer`; None is no limit.

    Raises:
        InputError: it must be one pass, and is above `max_pixels`.
    """
    options = tile, tile_overlap, free_bytes, space, max_pixels
    plan = layout(recipe, height, width, *options)
    passes = plan.tiles + (1 if plan.tiled else 0)  # statistics cost one more
    one = pass_flops(recipe, plan.pass_hw)
    weights = _weight_bytes(recipe)
    together = 1 if plan.tiled else space
    if rate is None:
        seconds = None
    elif plan.tiled:
        seconds = (math.ceil(plan.tiles / devices) + 1) * one / rate
    else:
        seconds = one / rate / together
    return Estimate(
        width=width,
        height=height,
        tiles=plan.tiles,
        pass_hw=plan.pass_hw,
        overlap=plan.overlap if plan.tiled else 0,
        flops=passes * one,
        weight_bytes=weights,
        peak_bytes=weights + pass_bytes(recipe, plan.pass_hw) // together,
        seconds=seconds,
    )


def layout(
    recipe: Recipe,
    height: int,
    width: int,
    tile: Tile,
    tile_overlap: int | None,
    free_bytes: int | None,
    space: int = 1,
    max_pixels: int | None = None,
) -> Layout:
    """The layout that a restorer with these options tries first."""
    multiple = recipe.size_multiple
    if tile == 0 or (tile == "auto" and space > 1):
        limit = None if max_pixels is None else max_pixels * space
        return one_pass(height, width, multiple, limit)
    side = tiles_to_try(recipe, tile, free_bytes)[0]
    return tiling.layout(height, width, side, tile_overlap, multiple)


def one_pass(height: int, width: int, multiple: int, limit: int | None) -> Layout:
    """The layout of an output that may not be cut.

    Raises:
        InputError: more padded pixels than the limit.
    """
    whole = tiling.one_pass(height, width, multiple)
    # The limit counts what users ask for, without the margin that is cropped again.
    padded = tiling.bucket(height, multiple) * tiling.bucket(width, multiple)
    if limit is not None and padded > limit:
        raise InputError(
            f"the output would be {width}x{height} ({padded} pixels when padded), the "
            f"limit of one pass is {limit}. Use tiles (--tile auto), a smaller scale, "
            "or raise max_pixels (--max-pixels) if memory allows."
        )
    return whole


def tiles_to_try(recipe: Recipe, tile: Tile, free_bytes: int | None) -> list[int]:
    """Sides of tiles, the best first; after each, what to try when memory runs out."""
    if tile != "auto":
        return [tile, *(side for side in TILES if side < tile)]
    # A picture as large as a tile is one pass, and larger by its margins.
    largest = {side: side + 2 * tiling.MARGIN for side in TILES}
    fits = [
        side
        for side, most in largest.items()
        if free_bytes is None or pass_bytes(recipe, (most, most)) <= free_bytes
    ]
    return fits or [TILES[-1]]


def pass_bytes(recipe: Recipe, pass_hw: tuple[int, int]) -> int:
    """About what a pass needs beside weights, a little more than XLA reports.

    The decoder's last blocks decide: four maps at full size, in float32 where
    normalisation works.
    """
    pixels = pass_hw[0] * pass_hw[1]
    if recipe.kind == "pix":
        # The UNet's first maps and skips, and pictures before and after it.
        maps = 8 * recipe.unet.block_out_channels[0] / recipe.factor**2
        return round(4 * (maps + 8 * 3) * pixels) + CONSTANT_BYTES
    channels = max(recipe.autoencoder.block_out_channels[:2])
    return 4 * 4 * channels * pixels + CONSTANT_BYTES


@functools.lru_cache(maxsize=256)
def pass_flops(recipe: Recipe, pass_hw: tuple[int, int]) -> int:
    """FLOPs of products and convolutions in one pass over one picture.

    Tracing takes a second at full size, so a folder's pictures share it by shape.
    """
    shape = (PROMPT_TOKENS, recipe.unet.cross_attention_dim)
    prompt = jax.ShapeDtypeStruct(shape, jnp.float32)
    params = {name: net.abstract for name, net in forward.networks(recipe).items()}
    params["prompt"] = {"positive": prompt, "negative": prompt}
    up = jax.ShapeDtypeStruct((1, *pass_hw, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(forward.make_pass(recipe))(params, up)
    return round(flops.count(jaxpr).total)


def measured_rate(dtype: str, seconds: float = 0.5) -> float:
    """FLOP/s of the default device in a convolution of the UNet's kind.

    Real passes reach somewhat less; compiling is not in it.
    """
    x = jnp.ones((1, 64, 64, 320), dtype)
    kernel = jnp.ones((3, 3, 320, 320), dtype) / 1e4

    @jax.jit
    def run(x):
        for _ in range(4):
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        return x

    jax.block_until_ready(run(x))
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        x = jax.block_until_ready(run(x))
        count += 1
    flops = 4 * 2 * 64 * 64 * 9 * 320 * 320
    return count * flops / (time.perf_counter() - begin)


def _weight_bytes(recipe: Recipe) -> int:
    item = jnp.dtype(recipe.dtype).itemsize
    leaves = jax.tree.leaves(
        [net.abstract for net in forward.networks(recipe).values()]
    )
    return sum(leaf.size * (item if len(leaf.shape) > 1 else 4) for leaf in leaves)
