"""The degradation chain of Real-ESRGAN, on canvases of a few fixed sizes.

XLA needs static shapes, but the first resize gives a picture of random size. So a
picture occupies the top left of a canvas; each stage gets the size in use, and pixels
beyond it are undefined. After the first resize the chain branches (`lax.switch`) to the
smallest canvas of a short ladder that fits the picture, so that one compiled program
serves all draws and the average cost is that of the average size. The result does not
depend on the canvas: noise is a function of row and column (fields.py).

    sharpen? -> blur -> resize -> noise -> JPEG
    -> blur? -> resize -> noise
    -> JPEG -> resize to the final size -> sinc?      or, at random,
    -> resize to the final size -> sinc? -> JPEG
    -> round to 8-bit levels

The loop over a batch is in batch.py.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gendr_jax.data.degrade import batch, platforms, resize
from gendr_jax.data.degrade import draws as laws
from gendr_jax.data.degrade.blur import blur
from gendr_jax.data.degrade.draws import Draws, OrderDraw
from gendr_jax.data.degrade.jpeg import jpeg
from gendr_jax.data.degrade.noise import add_noise
from gendr_jax.data.degrade.platforms import Platform
from gendr_jax.data.degrade.recipe import Order, Recipe
from gendr_jax.data.degrade.resize import Length
from gendr_jax.data.degrade.unsharp import sharpen

Size = tuple[Length, Length]


# Canvases of the ladder in units of the picture's own size, all but the largest. Each
# takes ten seconds more to compile on a TPU; on a GPU a branch waits for the host.
CPU_STEPS, TPU_STEPS, GPU_STEPS = (0.5, 0.75, 1.0, 1.25), (0.75, 1.0), ()
STEPS: dict[Platform, tuple[float, ...]] = {
    "cpu": CPU_STEPS,
    "tpu": TPU_STEPS,
    "gpu": GPU_STEPS,
}
# A canvas with shorter sides saves less time than its branch takes to compile.
SHORTEST = 192


class Canvases(NamedTuple):
    """Height and width of the largest array that holds the picture after a resize."""

    first: tuple[int, int]
    second: tuple[int, int]
    last: tuple[int, int]


class Fields(NamedTuple):
    """Noise of the first and of the second pass: keys, or standard normals chw."""

    first: jax.Array
    second: jax.Array


def canvases(recipe: Recipe, hq: tuple[int, int], scale: int) -> Canvases:
    """The smallest canvases that fit every draw of the recipe, multiples of 16."""
    first, second = recipe.orders
    last = _reduced(hq, scale)
    return Canvases(_grown(hq, first.resize[1]), _grown(last, second.resize[1]), last)


def ladder(
    recipe: Recipe, hq: tuple[int, int], steps: tuple[float, ...]
) -> tuple[tuple[int, int], ...]:
    """Canvases of the first resize to choose from; the last one fits every draw."""
    largest = _grown(hq, recipe.orders[0].resize[1])
    smaller = [_grown(hq, step) for step in steps]
    is_useful = lambda a, b: SHORTEST <= a < b  # noqa: E731
    return (*(c for c in smaller if all(map(is_useful, c, largest))), largest)


@functools.partial(jax.jit, static_argnames=("recipe", "scale"))
def degrade(
    keys_b: jax.Array,
    hq_bhwc: jax.Array,
    recipe: Recipe,
    scale: int = 4,
    sizes_b2: jax.Array | None = None,
) -> jax.Array:
    """Degrade high-quality pictures, each by its own key alone.

    Args:
      keys_b: one typed key a sample, see `sample_keys`.
      hq_bhwc: float32 RGB in [0, 1].
      recipe: see `recipe.recipe`; static.
      scale: how many times smaller the result is; static.
      sizes_b2: height and width in use of each picture, multiples of `scale`; None:
        the size of the array.

    Returns: float32 [b, ceil(h / scale), ceil(w / scale), 3] in [0, 1], rounded to
      8-bit levels, zero outside size / scale.
    """
    if sizes_b2 is None:
        height, width = hq_bhwc.shape[1:3]
        assert height % scale == 0 and width % scale == 0, (hq_bhwc.shape, scale)
        sizes_b2 = jnp.full((hq_bhwc.shape[0], 2), jnp.asarray([height, width])[None])

    def loop_on(platform: Platform) -> Callable[..., jax.Array]:
        loop = batch.vmap_samples if platform == "gpu" else batch.loop_over_samples
        sample_fn = functools.partial(
            _degrade_one,
            recipe=recipe,
            scale=scale,
            steps=STEPS[platform],
            platform=platform,
        )
        return functools.partial(loop, sample_fn)

    return platforms.select(
        None,
        keys_b,
        jax.lax.stop_gradient(hq_bhwc),
        sizes_b2,
        cpu=loop_on("cpu"),
        tpu=loop_on("tpu"),
        default=loop_on("gpu"),
    )


def sample_keys(key: jax.Array, index_b: jax.Array) -> jax.Array:
    """One key a sample from the sample's global index (uint32)."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(index_b)


