"""Regression losses (denoising, L1, L2) and the VAE's KL divergence.

The target, the second argument, never receives a gradient.
"""

import jax
import jax.numpy as jnp

from gendr_jax.diffusion import at_least_fp32
from gendr_jax.losses.reduction import sample_mean


def _difference(x: jax.Array, target: jax.Array) -> jax.Array:
    return at_least_fp32(x) - jax.lax.stop_gradient(at_least_fp32(target))


def denoising(out_bhwc: jax.Array, target_bhwc: jax.Array) -> jax.Array:
    """Unweighted mean squared error of a network output, eq. 18, -> loss_b.

    `target_bhwc` comes from `diffusion.prediction_target` (eps or v).
    """
    return sample_mean(jnp.square(_difference(out_bhwc, target_bhwc)))


def l1(x_bhwc: jax.Array, target_bhwc: jax.Array) -> jax.Array:
    """Mean absolute difference per sample; the VAE's pixel term, eq. 20."""
    return sample_mean(jnp.abs(_difference(x_bhwc, target_bhwc)))


def l2(x_bhwc: jax.Array, target_bhwc: jax.Array) -> jax.Array:
    """Mean squared difference per sample, eq. 19: the paired term, of (z_g, z_h) in
    latent space with weight lambda_rec, or of decoded and true image in pixel space."""
    return sample_mean(jnp.square(_difference(x_bhwc, target_bhwc)))


def kl(mean_bhwc: jax.Array, logvar_bhwc: jax.Array) -> jax.Array:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats per latent element, eq. 21.

    The mean over H, W, C, like every loss here, so that its weight does not depend on
    the crop; the sum that latent-diffusion code uses is H W C times this.
    """
    mean, logvar = at_least_fp32(mean_bhwc), at_least_fp32(logvar_bhwc)
    return 0.5 * sample_mean(jnp.square(mean) + jnp.expm1(logvar) - logvar)
