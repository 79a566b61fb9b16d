"""Pixels to channels and back, in PyTorch's order of channels (GenDR-Pix)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def pixel_unshuffle(x_bhwc: jax.Array, factor: int) -> jax.Array:
    """[B, H, W, C] -> [B, H / f, W / f, C f f], eq. 31.

    Channel c f f + i f + j holds channel c of the pixel at row i, column j of its
    block, as torch.nn.PixelUnshuffle has it.

    Raises:
        ValueError: a side is no multiple of ``factor``.
    """
    b, h, w, c = x_bhwc.shape
    if h % factor or w % factor:
        raise ValueError(
            f"{h} x {w} pixels are no multiple of the factor {factor}. Pad them first."
        )
    x = x_bhwc.reshape(b, h // factor, factor, w // factor, factor, c)
    x = x.transpose(0, 1, 3, 5, 2, 4)  # b h w c i j
    return x.reshape(b, h // factor, w // factor, c * factor * factor)


def pixel_shuffle(x_bhwc: jax.Array, factor: int) -> jax.Array:
    """The inverse: [B, h, w, C f f] -> [B, h f, w f, C].

    Raises:
        ValueError: the channels are no multiple of ``factor`` squared.
    """
    b, h, w, channels = x_bhwc.shape
    if channels % (factor * factor):
        raise ValueError(
            f"{channels} channels are no multiple of {factor} x {factor}. Choose "
            "another factor."
        )
    c = channels // (factor * factor)
    x = x_bhwc.reshape(b, h, w, c, factor, factor).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(b, h * factor, w * factor, c)


def pixel_pass(
    unet: Callable[..., tuple[jax.Array, Any]],
    x_bhwc: jax.Array,
    t_b: jax.Array,
    context_bld: jax.Array,
    *,
    factor: int,
    to_pixels: bool,
) -> jax.Array:
    """Pixels in [-1, 1] through a UNet without encoder, float32 or better.

    GenDR-Adc answers in latents. GenDR-Pix (``to_pixels``) in pixels: y = x +
    pixel_shuffle(output), so that an output of zero is the enlarged picture.
    """
    out, _ = unet(pixel_unshuffle(x_bhwc, factor), t_b, context_bld)
    out = out.astype(jnp.promote_types(out.dtype, jnp.float32))
    return x_bhwc + pixel_shuffle(out, factor) if to_pixels else out
