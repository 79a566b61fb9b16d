"""Colour fixes: give a restored picture the colours of its bicubic enlargement.

What lives here: pure functions of whole pictures; no networks, tiles or files. A fix
is always computed over the whole picture, so that it cannot leave seams.
"""

import jax
import jax.numpy as jnp

# Added to the variances, as the field's adain does (StableSR, OSEDiff).
EPS = 1e-5


def adain(
    sr_bhwc: jax.Array, ref_bhwc: jax.Array, mask_bhw: jax.Array | None = None
) -> jax.Array:
    """Match mean and standard deviation of each channel to the reference.

    The adain colour fix of StableSR and OSEDiff (`wavelet_color_fix.py`): unbiased
    variance plus 1e-5, per sample and channel, in float32.

    Args:
        sr_bhwc: restored pictures in [0, 1].
        ref_bhwc: their bicubic enlargements in [0, 1], of the same shape.
        mask_bhw: 1 where a pixel counts, 0 on padding; all count without it. Padding
            is changed like the rest.

    Returns:
        float32, not clipped.
    """
    sr, ref = sr_bhwc.astype(jnp.float32), ref_bhwc.astype(jnp.float32)
    if mask_bhw is None:
        mask_bhw = jnp.ones(sr.shape[:3], jnp.float32)
    sr_mean, sr_std = mean_std(sr, mask_bhw)
    ref_mean, ref_std = mean_std(ref, mask_bhw)
    return (sr - sr_mean) * (ref_std / sr_std) + ref_mean


def mean_std(x_bhwc: jax.Array, mask_bhw: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Masked mean and sqrt(unbiased variance + 1e-5), each [B, 1, 1, C] in float32."""
    weight = mask_bhw.astype(jnp.float32)[..., None]
    count = jnp.sum(weight, axis=(1, 2), keepdims=True)
    mean = jnp.sum(x_bhwc * weight, axis=(1, 2), keepdims=True) / count
    square = jnp.sum((x_bhwc - mean) ** 2 * weight, axis=(1, 2), keepdims=True)
    # One pixel has no unbiased variance; zero is its spread.
    return mean, jnp.sqrt(square / jnp.maximum(count - 1, 1) + EPS)
