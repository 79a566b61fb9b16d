"""Gaussian and shot noise from one field of standard normals.

Poisson counts are computed from normals (second-order Cornish-Fisher, rounded): within
0.01 of the Poisson distribution in total variation for a mean of 1, closer for larger
means. `jax.random.poisson` takes 50 times as long and has an unbounded loop.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gendr_jax.data.degrade.fields import normals
from gendr_jax.data.degrade.resize import Length

LUMA = (0.2989, 0.587, 0.114)
# Levels are counted in every 8th row first.
ROW_STEP = 8


class NoiseDraw(NamedTuple):
    """Random scalars of one sample. gaussian_sigma is relative to the range [0, 1]."""

    is_gaussian: jax.Array
    is_gray: jax.Array
    gaussian_sigma: jax.Array
    poisson_scale: jax.Array


def poisson(mean: jax.Array, normal: jax.Array) -> jax.Array:
    """Poisson counts (as floats) of that mean, one for each standard normal.

    X = floor(m + sqrt(m) z + (z^2 - 1)/6 - (z^3 - z)/(72 sqrt(m)) + 1/2), at least 0.
    """
    root = jnp.sqrt(mean)
    square = jnp.square(normal)
    skew = (square - 1.0) / 6.0
    tail = (square - 1.0) * normal / (72.0 * jnp.maximum(root, 1e-6))
    count = jnp.floor(mean + root * normal + skew - tail + 0.5)
    return jnp.where(mean > 0, jnp.maximum(count, 0.0), 0.0)


def shot_levels(levels_chw: jax.Array, valid_hw: jax.Array) -> jax.Array:
    """2^ceil(log2(number of distinct 8-bit levels)) over all valid pixels."""
    level = jnp.where(valid_hw[None], levels_chw.astype(jnp.int32), 256)
    # A sample of rows of a photograph has more than 128 levels: then the result is 256.
    sampled_count = _count(level[:, ::ROW_STEP])
    count = jax.lax.cond(
        sampled_count > 128, lambda: sampled_count, lambda: _count(level)
    )
    powers = 2 ** jnp.arange(9)
    return jnp.min(jnp.where(powers >= count, powers, 256)).astype(jnp.float32)


def _count(level: jax.Array) -> jax.Array:
    return jax.lax.platform_dependent(
        level, cpu=_count_by_scatter, default=_count_by_bits
    )


def _count_by_scatter(level: jax.Array) -> jax.Array:
    """How many of the levels 0..255 occur; 256 stands for no pixel."""
    seen = jnp.zeros(257, jnp.int32).at[level.reshape(-1)].set(1)
    return jnp.sum(seen[:256])


def _count_by_bits(level: jax.Array) -> jax.Array:
    """The same by bit masks, eight 32-bit words: accelerators scatter slowly."""
    bit = jnp.uint32(1) << (level & 31).astype(jnp.uint32)
    word = level >> 5
    count = jnp.int32(0)
    for k in range(8):
        seen = jax.lax.reduce(
            jnp.where(word == k, bit, jnp.uint32(0)),
            jnp.uint32(0),
            jax.lax.bitwise_or,
            (0, 1, 2),
        )
        count = count + jax.lax.population_count(seen).astype(jnp.int32)
    return count


def add_noise(
    x_chw: jax.Array,
    source: jax.Array,
    draw: NoiseDraw,
    size: tuple[Length, Length],
) -> jax.Array:
    """Add Gaussian or Poisson noise, gray or coloured, and clip to [0, 1].

    The shot noise of Real-ESRGAN: with b the picture (its luma for gray noise) at
    8-bit levels and V as in `shot_levels`, x + scale * (Poisson(b V) / V - b).

    Args:
      source: the normals, chw, or the key that `fields.normals` draws them from.
    """
    _, height, width = x_chw.shape
    rows, columns = jnp.arange(height), jnp.arange(width)
    valid = (rows < size[0])[:, None] & (columns < size[1])[None]

    def noise(base_chw: jax.Array) -> jax.Array:
        normal = normals(source, base_chw.shape[0], (height, width))
        return jax.lax.cond(
            draw.is_gaussian,
            lambda: draw.gaussian_sigma * normal,
            lambda: draw.poisson_scale * _shot(base_chw, normal, valid),
        )

    def luma() -> jax.Array:
        terms = (weight * x_chw[k] for k, weight in enumerate(LUMA))
        return sum(terms, start=jnp.float32(0.0))[None]

    return jax.lax.cond(
        draw.is_gray,
        lambda: jnp.clip(x_chw + noise(luma()), 0.0, 1.0),
        lambda: jnp.clip(x_chw + noise(x_chw), 0.0, 1.0),
    )


def _shot(base_chw: jax.Array, normal: jax.Array, valid_hw: jax.Array) -> jax.Array:
    levels = jnp.clip(jnp.round(base_chw * 255.0), 0.0, 255.0)
    v = shot_levels(levels, valid_hw)
    base = levels / 255.0
    return poisson(base * v, normal) / v - base
