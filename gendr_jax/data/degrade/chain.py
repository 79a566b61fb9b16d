"""The stages in their order, on canvases of fixed size.

What lives here: the chain of one sample and its batched, jitted form. A picture of
changing size sits at the start of a canvas that is large enough for every draw, so
one compiled program serves all draws; each stage is told the size in use and returns
something meaningless beyond it. `Canvases` is the one place that chooses how large.

    sharpen? -> blur -> resize -> noise -> JPEG
    -> blur? -> resize -> noise
    -> JPEG -> resize to the end -> sinc?      or, by a fair coin,
    -> resize to the end -> sinc? -> JPEG
    -> round to 8-bit levels
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gendr_jax.data.degrade import draws as laws
from gendr_jax.data.degrade import resize
from gendr_jax.data.degrade.blur import blur
from gendr_jax.data.degrade.draws import Draws
from gendr_jax.data.degrade.jpeg import jpeg
from gendr_jax.data.degrade.noise import add_noise
from gendr_jax.data.degrade.recipe import Recipe
from gendr_jax.data.degrade.resize import Length
from gendr_jax.data.degrade.unsharp import sharpen

Size = tuple[Length, Length]


class Canvases(NamedTuple):
    """Height and width of the array that holds the picture after each resize."""

    first: tuple[int, int]
    second: tuple[int, int]
    last: tuple[int, int]


class Fields(NamedTuple):
    """Standard normals for the noise of the first and of the second pass, chw."""

    first: jax.Array
    second: jax.Array


def canvases(recipe: Recipe, hq: tuple[int, int], scale: int) -> Canvases:
    """The smallest canvases that hold every draw of the recipe, in whole 16s."""
    last = tuple(-(-n // scale) for n in hq)
    first = tuple(_whole16(n * recipe.first.resize[1]) for n in hq)
    second = tuple(_whole16(n * recipe.second.resize[1]) for n in last)
    if recipe.second_prob < 1:
        # without its second pass a picture stays as large as the first left it
        second = tuple(max(a, b) for a, b in zip(first, second, strict=True))
    return Canvases(first, second, last)


@functools.partial(jax.jit, static_argnames=("recipe", "scale"))
def degrade(
    keys_b: jax.Array,
    hq_bhwc: jax.Array,
    recipe: Recipe,
    scale: int = 4,
    sizes_b2: jax.Array | None = None,
) -> jax.Array:
    """Low-quality pictures of high-quality ones, each by its own key alone.

    Args:
      keys_b: one typed key a sample, see `sample_keys`.
      hq_bhwc: float32 RGB in [0, 1].
      recipe: see `recipe.recipe`; static.
      scale: how many times smaller the result is; static.
      sizes_b2: height and width in use of each picture, multiples of `scale`, where
        they are smaller than the array; None: the whole array.

    Returns: float32 [b, ceil(h / scale), ceil(w / scale), 3] in [0, 1] at whole 8-bit
      levels, zero outside size / scale.
    """
    one = functools.partial(_degrade_one, recipe=recipe, scale=scale)
    if sizes_b2 is None:
        height, width = hq_bhwc.shape[1:3]
        assert height % scale == 0 and width % scale == 0, (hq_bhwc.shape, scale)
        lq_bhwc = jax.vmap(lambda k, x: one(k, x, (height, width)))(keys_b, hq_bhwc)
    else:
        lq_bhwc = jax.vmap(lambda k, x, n: one(k, x, (n[0], n[1])))(
            keys_b, hq_bhwc, sizes_b2
        )
    return jax.lax.stop_gradient(lq_bhwc)


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
) -> jax.Array:
    """The chain with every random number given; result chw, not yet rounded."""
    canvas = canvases(recipe, hq_chw.shape[1:], scale)
    x = sharpen(hq_chw, size) if recipe.sharpen else hq_chw
    end = tuple(n // scale for n in size)
    first, second = draws.first, draws.second

    x = blur(x, first.kernel, size)
    grown = _scaled(size, first.factor)
    x = resize.resize(x, first.mode, size, grown, canvas.first, first.factor)
    x = add_noise(x, fields.first, first.noise, grown)
    x = jpeg(x, first.quality, grown)

    y = blur(x, second.kernel, grown)
    small = _scaled(end, second.factor)
    y = resize.resize(y, second.mode, grown, small, canvas.second)
    y = add_noise(y, fields.second, second.noise, small)
    if recipe.second_prob < 1:
        x = _fit(x, canvas.second)
        y = jnp.where(draws.has_second, y, x)
        small = tuple(
            jnp.where(draws.has_second, a, b) for a, b in zip(small, grown, strict=True)
        )
    return _finish(y, small, end, canvas.last, draws)


def _finish(
    x: jax.Array, size: Size, end: Size, canvas: tuple[int, int], draws: Draws
) -> jax.Array:
    """JPEG before or after the last resize and sinc filter, by the coin."""
    quality = draws.second.quality
    x = jnp.where(draws.jpeg_last, x, jpeg(x, quality, size))
    x = resize.resize(x, draws.last_mode, size, end, canvas)
    x = blur(x, draws.sinc, end)
    return jnp.where(draws.jpeg_last, jpeg(x, quality, end), x)


def _degrade_one(
    key: jax.Array, hq_hwc: jax.Array, size: Size, *, recipe: Recipe, scale: int
) -> jax.Array:
    hq_chw = jnp.moveaxis(hq_hwc, -1, 0)
    end = tuple(n // scale for n in size)
    if recipe.first is None:
        last = tuple(-(-n // scale) for n in hq_hwc.shape[:2])
        lq_chw = resize.antialiased_bicubic(hq_chw, size, last, scale)
    else:
        canvas = canvases(recipe, hq_hwc.shape[:2], scale)
        parameters, first, second = (jax.random.fold_in(key, k) for k in range(3))
        fields = Fields(
            jax.random.normal(first, (3, *canvas.first)),
            jax.random.normal(second, (3, *canvas.second)),
        )
        draws = laws.sample(parameters, recipe)
        lq_chw = apply(hq_chw, size, draws, fields, recipe, scale)
    lq_hwc = jnp.moveaxis(lq_chw, 0, -1)
    height, width = lq_hwc.shape[:2]
    valid = (jnp.arange(height) < end[0])[:, None] & (jnp.arange(width) < end[1])[None]
    levels = jnp.clip(jnp.round(lq_hwc * 255.0), 0.0, 255.0)
    return jnp.where(valid[..., None], levels / 255.0, 0.0)


def _scaled(size: Size, factor: jax.Array) -> Size:
    return tuple(jnp.maximum((n * factor).astype(jnp.int32), 1) for n in size)


def _whole16(n: float) -> int:
    return 16 * math.ceil(n / 16)


def _fit(x_chw: jax.Array, canvas: tuple[int, int]) -> jax.Array:
    """Zeros added at the end of both axes; `canvas` is at least as large."""
    _, height, width = x_chw.shape
    return jnp.pad(x_chw, ((0, 0), (0, canvas[0] - height), (0, canvas[1] - width)))
