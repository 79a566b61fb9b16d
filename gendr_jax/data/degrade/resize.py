"""Resizing as two small matrix products, equal to PyTorch's `interpolate`.

What lives here: dense resampling matrices whose sizes may be traced values, so that
one compiled program serves every factor. `jax.image.resize` is not used: its ratio
comes from the rounded sizes and its cubic differs (25-39 dB from the reference).

A picture of n pixels sits at the start of a longer axis, the canvas; row i < n_out of
a matrix holds the weights of output pixel i and every later row is zero. Tap
positions are rounded to float32, as in PyTorch; with r the step between outputs,

    area      mean over [floor(i n_in / n_out), ceil((i + 1) n_in / n_out))
    bilinear  at r (i + 1/2) - 1/2, not below 0, last pixel repeated
    bicubic   the same without the lower bound, a = -3/4, edge pixels repeated
"""

import jax
import jax.numpy as jnp

AREA, BILINEAR, BICUBIC = 0, 1, 2
MODES = ("area", "bilinear", "bicubic")

# A length: an int when it is known at compile time, a traced scalar otherwise.
Length = int | jax.Array


def matrix(
    mode: jax.Array,
    n_in: Length,
    n_out: Length,
    canvas_in: int,
    canvas_out: int,
    step: jax.Array,
) -> jax.Array:
    """Weights [canvas_out, canvas_in] of one axis.

    Args:
      mode: int scalar, AREA, BILINEAR or BICUBIC.
      n_in, n_out: pixels in use on either side.
      step: distance between outputs in input pixels, used by bilinear and bicubic.
        PyTorch takes n_in / n_out when called with a size, 1 / factor with a factor.
    """
    row = jnp.arange(canvas_out)[:, None]
    column = jnp.arange(canvas_in)[None, :]
    last = jnp.asarray(n_in) - 1

    start = (row * n_in) // n_out
    stop = -((-(row + 1) * n_in) // n_out)
    area = ((column >= start) & (column < stop)) / (stop - start).astype(jnp.float32)

    centre = _position(step, row)
    at = jnp.clip(centre, 0.0, last.astype(jnp.float32))
    bilinear = jnp.maximum(0.0, 1.0 - jnp.abs(column - at))

    weights = jnp.where(mode == AREA, area, bilinear)
    weights = jnp.where(mode == BICUBIC, _bicubic(centre, column, last), weights)
    return jnp.where(row < n_out, weights, 0.0)


def apply(x_chw: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Resample the height by `rows` and the width by `columns` (see `matrix`)."""
    highest = jax.lax.Precision.HIGHEST
    x = jnp.einsum("oh,chw->cow", rows, x_chw, precision=highest)
    return jnp.einsum("pw,cow->cop", columns, x, precision=highest)


def resize(
    x_chw: jax.Array,
    mode: jax.Array,
    size_in: tuple[Length, Length],
    size_out: tuple[Length, Length],
    canvas_out: tuple[int, int],
    factor: jax.Array | None = None,
) -> jax.Array:
    """The picture in the first `size_in` pixels, resized to `size_out` on a canvas.

    Args:
      factor: how PyTorch was called: None for `size=`, else its `scale_factor=`.

    Returns: [c, *canvas_out], zero outside size_out.
    """
    if factor is None:
        steps = [
            jnp.float32(a) / jnp.float32(b)
            for a, b in zip(size_in, size_out, strict=True)
        ]
    else:
        # PyTorch copies instead of interpolating where bilinear keeps both sizes.
        same = (size_in[0] == size_out[0]) & (size_in[1] == size_out[1])
        step = jnp.where(same & (mode == BILINEAR), 1.0, 1.0 / factor)
        steps = [step, step]
    rows, columns = (
        matrix(
            mode, size_in[k], size_out[k], x_chw.shape[k + 1], canvas_out[k], steps[k]
        )
        for k in (0, 1)
    )
    return apply(x_chw, rows, columns)


def antialiased_bicubic(
    x_chw: jax.Array,
    size_in: tuple[Length, Length],
    canvas_out: tuple[int, int],
    scale: int,
) -> jax.Array:
    """Reduction by a whole `scale` as MATLAB's imresize and Pillow do it.

    Keys' cubic with a = -1/2 stretched by `scale`, weights that fall outside the
    picture dropped and the rest renormalised. Zero outside size_in // scale.
    """
    rows, columns = (
        _antialiased_matrix(size_in[k], x_chw.shape[k + 1], canvas_out[k], scale)
        for k in (0, 1)
    )
    return apply(x_chw, rows, columns)


def _antialiased_matrix(
    n_in: Length, canvas_in: int, canvas_out: int, scale: int
) -> jax.Array:
    row = jnp.arange(canvas_out)[:, None]
    column = jnp.arange(canvas_in)[None, :]
    # in units of the output pixel; whole numbers up to the division, hence exact
    distance = (2 * column + 1 - scale * (2 * row + 1)) / jnp.float32(2 * scale)
    weights = jnp.where(column < n_in, _cubic(distance, -0.5), 0.0)
    weights = jnp.where(row < n_in // scale, weights, 0.0)
    total = jnp.sum(weights, axis=1, keepdims=True)
    return weights / jnp.where(total == 0, 1.0, total)


def _position(step: jax.Array, row: jax.Array) -> jax.Array:
    """step (row + 1/2) - 1/2 with one rounding, the last, as PyTorch's fused kernels.

    The first 12 bits of the step times a whole number of halves are exact. Without
    this a compiler that fuses, or does not, moves the taps by 1e-5 pixels.
    """
    bits = jax.lax.bitcast_convert_type(jnp.asarray(step, jnp.float32), jnp.uint32)
    coarse = jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFFF000), jnp.float32)
    half = row.astype(jnp.float32) + 0.5
    return (coarse * half - 0.5) + (step - coarse) * half


def _bicubic(centre: jax.Array, column: jax.Array, last: jax.Array) -> jax.Array:
    first = jnp.floor(centre)
    fraction = centre - first
    weights = jnp.zeros((), jnp.float32)
    for tap in (-1, 0, 1, 2):
        position = jnp.clip(first.astype(jnp.int32) + tap, 0, last)
        weight = _cubic(fraction - tap, -0.75)
        weights = weights + jnp.where(column == position, weight, 0.0)
    return weights


def _cubic(x: jax.Array, a: float) -> jax.Array:
    """Keys' cubic convolution kernel with slope parameter `a`."""
    x = jnp.abs(x)
    inner = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    outer = ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    return jnp.where(x <= 1.0, inner, jnp.where(x < 2.0, outer, 0.0))
