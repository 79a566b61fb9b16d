"""Masked Fourier space loss of GenDR-Pix, against grid artefacts of pixel shuffle."""

import math

import jax
import jax.numpy as jnp

from gendr_jax.diffusion import at_least_fp32
from gendr_jax.losses.reduction import sample_mean

MASK_RADIUS = 2.0  # bins around each peak


def least_side(factor: int, radius: float = MASK_RADIUS) -> int:
    """The smallest side, in pixels, at which no two neighbourhoods touch."""
    return math.ceil(2 * factor * (radius + 0.5))


def peak_mask(
    height: int, width: int, factor: int, radius: float = MASK_RADIUS
) -> jax.Array:
    """M [H, W]: 1 near the frequencies of patterns that repeat every ``factor`` pixels.

    Such a pattern has energy only at (k H / f, l W / f), k and l in 0..f-1. M is 1
    within ``radius`` bins (cyclic distance) of these, except k = l = 0, which is near
    the picture's own low frequencies, and 0 elsewhere. Frequencies are ordered as in
    ``jnp.fft.fft2``, unshifted.

    Raises:
        ValueError: the neighbourhoods of two peaks would touch: the picture is too
            small for this factor and radius.
    """
    if min(height, width) < least_side(factor, radius):
        raise ValueError(
            f"{height} x {width} pixels are too few for peaks of radius {radius:g} at "
            f"every {factor}th frequency. Give at least "
            f"{least_side(factor, radius)} on each side."
        )
    rows = _to_peak(height, factor)[:, None]
    columns = _to_peak(width, factor)[None, :]
    near_a_peak = jnp.square(rows) + jnp.square(columns) <= radius**2
    # Distances from frequency zero, the one peak that is masked out.
    v = _to_peak(height, 1)[:, None]
    u = _to_peak(width, 1)[None, :]
    near_zero = jnp.square(v) + jnp.square(u) <= radius**2
    return (near_a_peak & ~near_zero).astype(jnp.float32)


def masked_fourier(
    y_bhwc: jax.Array,
    target_bhwc: jax.Array,
    *,
    factor: int,
    radius: float = MASK_RADIUS,
) -> jax.Array:
    """L_F = mean(M * abs(abs(FFT(y)) - abs(FFT(target)))) per sample, eq. 33.

    The transform is orthonormal, of each channel. The mean is over H, W and C, masked
    frequencies included. `target_bhwc` receives no gradient. The paper does not publish
    the mask; radius and mean are our choice (docs/algorithm.md).

    Returns:
        loss_b, shape [B], float32 or better.
    """
    _, height, width, _ = y_bhwc.shape
    mask_bhwc = peak_mask(height, width, factor, radius)[None, :, :, None]
    target = jax.lax.stop_gradient(at_least_fp32(target_bhwc))
    difference = _magnitude(at_least_fp32(y_bhwc)) - _magnitude(target)
    return sample_mean(mask_bhwc.astype(difference.dtype) * jnp.abs(difference))


def _to_peak(size: int, factor: int) -> jax.Array:
    """Bins from each frequency to the nearest multiple of size / factor, wrapping."""
    period = size / factor
    remainder = jnp.arange(size) % period
    return jnp.minimum(remainder, period - remainder)


def _magnitude(x_bhwc: jax.Array) -> jax.Array:
    spectrum = jnp.fft.fft2(x_bhwc, axes=(1, 2), norm="ortho")
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    # sqrt has no gradient at zero, the value of a flat picture except at (0, 0).
    positive = power > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, power, 1.0)), 0.0)
