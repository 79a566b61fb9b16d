"""Resizing by two matrix products, equal to PyTorch's `interpolate`.

`jax.image.resize` is not used: its ratio comes from the rounded sizes and its cubic
differs (25-39 dB from the reference).

A picture of n pixels occupies the start of a longer axis, the canvas; row i < n_out of
a matrix has the weights of output pixel i and every later row is zero. Tap positions
are rounded to float32, as in PyTorch; with r the step between outputs,

    area      mean over [floor(i n_in / n_out), ceil((i + 1) n_in / n_out))
    bilinear  at r (i + 1/2) - 1/2, not below 0, last pixel repeated
    bicubic   the same without the lower bound, a = -3/4, edge pixels repeated
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

AREA, BILINEAR, BICUBIC = 0, 1, 2
MODES = ("area", "bilinear", "bicubic")

# Output rows that share one window of input rows (on a CPU).
BLOCK_ROWS = 16

# A length: an int when it is known at compile time, a traced scalar otherwise.
Length = int | jax.Array


class Axis(NamedTuple):
    """How one axis is resampled.

    n_in, n_out: pixels in use on either side. step: distance between outputs in input
    pixels, used by bilinear and bicubic; PyTorch takes n_in / n_out when called with
    a size, 1 / factor with a factor.
    """

    mode: jax.Array
    n_in: jax.Array
    n_out: jax.Array
    step: jax.Array


def weights(axis: Axis, row: jax.Array, column: jax.Array) -> jax.Array:
    """Weight of input pixel `column` in output pixel `row`; their shapes broadcast."""
    last = axis.n_in - 1
    start, stop = _area(axis, row)
    area = ((column >= start) & (column < stop)) / (stop - start).astype(jnp.float32)

    centre = _position(axis.step, row)
    clamped = jnp.clip(centre, 0.0, last.astype(jnp.float32))
    bilinear = jnp.maximum(0.0, 1.0 - jnp.abs(column - clamped))

    value = jnp.where(axis.mode == AREA, area, bilinear)
    value = jnp.where(axis.mode == BICUBIC, _bicubic(centre, column, last), value)
    return jnp.where(row < axis.n_out, value, 0.0)


def matrix(axis: Axis, canvas_in: int, canvas_out: int) -> jax.Array:
    """Weights [canvas_out, canvas_in] of one axis."""
    row = jnp.arange(canvas_out)[:, None]
    return weights(axis, row, jnp.arange(canvas_in)[None, :])


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
    reduction: float = 3.0,
) -> jax.Array:
    """The picture in the first `size_in` pixels, resized to `size_out` on a canvas.

    Args:
      factor: PyTorch's `scale_factor=`, or None for a call with `size=`.
      reduction: expected n_in / n_out at most; larger ones are slower on a CPU.

    Returns: [c, *canvas_out], zero outside size_out.
    """
    n_in, n_out = ([jnp.asarray(n) for n in size] for size in (size_in, size_out))
    if factor is None:
        steps = [
            a.astype(jnp.float32) / b.astype(jnp.float32)
            for a, b in zip(n_in, n_out, strict=True)
        ]
    else:
        # PyTorch copies instead of interpolating where bilinear keeps both sizes.
        same = (n_in[0] == n_out[0]) & (n_in[1] == n_out[1])
        step = jnp.where(same & (mode == BILINEAR), 1.0, 1.0 / factor)
        steps = [step, step]
    axes = [Axis(jnp.asarray(mode), n_in[k], n_out[k], steps[k]) for k in (0, 1)]
    return jax.lax.platform_dependent(
        x_chw,
        *axes,
        cpu=functools.partial(_in_windows, canvas=canvas_out, reduction=reduction),
        default=functools.partial(_dense, canvas=canvas_out),
    )


def _dense(
    x_chw: jax.Array, rows: Axis, columns: Axis, canvas: tuple[int, int]
) -> jax.Array:
    _, height, width = x_chw.shape
    return apply(
        x_chw, matrix(rows, height, canvas[0]), matrix(columns, width, canvas[1])
    )


def _in_windows(
    x_chw: jax.Array,
    rows: Axis,
    columns: Axis,
    canvas: tuple[int, int],
    reduction: float,
) -> jax.Array:
    """`_dense` without multiplying by most of the zeros of the matrices."""
    for axis, n_out in ((rows, canvas[0]), (columns, canvas[1])):
        # Transposed after each pass: the second one resamples the columns as rows.
        x_chw = jnp.swapaxes(_rows_in_windows(x_chw, axis, n_out, reduction), 1, 2)
    return x_chw


def _rows_in_windows(
    x_chw: jax.Array, axis: Axis, canvas_out: int, reduction: float
) -> jax.Array:
    """Resample the height: each block of output rows from one window of input rows.

    Windows have a static length, so a draw that reduces more than `reduction` does not
    fit them; then the dense matrix is used.
    """
    _, canvas_in, width = x_chw.shape
    block_rows = BLOCK_ROWS if reduction > 2 else 2 * BLOCK_ROWS
    span = math.ceil(block_rows * reduction) + 6
    blocks = -(-canvas_out // block_rows)
    dense = lambda x: jnp.einsum(  # noqa: E731
        "oh,chw->cow", matrix(axis, canvas_in, canvas_out), x, precision="highest"
    )
    if 2 * span > canvas_in:
        return dense(x_chw)
    first = jnp.arange(blocks) * block_rows
    start, _ = _taps(axis, first)
    _, stop = _taps(axis, jnp.minimum(first + block_rows, axis.n_out) - 1)
    start = jnp.clip(start, 0, canvas_in - span)
    fits = jnp.minimum(stop, axis.n_in) - start <= span

    def windows(x: jax.Array) -> jax.Array:
        row = (first[:, None] + jnp.arange(block_rows)[None])[:, :, None]
        column = (start[:, None] + jnp.arange(span)[None])[:, None, :]
        block_weights = jnp.broadcast_to(
            weights(axis, row, column), (x.shape[0], blocks, block_rows, span)
        )
        x = jnp.take(x, column[:, 0], axis=1, mode="clip")
        x = jnp.matmul(block_weights, x, precision="highest")
        return x.reshape(x.shape[0], blocks * block_rows, width)[:, :canvas_out]

    return jax.lax.cond(jnp.all(fits | (first >= axis.n_out)), windows, dense, x_chw)


def _taps(axis: Axis, row: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(first, last + 1) of the input pixels that an output pixel depends on."""
    near = jnp.floor(_position(axis.step, row)).astype(jnp.int32)
    start, stop = _area(axis, row)
    is_area = axis.mode == AREA
    return jnp.where(is_area, start, near - 1), jnp.where(is_area, stop, near + 3)


