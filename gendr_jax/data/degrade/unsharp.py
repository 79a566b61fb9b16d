"""Unsharp masking of the ground truth, as Real-ESRGAN and StableSR do it.

With B the blurred picture and R = I - B, the mask S = blur(255 |R| > 10) blends I with
clip(I + R / 2). B and S use a 51-tap Gaussian of sigma 8 that reflects at the border.
"""

import jax
import jax.numpy as jnp
import numpy as np

from gendr_jax.data.degrade import resize
from gendr_jax.data.degrade.blur import reflect_index
from gendr_jax.data.degrade.resize import Length

TAPS = 51
SIGMA = 8.0
THRESHOLD = 10.0
AMOUNT = 0.5


def sharpen(x_chw: jax.Array, size: tuple[Length, Length]) -> jax.Array:
    """Sharpen the first `size` pixels; pixels outside are unchanged."""
    rows, columns = (_gaussian_matrix(size[k], x_chw.shape[k + 1]) for k in (0, 1))
    residual = x_chw - resize.apply(x_chw, rows, columns)
    mask = (jnp.abs(residual) * 255.0 > THRESHOLD).astype(x_chw.dtype)
    mask_blurred = resize.apply(mask, rows, columns)
    sharp = jnp.clip(x_chw + AMOUNT * residual, 0.0, 1.0)
    return mask_blurred * sharp + (1.0 - mask_blurred) * x_chw


def _gaussian_matrix(n: Length, canvas: int) -> jax.Array:
    """[canvas, canvas]: row i holds the taps around pixel i, zero from row n on."""
    offsets = np.arange(TAPS) - TAPS // 2
    taps = np.exp(-0.5 * np.square(offsets / SIGMA))
    taps = taps / taps.sum()
    source_index = reflect_index(n, -(TAPS // 2), canvas + TAPS - 1)

    def tap(k: int) -> jax.Array:
        index = jax.lax.dynamic_slice(source_index, (k,), (canvas,))
        selection = jax.nn.one_hot(index, canvas, dtype=jnp.float32)
        return jnp.asarray(taps, jnp.float32)[k] * selection

    # The loop starts from the first tap: under shard_map its type varies over devices,
    # as that of the sum does, while zeros would not.
    weights = jax.lax.fori_loop(1, TAPS, lambda k, sum_: sum_ + tap(k), tap(0))
    return jnp.where(jnp.arange(canvas)[:, None] < n, weights, 0.0)
