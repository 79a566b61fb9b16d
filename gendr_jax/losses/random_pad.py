"""RandPad of GenDR-Pix: random padding hides the grid from a discriminator."""

import jax
import jax.numpy as jnp


def random_offsets(keys_b: jax.Array, factor: int) -> jax.Array:
    """(p_h, p_w) ~ U{0..factor-1}^2 of each sample, [B, 2]."""
    return jax.vmap(lambda key: jax.random.randint(key, (2,), 0, factor))(keys_b)


def random_pad(x_bhwc: jax.Array, offset_b2: jax.Array, factor: int) -> jax.Array:
    """Pad by (p_h, f - p_h, p_w, f - p_w) on top, bottom, left, right, eq. 32.

    The padding is a reflection without the edge pixel. The size grows by ``factor`` on
    both axes whatever the draw, so that shapes are static. Use the same offsets for a
    result and its ground truth.

    Args:
        x_bhwc: pictures; both sides longer than ``factor``.
        offset_b2: from ``random_offsets``, one pair a sample.
    """
    _, h, w, _ = x_bhwc.shape
    sides = ((factor, factor), (factor, factor), (0, 0))

    def pad_one(x_hwc: jax.Array, offset_2: jax.Array) -> jax.Array:
        # Static shapes: pad by the maximum on all sides, then slice at the offset.
        padded = jnp.pad(x_hwc, sides, mode="reflect")
        start = (factor - offset_2[0], factor - offset_2[1], 0)
        size = (h + factor, w + factor, x_hwc.shape[-1])
        return jax.lax.dynamic_slice(padded, start, size)

    return jax.vmap(pad_one)(x_bhwc, offset_b2)