def apply(
    hq_chw: jax.Array,
    size: Size,
    draws: Draws,
    fields: Fields,
    recipe: Recipe,
    scale: int,
    steps: tuple[float, ...] = CPU_STEPS,
    platform: Platform | None = None,
) -> jax.Array:
    """The chain with given random numbers; result chw, not yet rounded.

    Args:
      steps: see `ladder`; if empty, every draw uses the largest canvas.
      platform: see `platforms.select`.
    """
    x = sharpen(hq_chw, size) if recipe.sharpen else hq_chw
    end = _divided(size, scale)
    order, draw = recipe.orders[0], draws.first
    x = _before_resize(x, size, order, draw, fields.first, platform)
    grown = _scaled(size, draw.factor)
    _, height, width = hq_chw.shape
    canvas = canvases(recipe, (height, width), scale)
    choices = ladder(recipe, (height, width), steps)
    reductions = (3.0, *(height / c[0] for c in choices[:-1]))

    def after_first_resize(
        first: tuple[int, int], reduction: float, x: jax.Array
    ) -> jax.Array:
        x = resize.resize(
            x, draw.mode, size, grown, first, draw.factor, reduction, platform
        )
        x = _after_resize(x, grown, order, draw, fields.first, platform)
        x = jpeg(x, draw.quality, grown, platform)
        return _shrink(x, grown, end, canvas, draws, fields.second, recipe, platform)

    fits = [(grown[0] <= c[0]) & (grown[1] <= c[1]) for c in choices]
    branches = [
        functools.partial(after_first_resize, *args)
        for args in zip(choices, reductions, strict=True)
    ]
    x = jax.lax.switch(jnp.argmax(jnp.stack(fits)), branches, x)
    x = _finish(x, end, canvas, draws, fields.second, recipe, platform)
    if recipe.sinc_prob > 0:
        x = blur(x, draws.sinc, end, platform)
    quality = draws.second.quality
    return _if(draws.jpeg_last, lambda x: jpeg(x, quality, end, platform), x)


def _shrink(
    x: jax.Array,
    grown: Size,
    end: Size,
    canvas: Canvases,
    draws: Draws,
    source: jax.Array,
    recipe: Recipe,
    platform: Platform | None,
) -> jax.Array:
    """Up to the second resize, or to the last one where there is no second pass.

    Returns: on the canvas of the second pass in both cases, as `lax.cond` needs.
    """
    order, draw = recipe.orders[1], draws.second

    def second(x: jax.Array) -> jax.Array:
        x = _before_resize(x, grown, order, draw, source, platform)
        small = _scaled(end, draw.factor)
        return resize.resize(
            x,
            draw.mode,
            grown,
            small,
            canvas.second,
            reduction=6.0,
            platform=platform,
        )

    def last(x: jax.Array) -> jax.Array:
        x = _to_end(x, grown, end, canvas, draws, recipe, platform)
        missing = [(0, b - a) for a, b in zip(canvas.last, canvas.second, strict=True)]
        return jnp.pad(x, ((0, 0), *missing))

    if recipe.second_prob == 1:
        return second(x)
    return jax.lax.cond(draws.has_second, second, last, x)


def _finish(
    x: jax.Array,
    end: Size,
    canvas: Canvases,
    draws: Draws,
    source: jax.Array,
    recipe: Recipe,
    platform: Platform | None,
) -> jax.Array:
    """From the second resize to the last."""
    order, draw = recipe.orders[1], draws.second

    def second(x: jax.Array) -> jax.Array:
        small = _scaled(end, draw.factor)
        x = _after_resize(x, small, order, draw, source, platform)
        return _to_end(x, small, end, canvas, draws, recipe, platform)

    if recipe.second_prob == 1:
        return second(x)
    height, width = canvas.last
    return jax.lax.cond(draws.has_second, second, lambda x: x[:, :height, :width], x)


