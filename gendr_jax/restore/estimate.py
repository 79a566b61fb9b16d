"""Estimate size, time and memory of restoring a picture, without reading weights."""

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

# Sides of tiles in output pixels: twice the training size, smaller where memory is
# short. Never larger, so that a picture looks the same on machines with more memory.
TILES = (1024, 768, 512, 384, 256, 128)
# In addition to feature maps: attention scores, workspaces of convolutions.
CONSTANT_BYTES = 192 * 2**20
PROMPT_TOKENS = 77


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The plan and cost of one picture.

    Attributes:
        width, height: of the output.
        tiles: passes; 1 is untiled.
        pass_hw, overlap: of a pass, in output pixels.
        flops: of all passes, including the one for shared norm statistics.
        weight_bytes: on every device.
        peak_bytes: of one device, weights and the pass.
        seconds: None if the rate is unknown.
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
        free_bytes: of one device, for tile="auto"; None: unlimited.
        rate: FLOP/s of one device, from `measured_rate` or earlier runs.
        max_pixels: as for `Restorer`; None is no limit.

    Raises:
        InputError: tiles are not allowed, and one pass exceeds `max_pixels`.
    """
    layout_options = tile, tile_overlap, free_bytes, space, max_pixels
    plan = layout(recipe, height, width, *layout_options)
    passes = plan.tiles + (1 if plan.tiled else 0)  # statistics cost one more
    flops_per_pass = pass_flops(recipe, plan.pass_hw)
    weight_bytes = _weight_bytes(recipe)
    sharing_devices = 1 if plan.tiled else space
    if rate is None:
        seconds = None
    elif plan.tiled:
        seconds = (math.ceil(plan.tiles / devices) + 1) * flops_per_pass / rate
    else:
        seconds = flops_per_pass / rate / sharing_devices
    return Estimate(
        width=width,
        height=height,
        tiles=plan.tiles,
        pass_hw=plan.pass_hw,
        overlap=plan.overlap if plan.tiled else 0,
        flops=passes * flops_per_pass,
        weight_bytes=weight_bytes,
        peak_bytes=weight_bytes + pass_bytes(recipe, plan.pass_hw) // sharing_devices,
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
    """The first layout that a restorer with these options tries."""
    multiple = recipe.size_multiple
    if tile == 0 or (tile == "auto" and space > 1):
        limit = None if max_pixels is None else max_pixels * space
        return one_pass(height, width, multiple, limit)
    side = tiles_to_try(recipe, tile, free_bytes)[0]
    return tiling.layout(height, width, side, tile_overlap, multiple)


def one_pass(height: int, width: int, multiple: int, limit: int | None) -> Layout:
    """The layout of an output without tiles.

    Raises:
        InputError: more padded pixels than the limit.
    """
    plan = tiling.one_pass(height, width, multiple)
    # The limit is on the padded output, without the margin that is cropped again.
    padded = tiling.bucket(height, multiple) * tiling.bucket(width, multiple)
    if limit is not None and padded > limit:
        raise InputError(
            f"the output would be {width}x{height} ({padded} pixels when padded), the "
            f"limit of one pass is {limit}. Use tiles (--tile auto), a smaller scale, "
            "or raise max_pixels (--max-pixels) if memory allows."
        )
    return plan


def tiles_to_try(recipe: Recipe, tile: Tile, free_bytes: int | None) -> list[int]:
    """Sides of tiles in the order to try: a smaller one after running out of memory."""
    if tile != "auto":
        return [tile, *(side for side in TILES if side < tile)]
    # A picture of one tile is one pass, whose sides are larger by the margins.
    pass_sides = {side: side + 2 * tiling.MARGIN for side in TILES}
    fits = [
        side
        for side, pass_side in pass_sides.items()
        if free_bytes is None
        or pass_bytes(recipe, (pass_side, pass_side)) <= free_bytes
    ]
    return fits or [TILES[-1]]


def pass_bytes(recipe: Recipe, pass_hw: tuple[int, int]) -> int:
    """Approximate bytes of a pass without weights, a little more than XLA reports.

    The maximum is in the decoder's last blocks: four maps at full size, float32 in
    norms.
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
    """FLOPs of matrix products and convolutions in one pass over one picture.

    Cached by shape, as tracing takes a second at full size.
    """
    shape = (PROMPT_TOKENS, recipe.unet.cross_attention_dim)
    prompt = jax.ShapeDtypeStruct(shape, jnp.float32)
    params = {name: net.abstract for name, net in forward.networks(recipe).items()}
    params["prompt"] = {"positive": prompt, "negative": prompt}
    up = jax.ShapeDtypeStruct((1, *pass_hw, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(forward.make_pass(recipe))(params, up)
    return round(flops.count(jaxpr).total)


def measured_rate(dtype: str, seconds: float = 0.5) -> float:
    """Measured FLOP/s of the default device in a convolution like the UNet's.

    Real passes reach somewhat less. The time to compile is excluded.
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
