"""Filtering with a per-sample kernel, reflecting at the border of the picture.

CPU   Fourier product; a direct 21 x 21 convolution takes 25 times as long
TPU   a convolution along the height whose channels are 128 neighbours in a row,
      108 of which get a result: with one channel it would move twice the bytes;
      a Fourier transform compiles for minutes
GPU   one matrix product for squares of 8 x 16 pixels, each of which depends on a
      window of 4 x 3 of them; it stays one product when every sample of a batch
      has its own kernel
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gendr_jax.data.degrade.kernels import RADIUS, SUPPORT
from gendr_jax.data.degrade.resize import Length

# neighbours in a row, and how many of them are far enough from both ends
LANES = 128
OUT = LANES - 2 * RADIUS
# pixels of a square, as many as a matrix unit is wide, and squares of a window: enough
# for a square and SUPPORT - 1 pixels more
TALL, WIDE = 8, 16
WINDOW = (4, 3)


def blur(x_chw: jax.Array, kernel: jax.Array, size: tuple[Length, Length]) -> jax.Array:
    """Correlate every channel of the first `size` pixels with `kernel`.

    Args:
      kernel: [SUPPORT, SUPPORT]; with 1 in the middle it is the identity and the
        picture is left alone.

    Returns: the shape of `x_chw`; what lies outside `size` has no meaning.
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
            default=functools.partial(_blur_padded, correlate=_correlate_squares),
        ),
    )


def reflect_index(n: Length, first: int, count: int) -> jax.Array:
    """Which of n pixels each of `count` positions from `first` shows, by reflection.

    The edge pixel is not repeated (d c b | a b c d | c b a); positions further out
    than the picture is wide go on bouncing, and a single pixel is repeated.
    """
    period = jnp.maximum(2 * (jnp.asarray(n) - 1), 1)
    place = jnp.mod(jnp.arange(first, first + count), period)
    return jnp.where(n == 1, 0, jnp.minimum(place, period - place))


