"""Filtering with a per-sample kernel, reflecting at the border of the picture.

What lives here: padding by reflection when the size is a traced value, and the
correlation, which is a Fourier product on CPUs and a convolution elsewhere (a direct
21 x 21 convolution takes 25 times as long on a CPU; a Fourier transform compiles
for minutes on a TPU).
"""

import jax
import jax.numpy as jnp

from gendr_jax.data.degrade.kernels import RADIUS, SUPPORT
from gendr_jax.data.degrade.resize import Length


def blur(x_chw: jax.Array, kernel: jax.Array, size: tuple[Length, Length]) -> jax.Array:
    """Correlate every channel of the first `size` pixels with `kernel`.

    Args:
      kernel: [SUPPORT, SUPPORT].

    Returns: the shape of `x_chw`; what lies outside `size` has no meaning.
    """
    padded = _pad_reflect(x_chw, size)
    return jax.lax.platform_dependent(
        padded, kernel, cpu=_correlate_fourier, default=_correlate_direct
    )


def reflect_index(n: Length, first: int, count: int) -> jax.Array:
    """Which of n pixels each of `count` positions from `first` shows, by reflection.

    The edge pixel is not repeated (d c b | a b c d | c b a); positions further out
    than the picture is wide go on bouncing, and a single pixel is repeated.
    """
    period = jnp.maximum(2 * (jnp.asarray(n) - 1), 1)
    place = jnp.mod(jnp.arange(first, first + count), period)
    return jnp.where(n == 1, 0, jnp.minimum(place, period - place))


def _pad_reflect(x_chw: jax.Array, size: tuple[Length, Length]) -> jax.Array:
    for axis in (0, 1):
        n, canvas = size[axis], x_chw.shape[axis + 1]
        index = reflect_index(n, -RADIUS, canvas + 2 * RADIUS)
        take = _take_rows if axis == 0 else _take_columns
        select = _select_rows if axis == 0 else _select_columns
        # gathers are slow on a TPU, matrix products are slow on a CPU
        x_chw = jax.lax.platform_dependent(x_chw, index, cpu=take, default=select)
    return x_chw


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


def _correlate_direct(padded: jax.Array, kernel: jax.Array) -> jax.Array:
    """The channels are the batch of a one-channel convolution."""
    y = jax.lax.conv_general_dilated(
        padded[:, None],
        kernel[None, None],
        window_strides=(1, 1),
        padding="VALID",
        precision=jax.lax.Precision.HIGHEST,
    )
    return y[:, 0]


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
