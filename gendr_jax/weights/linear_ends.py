"""Pixel ends of GenDR-Adc and GenDR-Pix that compute what a linear autoencoder does.

Where the autoencoder is one matrix each way (``VAEConfig.linear_path`` without
convolutions) and the UNet has an ``input_shortcut``, both matrices can be multiplied
into conv_in, conv_out and the shortcut: the student starts as its teacher, not near it.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from gendr_jax import diffusion
from gendr_jax.models.pixel_shuffle import pixel_shuffle, pixel_unshuffle
from gendr_jax.nets import Params

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class LinearMaps:
    """z = u @ encode_pc + encode_bias_c, u = z @ decode_cp + decode_bias_p.

    ``u``: unshuffled pixels in [-1, 1] (channels as in eq. 31), ``z``: a latent in the
    scale of the diffusion model.
    """

    encode_pc: Array
    encode_bias_c: Array
    decode_cp: Array
    decode_bias_p: Array


def linear_maps(
    encode: Callable[[Array], Array],
    decode: Callable[[Array], Array],
    *,
    factor: int,
    channels: int,
) -> LinearMaps:
    """The matrices of an autoencoder that is linear and maps each block on its own.

    Args:
        encode: x [B, f, f, 3] in [-1, 1] -> z [B, 1, 1, ``channels``].
        decode: the inverse.
    """
    pixels = 3 * factor**2
    blocks = pixel_shuffle(jnp.eye(pixels)[:, None, None], factor)
    encode_bias = encode(jnp.zeros((1, factor, factor, 3)))
    decode_bias = pixel_unshuffle(decode(jnp.zeros((1, 1, 1, channels))), factor)
    decoded = pixel_unshuffle(decode(jnp.eye(channels)[:, None, None]), factor)
    return LinearMaps(
        encode_pc=(encode(blocks) - encode_bias)[:, 0, 0],
        encode_bias_c=encode_bias[0, 0, 0],
        decode_cp=(decoded - decode_bias)[:, 0, 0],
        decode_bias_p=decode_bias[0, 0, 0],
    )


def with_encoder(
    unet: Params, maps: LinearMaps, prediction: diffusion.PredictionType
) -> Params:
    """GenDR's UNet -> Adc's: pixels in, the latent of eq. 8 out.

    Equal to the teacher except at the border of the picture: conv_in pads the teacher's
    latents with 0, the student's pixels with grey, whose latent is the bias.
    """
    # eq. 8 is z = a z_l + c out(z_l) with out = conv_out(h) + shortcut(z_l).
    one, zero = jnp.ones(()), jnp.zeros(())
    a = diffusion.one_step(one, zero, prediction)
    c = diffusion.one_step(zero, one, prediction)
    kernel, bias = _of(unet["conv_in"])
    shortcut, shortcut_bias = _of(unet["conv_shortcut"])
    step = a * jnp.eye(shortcut.shape[-1]) + c * shortcut[0, 0]
    return unet | {
        "conv_in": {
            "kernel": jnp.einsum("pc,hwcd->hwpd", maps.encode_pc, kernel),
            "bias": bias + jnp.einsum("c,hwcd->d", maps.encode_bias_c, kernel),
        },
        "conv_out": jax.tree.map(lambda x: c * x, unet["conv_out"]),
        "conv_shortcut": {
            "kernel": (maps.encode_pc @ step)[None, None],
            "bias": maps.encode_bias_c @ step + c * shortcut_bias,
        },
    }


def with_decoder(adc: Params, maps: LinearMaps) -> Params:
    """Adc's UNet -> Pix's: the decoded latent less the enlarged picture, eq. 31."""
    kernel, bias = _of(adc["conv_out"])
    shortcut, shortcut_bias = _of(adc["conv_shortcut"])
    decoded = shortcut[0, 0] @ maps.decode_cp
    return adc | {
        "conv_out": {
            "kernel": kernel @ maps.decode_cp,
            "bias": bias @ maps.decode_cp + maps.decode_bias_p,
        },
        "conv_shortcut": {
            "kernel": (decoded - jnp.eye(decoded.shape[0]))[None, None],
            "bias": shortcut_bias @ maps.decode_cp,
        },
    }


def _of(layer: Params) -> tuple[Array, Array]:
    """Kernel and bias in float32."""
    return layer["kernel"].astype(jnp.float32), layer["bias"].astype(jnp.float32)
