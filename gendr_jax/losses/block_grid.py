"""Loss against visible block borders: steps of pixels equal at all positions."""

import jax
import jax.numpy as jnp

from gendr_jax.diffusion import at_least_fp32

FLAT = 1.0 / 255.0  # added to mean steps, in units of [-1, 1]: flat pictures have none


def block_grid(y_bhwc: jax.Array, target_bhwc: jax.Array, *, factor: int) -> jax.Array:
    """Mean over k of abs(g_k(y) - g_k(target)), columns and rows alike, per sample.

    With e_k the mean absolute step from pixel k of a block of ``factor`` pixels to the
    next pixel, g_k = log(e_k) minus its mean over k: 0 where no position stands out.
    Unlike ``masked_fourier`` it sees borders whose steps have random signs. Ours, not
    of a paper; ``metrics.upsampling_grid`` is the corresponding figure. The target
    receives no gradient.

    Returns:
        loss_b, shape [B], float32 or better.
    """
    target_bhwc = jax.lax.stop_gradient(target_bhwc)
    differences = [
        jnp.abs(_profile(y_bhwc, axis, factor) - _profile(target_bhwc, axis, factor))
        for axis in (1, 2)
    ]
    return jnp.mean(jnp.stack(differences), axis=(0, 2))


def _profile(x_bhwc: jax.Array, axis: int, factor: int) -> jax.Array:
    """g [B, factor] along rows (1) or columns (2) of blocks."""
    steps = jnp.abs(jnp.diff(at_least_fp32(x_bhwc), axis=axis))
    step_bn = jnp.mean(steps, axis=(3 - axis, 3))
    blocks = step_bn.shape[1] // factor
    step_bk = jnp.mean(
        step_bn[:, : blocks * factor].reshape(-1, blocks, factor), axis=1
    )
    log_bk = jnp.log(step_bk + FLAT)
    return log_bk - jnp.mean(log_bk, axis=1, keepdims=True)
