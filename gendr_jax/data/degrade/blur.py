"""Blur by a kernel of each sample's own, reflecting at the border of the picture.

CPU   FFT; a direct 21 x 21 convolution takes 25 times as long
TPU   a convolution along the height whose channels are 128 neighbours in a row,
      108 of which are outputs: with one channel it would move twice the bytes; an
      FFT takes minutes to compile
GPU   one matrix product for blocks of 8 x 16 pixels, each of which depends on a
      window of 4 x 3 blocks; it stays one product when every sample of a batch
      has its own kernel
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gendr_jax.data.degrade.kernels import RADIUS, SUPPORT
from gendr_jax.data.degrade.resize import Length

# inputs along a row, and the outputs among them: those RADIUS or more from both ends
LANES = 128
LANES_OUT = LANES - 2 * RADIUS
# pixels of a block, as many as a matrix unit is wide, and blocks of a window: enough to
# cover a block and SUPPORT - 1 pixels more
BLOCK_ROWS, BLOCK_COLUMNS = 8, 16
WINDOW = (4, 3)


def blur(x_chw: jax.Array, kernel: jax.Array, size: tuple[Length, Length]) -> jax.Array:
    """Correlate every channel of the first `size` pixels with `kernel`.

    Args:
      kernel: [SUPPORT, SUPPORT]; 1 in the middle means the identity, which is skipped.

    Returns: the shape of `x_chw`; pixels outside `size` are undefined.
    """
    return jax.lax.cond(
        kernel[RADIUS, RADIUS] == 1.0,
        lambda: x_chw,
        lambda: jax.lax.platform_dependent(
            x_chw,
            kernel,
            jnp.asarray(size[0]),
            jnp.asarray(size[1]),
            cpu=_blur_fourier,
            tpu=functools.partial(_blur_padded, correlate=_correlate_lanes),
            default=functools.partial(_blur_padded, correlate=_correlate_blocks),
        ),
    )


def reflect_index(n: Length, first: int, count: int) -> jax.Array:
    """Index in 0..n-1 of each of `count` positions from `first` on, by reflection.

    The edge pixel is not repeated (d c b | a b c d | c b a). Positions beyond the first
    reflection are reflected again; a single pixel is repeated.
    """
    period = jnp.maximum(2 * (jnp.asarray(n) - 1), 1)
    position = jnp.mod(jnp.arange(first, first + count), period)
    return jnp.where(n == 1, 0, jnp.minimum(position, period - position))


def _blur_fourier(
    x: jax.Array, kernel: jax.Array, height: jax.Array, width: jax.Array
) -> jax.Array:
    # padded to the length of the transform at once, which saves a copy
    rows, columns = (_fft_length(n + 2 * RADIUS) for n in x.shape[1:])
    padded = _take_rows(x, reflect_index(height, -RADIUS, rows))
    padded = _take_columns(padded, reflect_index(width, -RADIUS, columns))
    return _correlate_fourier(padded, kernel)[:, : x.shape[1], : x.shape[2]]


def _blur_padded(
    x: jax.Array,
    kernel: jax.Array,
    height: jax.Array,
    width: jax.Array,
    correlate: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    # gathers are slow on a TPU, matrix products are slow on a CPU
    _, rows, columns = x.shape
    # padded to multiples of the blocks, and columns also of the groups of lanes
    padded_rows = (
        -(-rows // BLOCK_ROWS) * BLOCK_ROWS + 2 * RADIUS + -2 * RADIUS % BLOCK_ROWS
    )
    padded_columns = (
        max(
            -(-columns // LANES_OUT) * LANES_OUT,
            -(-columns // BLOCK_COLUMNS) * BLOCK_COLUMNS,
        )
        + 2 * RADIUS
    )
    padded_columns += -padded_columns % BLOCK_COLUMNS
    padded = _select_rows(x, reflect_index(height, -RADIUS, padded_rows))
    padded = _select_columns(padded, reflect_index(width, -RADIUS, padded_columns))
    return correlate(padded, kernel)[:, :rows, :columns]


def _take_rows(x: jax.Array, index: jax.Array) -> jax.Array:
    return jnp.take(x, index, axis=1, mode="clip")


def _take_columns(x: jax.Array, index: jax.Array) -> jax.Array:
    return jnp.take(x, index, axis=2, mode="clip")


def _select_rows(x: jax.Array, index: jax.Array) -> jax.Array:
    selection = jax.nn.one_hot(index, x.shape[1], dtype=x.dtype)
    return jnp.einsum("oh,chw->cow", selection, x, precision=jax.lax.Precision.HIGHEST)


def _select_columns(x: jax.Array, index: jax.Array) -> jax.Array:
    selection = jax.nn.one_hot(index, x.shape[2], dtype=x.dtype)
    return jnp.einsum("pw,cow->cop", selection, x, precision=jax.lax.Precision.HIGHEST)


def _correlate_lanes(padded: jax.Array, kernel: jax.Array) -> jax.Array:
    """By a banded matrix along rows: LANES inputs of a row give OUT outputs."""
    channels, height, width = padded.shape
    groups = (width - 2 * RADIUS) // LANES_OUT
    x = [padded[:, :, k * LANES_OUT : k * LANES_OUT + LANES] for k in range(groups)]
    x = jnp.stack(x, 1).reshape(channels * groups, height, LANES)
    # [row of the kernel, input lane, output]
    banded = jnp.einsum(
        "iqx,yx->yiq",
        _bands(LANES, LANES_OUT),
        kernel,
        precision=jax.lax.Precision.HIGHEST,
    )
    y = jax.lax.conv_general_dilated(
        x,
        banded,
        window_strides=(1,),
        padding="VALID",
        dimension_numbers=("NHC", "HIO", "NHC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    y = y.reshape(channels, groups, -1, LANES_OUT)
    return jnp.concatenate([y[:, k] for k in range(groups)], 2)


def _correlate_blocks(padded: jax.Array, kernel: jax.Array) -> jax.Array:
    """By one matrix product: each window of blocks gives one block."""
    x = _to_blocks(padded)
    rows, columns = (n - w + 1 for n, w in zip(x.shape[1:3], WINDOW, strict=True))
    windows = [
        x[:, a : a + rows, b : b + columns]
        for a in range(WINDOW[0])
        for b in range(WINDOW[1])
    ]
    windows = jnp.concatenate(windows, -1).reshape(
        -1, len(windows) * BLOCK_ROWS * BLOCK_COLUMNS
    )
    banded = _banded(kernel).reshape(windows.shape[1], BLOCK_ROWS * BLOCK_COLUMNS)
    y = jnp.matmul(windows, banded, precision=jax.lax.Precision.HIGHEST)
    return _from_blocks(
        y.reshape(x.shape[0], rows, columns, BLOCK_ROWS * BLOCK_COLUMNS)
    )


def _bands(n_in: int, n_out: int) -> jax.Array:
    """[n_in, n_out, SUPPORT]: 1 where input i is tap x of output q: i = q + x."""
    bands = [np.eye(n_in, SUPPORT, -q, dtype=np.float32) for q in range(n_out)]
    return jnp.asarray(np.stack(bands, 1))


def _to_blocks(x_chw: jax.Array) -> jax.Array:
    channels, height, width = x_chw.shape
    x = x_chw.reshape(
        channels,
        height // BLOCK_ROWS,
        BLOCK_ROWS,
        width // BLOCK_COLUMNS,
        BLOCK_COLUMNS,
    )
    return x.transpose(0, 1, 3, 2, 4).reshape(
        channels,
        height // BLOCK_ROWS,
        width // BLOCK_COLUMNS,
        BLOCK_ROWS * BLOCK_COLUMNS,
    )


def _from_blocks(x: jax.Array) -> jax.Array:
    channels, rows, columns, _ = x.shape
    x = x.reshape(channels, rows, columns, BLOCK_ROWS, BLOCK_COLUMNS).transpose(
        0, 1, 3, 2, 4
    )
    return x.reshape(channels, rows * BLOCK_ROWS, columns * BLOCK_COLUMNS)


def _banded(kernel: jax.Array) -> jax.Array:
    """Weight of each window pixel in each block pixel, [*WINDOW, 128, 128]."""
    row_bands, column_bands = (
        _bands(BLOCK_ROWS * WINDOW[0], BLOCK_ROWS),
        _bands(BLOCK_COLUMNS * WINDOW[1], BLOCK_COLUMNS),
    )
    highest = jax.lax.Precision.HIGHEST
    x = jnp.einsum("ipy,yx->ipx", row_bands, kernel, precision=highest)
    x = jnp.einsum("ipx,jqx->ijpq", x, column_bands, precision=highest)
    x = x.reshape(
        WINDOW[0], BLOCK_ROWS, WINDOW[1], BLOCK_COLUMNS, BLOCK_ROWS * BLOCK_COLUMNS
    )
    return x.transpose(0, 2, 1, 3, 4).reshape(
        *WINDOW, BLOCK_ROWS * BLOCK_COLUMNS, BLOCK_ROWS * BLOCK_COLUMNS
    )


def _correlate_fourier(padded: jax.Array, kernel: jax.Array) -> jax.Array:
    height, width = padded.shape[1:]
    # The product is a circular correlation; the outputs that wrap around are cut off.
    shape = (_fft_length(height), _fft_length(width))
    spectrum = jnp.fft.rfft2(padded, shape)
    response = jnp.conj(jnp.fft.rfft2(kernel, shape))[None]
    y = jnp.fft.irfft2(spectrum * response, shape)
    return y[:, : height - SUPPORT + 1, : width - SUPPORT + 1]


def _fft_length(n: int) -> int:
    """The smallest even length >= n without prime factors above 5: fast for FFTs."""
    n += n % 2
    while True:
        quotient = n
        for prime in (2, 3, 5):
            while quotient % prime == 0:
                quotient //= prime
        if quotient == 1:
            return n
        n += 2
