"""Non-saturating softplus pair for the adversarial term of CiDA.

True and generated latents are noised with the same t and eps before the discriminator.
Nothing is detached here: the train step differentiates each loss with respect to one
network only.
"""

import jax

from gendr_jax.diffusion import at_least_fp32
from gendr_jax.losses.reduction import sample_mean


def discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """L_D = mean softplus(l(fake)) + mean softplus(-l(real)) per sample, eq. 16.

    Args:
      real_logits: [B, ...] logits of true latents (or images), any spatial shape.
      fake_logits: [B, ...] logits of generated ones.

    Returns:
      loss_b, shape [B]; 2 ln 2 where all logits are zero.
    """
    real, fake = at_least_fp32(real_logits), at_least_fp32(fake_logits)
    return sample_mean(jax.nn.softplus(fake)) + sample_mean(jax.nn.softplus(-real))


def generator_loss(fake_logits: jax.Array) -> jax.Array:
    """L_adv = mean softplus(-l(fake)) per sample, eq. 17. Shapes as above."""
    return sample_mean(jax.nn.softplus(-at_least_fp32(fake_logits)))