def _area(axis: Axis, row: jax.Array) -> tuple[jax.Array, jax.Array]:
    start = (row * axis.n_in) // axis.n_out
    return start, -((-(row + 1) * axis.n_in) // axis.n_out)


def antialiased_bicubic(
    x_chw: jax.Array,
    size_in: tuple[Length, Length],
    canvas_out: tuple[int, int],
    scale: int,
) -> jax.Array:
    """Reduction by an integer `scale`, as MATLAB's imresize and Pillow do it.

    Keys' cubic with a = -1/2 stretched by `scale`; weights outside the picture are
    dropped and the others renormalised. Zero outside size_in // scale.
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
    # in units of the output pixel; integers up to the division, hence exact
    distance = (2 * column + 1 - scale * (2 * row + 1)) / jnp.float32(2 * scale)
    weights = jnp.where(column < n_in, _cubic(distance, -0.5), 0.0)
    weights = jnp.where(row < n_in // scale, weights, 0.0)
    total = jnp.sum(weights, axis=1, keepdims=True)
    return weights / jnp.where(total == 0, 1.0, total)


def _position(step: jax.Array, row: jax.Array) -> jax.Array:
    """step (row + 1/2) - 1/2, rounded once at the end, as in PyTorch's fused kernels.

    The step is split into its upper 12 bits, whose product with row + 1/2 is exact in
    float32, and a remainder. Otherwise whether the compiler fuses the multiply-add
    would move the taps by 1e-5 pixels.
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
