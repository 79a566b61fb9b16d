"""RandPad of GenDR-Pix: a discriminator must not see where the shuffle's grid lies."""

import jax
import jax.numpy as jnp


def random_offsets(keys_b: jax.Array, factor: int) -> jax.Array:
    """(p_h, p_w) ~ U{0..factor-1}^2 of each sample, [B, 2]."""
    return jax.vmap(lambda key: jax.random.randint(key, (2,), 0, factor))(keys_b)


def random_pad(x_bhwc: jax.Array, offset_b2: jax.Array, factor: int) -> jax.Array:
    """Pad by (p_h, f - p_h, p_w, f - p_w) on top, bottom, left, right, eq. 32.

    The padding is a reflection without the edge pixel. The size grows by ``factor`` on
    both axes whatever the draw, so that one program serves all of them. Give a result
    and its truth the same offsets.

    Args:
        x_bhwc: pictures; both sides longer than ``factor``.
        offset_b2: from ``random_offsets``, one pair a sample.
    """
    _, h, w, _ = x_bhwc.shape
    sides = ((factor, factor), (factor, factor), (0, 0))

    def one(x_hwc: jax.Array, offset_2: jax.Array) -> jax.Array:
        # Everything is padded by the most there can be; the window then moves.
        wide = jnp.pad(x_hwc, sides, mode="reflect")
        start = (factor - offset_2[0], factor - offset_2[1], 0)
        size = (h + factor, w + factor, x_hwc.shape[-1])
        return jax.lax.dynamic_slice(wide, start, size)

    return jax.vmap(one)(x_bhwc, offset_b2)