def _to_end(
    x: jax.Array,
    size: Size,
    end: Size,
    canvas: Canvases,
    draws: Draws,
    recipe: Recipe,
    platform: Platform | None,
) -> jax.Array:
    """The last resize, after the second JPEG unless that comes last."""
    if recipe.jpeg_last_prob < 1:
        quality = draws.second.quality
        x = _if(~draws.jpeg_last, lambda x: jpeg(x, quality, size, platform), x)
    return resize.resize(
        x, draws.last_mode, size, end, canvas.last, reduction=6.0, platform=platform
    )


def _before_resize(
    x: jax.Array,
    size: Size,
    order: Order,
    draw: OrderDraw,
    source: jax.Array,
    platform: Platform | None,
) -> jax.Array:
    blurred, noisy = _blur_and_noise(size, draw, source, platform)
    if not order.resize_anywhere:
        return blurred(x)
    return _if(draw.resize_at == 2, noisy, _if(draw.resize_at > 0, blurred, x))


def _after_resize(
    x: jax.Array,
    size: Size,
    order: Order,
    draw: OrderDraw,
    source: jax.Array,
    platform: Platform | None,
) -> jax.Array:
    blurred, noisy = _blur_and_noise(size, draw, source, platform)
    if not order.resize_anywhere:
        return noisy(x)
    return _if(draw.resize_at < 2, noisy, _if(draw.resize_at == 0, blurred, x))


def _blur_and_noise(
    size: Size, draw: OrderDraw, source: jax.Array, platform: Platform | None
) -> tuple[Callable[[jax.Array], jax.Array], Callable[[jax.Array], jax.Array]]:
    """Both stages of one pass as functions of the picture."""
    return (
        functools.partial(blur, kernel=draw.kernel, size=size, platform=platform),
        functools.partial(
            add_noise, source=source, draw=draw.noise, size=size, platform=platform
        ),
    )


def _if(
    condition: jax.Array | bool, stage: Callable[[jax.Array], jax.Array], x: jax.Array
) -> jax.Array:
    return jax.lax.cond(condition, stage, lambda x: x, x)


def _degrade_one(
    key: jax.Array,
    hq_hwc: jax.Array,
    size_2: jax.Array,
    *,
    recipe: Recipe,
    scale: int,
    steps: tuple[float, ...] = CPU_STEPS,
    platform: Platform | None = None,
) -> jax.Array:
    hq_chw = jnp.moveaxis(hq_hwc, -1, 0)
    size = size_2[0], size_2[1]
    end = _divided(size, scale)
    if recipe.first is None:
        last = _reduced((hq_hwc.shape[0], hq_hwc.shape[1]), scale)
        lq_chw = resize.antialiased_bicubic(hq_chw, size, last, scale)
    else:
        parameters, *noise = (jax.random.fold_in(key, k) for k in range(3))
        draws = laws.sample(parameters, recipe)
        lq_chw = apply(
            hq_chw, size, draws, Fields(*noise), recipe, scale, steps, platform
        )
    lq_hwc = jnp.moveaxis(lq_chw, 0, -1)
    height, width = lq_hwc.shape[:2]
    valid = (jnp.arange(height) < end[0])[:, None] & (jnp.arange(width) < end[1])[None]
    levels = jnp.clip(jnp.round(lq_hwc * 255.0), 0.0, 255.0)
    return jnp.where(valid[..., None], levels / 255.0, 0.0)


def _scaled(size: Size, factor: jax.Array) -> Size:
    height, width = (jnp.maximum((n * factor).astype(jnp.int32), 1) for n in size)
    return height, width


def _divided(size: Size, scale: int) -> Size:
    return size[0] // scale, size[1] // scale


def _reduced(canvas: tuple[int, int], scale: int) -> tuple[int, int]:
    return -(-canvas[0] // scale), -(-canvas[1] // scale)


def _grown(canvas: tuple[int, int], factor: float) -> tuple[int, int]:
    """The canvas times `factor`, rounded up to multiples of 16."""
    height, width = (16 * math.ceil(n * factor / 16) for n in canvas)
    return height, width
