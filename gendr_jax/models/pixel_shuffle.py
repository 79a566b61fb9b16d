"""Pixel shuffle and unshuffle in PyTorch's channel order (GenDR-Adc, GenDR-Pix)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def pixel_unshuffle(x_bhwc: jax.Array, factor: int) -> jax.Array:
    """[B, H, W, C] -> [B, H / f, W / f, C f f], eq. 31.

    Channel c f f + i f + j is channel c of the pixel at row i, column j of its block,
    as in torch.nn.PixelUnshuffle.

    Raises:
        ValueError: a side is not a multiple of ``factor``.
    """
    b, h, w, c = x_bhwc.shape
    if h % factor or w % factor:
        raise ValueError(
            f"{h} x {w} pixels are not multiples of factor {factor}. Pad them first."
        )
    x = x_bhwc.reshape(b, h // factor, factor, w // factor, factor, c)
    x = x.transpose(0, 1, 3, 5, 2, 4)  # b h w c i j
    return x.reshape(b, h // factor, w // factor, c * factor * factor)


def pixel_shuffle(x_bhwc: jax.Array, factor: int) -> jax.Array:
    """The inverse: [B, h, w, C f f] -> [B, h f, w f, C].

    Raises:
        ValueError: the channels are not a multiple of ``factor`` squared.
    """
    b, h, w, channels = x_bhwc.shape
    if channels % (factor * factor):
        raise ValueError(
            f"{channels} channels are not a multiple of {factor} x {factor}. Choose "
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
    """Apply a UNet to unshuffled pixels in [-1, 1]; float32 or better.

    GenDR-Adc returns latents. GenDR-Pix (``to_pixels``) returns pixels: y = x +
    pixel_shuffle(output), so that a zero output gives the enlarged picture.
    """
    out, _ = unet(pixel_unshuffle(x_bhwc, factor), t_b, context_bld)
    out = out.astype(jnp.promote_types(out.dtype, jnp.float32))
    return x_bhwc + pixel_shuffle(out, factor) if to_pixels else out