def _blur_fourier(
    x: jax.Array, kernel: jax.Array, height: jax.Array, width: jax.Array
) -> jax.Array:
    # reflected as far as the transform is long, which saves a copy
    rows, columns = (_smooth(n + 2 * RADIUS) for n in x.shape[1:])
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
    # as far as whole squares or whole groups of lanes reach
    tall = -(-rows // TALL) * TALL + 2 * RADIUS + -2 * RADIUS % TALL
    wide = max(-(-columns // OUT) * OUT, -(-columns // WIDE) * WIDE) + 2 * RADIUS
    wide += -wide % WIDE
    padded = _select_rows(x, reflect_index(height, -RADIUS, tall))
    padded = _select_columns(padded, reflect_index(width, -RADIUS, wide))
    return correlate(padded, kernel)[:, :rows, :columns]


def _take_rows(x: jax.Array, index: jax.Array) -> jax.Array:
    return jnp.take(x, index, axis=1, mode="clip")


def _take_columns(x: jax.Array, index: jax.Array) -> jax.Array:
    return jnp.take(x, index, axis=2, mode="clip")


def _select_rows(x: jax.Array, index: jax.Array) -> jax.Array:
    chosen = jax.nn.one_hot(index, x.shape[1], dtype=x.dtype)
    return jnp.einsum("oh,chw->cow", chosen, x, precision=jax.lax.Precision.HIGHEST)


def _select_columns(x: jax.Array, index: jax.Array) -> jax.Array:
    chosen = jax.nn.one_hot(index, x.shape[2], dtype=x.dtype)
    return jnp.einsum("pw,cow->cop", chosen, x, precision=jax.lax.Precision.HIGHEST)


def _correlate_lanes(padded: jax.Array, kernel: jax.Array) -> jax.Array:
    """Each group of LANES neighbours in a row gives OUT results."""
    channels, height, width = padded.shape
    groups = (width - 2 * RADIUS) // OUT
    x = [padded[:, :, k * OUT : k * OUT + LANES] for k in range(groups)]
    x = jnp.stack(x, 1).reshape(channels * groups, height, LANES)
    # [row of the kernel, lane, result]
    banded = jnp.einsum(
        "iqx,yx->yiq", _bands(LANES, OUT), kernel, precision=jax.lax.Precision.HIGHEST
    )
    y = jax.lax.conv_general_dilated(
        x,
        banded,
        window_strides=(1,),
        padding="VALID",
        dimension_numbers=("NHC", "HIO", "NHC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    y = y.reshape(channels, groups, -1, OUT)
    return jnp.concatenate([y[:, k] for k in range(groups)], 2)


def _correlate_squares(padded: jax.Array, kernel: jax.Array) -> jax.Array:
    """Each window of squares gives one square."""
    x = _to_squares(padded)
    rows, columns = (n - w + 1 for n, w in zip(x.shape[1:3], WINDOW, strict=True))
    seen = [
        x[:, a : a + rows, b : b + columns]
        for a in range(WINDOW[0])
        for b in range(WINDOW[1])
    ]
    seen = jnp.concatenate(seen, -1).reshape(-1, len(seen) * TALL * WIDE)
    banded = _banded(kernel).reshape(seen.shape[1], TALL * WIDE)
    y = jnp.matmul(seen, banded, precision=jax.lax.Precision.HIGHEST)
    return _from_squares(y.reshape(x.shape[0], rows, columns, TALL * WIDE))


def _bands(seen: int, made: int) -> jax.Array:
    """[seen, made, SUPPORT]: 1 where pixel i is tap x of result q: i = q + x."""
    bands = [np.eye(seen, SUPPORT, -q, dtype=np.float32) for q in range(made)]
    return jnp.asarray(np.stack(bands, 1))


def _to_squares(x_chw: jax.Array) -> jax.Array:
    channels, height, width = x_chw.shape
    x = x_chw.reshape(channels, height // TALL, TALL, width // WIDE, WIDE)
    return x.transpose(0, 1, 3, 2, 4).reshape(
        channels, height // TALL, width // WIDE, TALL * WIDE
    )


def _from_squares(x: jax.Array) -> jax.Array:
    channels, rows, columns, _ = x.shape
    x = x.reshape(channels, rows, columns, TALL, WIDE).transpose(0, 1, 3, 2, 4)
    return x.reshape(channels, rows * TALL, columns * WIDE)


def _banded(kernel: jax.Array) -> jax.Array:
    """What each pixel of a window gives to each of a square, [*WINDOW, 128, 128]."""
    down, across = _bands(TALL * WINDOW[0], TALL), _bands(WIDE * WINDOW[1], WIDE)
    highest = jax.lax.Precision.HIGHEST
    x = jnp.einsum("ipy,yx->ipx", down, kernel, precision=highest)
    x = jnp.einsum("ipx,jqx->ijpq", x, across, precision=highest)
    x = x.reshape(WINDOW[0], TALL, WINDOW[1], WIDE, TALL * WIDE)
    return x.transpose(0, 2, 1, 3, 4).reshape(*WINDOW, TALL * WIDE, TALL * WIDE)


def _correlate_fourier(padded: jax.Array, kernel: jax.Array) -> jax.Array:
    height, width = padded.shape[1:]
    # Only outputs whose whole window is inside are kept, so nothing wraps around.
    shape = (_smooth(height), _smooth(width))
    spectrum = jnp.fft.rfft2(padded, shape)
    response = jnp.conj(jnp.fft.rfft2(kernel, shape))[None]
    y = jnp.fft.irfft2(spectrum * response, shape)
    return y[:, : height - SUPPORT + 1, : width - SUPPORT + 1]


def _smooth(n: int) -> int:
    """The first even length from n on with no prime factor above 5."""
    n += n % 2
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 2
