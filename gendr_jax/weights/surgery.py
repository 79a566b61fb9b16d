"""Channel surgery: UNet weights for other numbers of input and output channels.

4-channel weights for 16-channel latents (``train/stages/base.py`` then trains the new
layers first), and the pixel ends of GenDR-Adc and GenDR-Pix.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gendr_jax.errors import InputError, UsageError
from gendr_jax.nets import Params
from gendr_jax.weights.gendr_json import Weights


def widen(unet: Params, *, channels_in: int, channels_out: int) -> Params:
    """Channel surgery: SD2.1's 4-channel weights for ``channels_in`` latents.

    conv_in is tiled along its inputs and divided by sqrt(copies), which keeps the
    pre-activations' spread for independent unit-variance channels; conv_out becomes
    zero (copied rows cannot be right), so the first output is 0 and the loss about 1.

    Raises:
        InputError: the new channel count is no multiple of the old one.
    """
    kernel = unet["conv_in"]["kernel"]
    copies, remainder = divmod(channels_in, kernel.shape[2])
    if remainder:
        raise InputError(
            f"conv_in has {kernel.shape[2]} input channels, which do not tile to "
            f"{channels_in}. Choose a multiple of {kernel.shape[2]}."
        )
    tiled = jnp.tile(kernel, (1, 1, copies, 1)) / jnp.sqrt(float(copies))
    width = unet["conv_out"]["kernel"].shape[2]
    return unet | {
        "conv_in": unet["conv_in"] | {"kernel": tiled},
        "conv_out": {
            "kernel": jnp.zeros((3, 3, width, channels_out), jnp.float32),
            "bias": jnp.zeros((channels_out,), jnp.float32),
        },
    }


def widened(weights: Weights, channels: int) -> Weights:
    """The UNet of these weights for latents of ``channels``; 0 leaves it unchanged.

    Dtypes are kept, provenance records it. Raises as ``widen``, and UsageError without
    a UNet.
    """
    if not channels:
        return weights
    if "unet" not in weights.params:
        raise UsageError("--latent-channels widens a UNet and there is none. Name one.")
    config = weights.configs["unet"]
    if (config.in_channels, config.out_channels) == (channels, channels):
        return weights
    if config.in_channels != config.out_channels:
        raise InputError(
            f"the UNet takes {config.in_channels} channels and makes "
            f"{config.out_channels}, an inpainting or conditioned model without a form "
            f"of {channels}. Name the text-to-image UNet it was made from."
        )
    unet = widen(weights.params["unet"], channels_in=channels, channels_out=channels)
    dtype = weights.params["unet"]["conv_in"]["kernel"].dtype
    unet = jax.tree.map(np.asarray, unet)
    for name in ("conv_in", "conv_out"):
        unet[name] = {k: v.astype(dtype) for k, v in unet[name].items()}
    config_wide = dataclasses.replace(
        config, in_channels=channels, out_channels=channels
    )
    surgeries = {
        "latent_channels": [config.in_channels, channels],
        "conv_in": "tiled along its inputs, divided by the root of the copies",
        "conv_out": "zero",
    }
    return dataclasses.replace(
        weights,
        configs=weights.configs | {"unet": config_wide},
        params=weights.params | {"unet": unet},
        provenance={**weights.provenance, "surgery": surgeries},
    )


def pixels_in(unet: Params, *, channels: int) -> Params:
    """conv_in for ``channels`` of unshuffled pixels (GenDR-Adc); all else unchanged.

    Tiled along its inputs and divided by sqrt(copies), as in ``widen``.

    Raises:
        InputError: ``channels`` is no multiple of the old channel count.
    """
    out = unet["conv_out"]["kernel"].shape[-1]
    wide = widen(unet, channels_in=channels, channels_out=out)
    return wide | {"conv_out": unet["conv_out"]}


def pixels_out(unet: Params, key: jax.Array, *, factor: int) -> Params:
    """conv_out for pixels of ``factor`` x ``factor`` blocks (GenDR-Pix).

    One small random kernel a colour, shared by all pixels of a block (ICNR, Aitken et
    al. 2017): pixel-shuffle then gives an answer that is constant in each block, free
    of a pattern inside it. Spread 0.02 / sqrt(fan in); the bias is zero.
    """
    width = unet["conv_out"]["kernel"].shape[2]
    spread = 0.02 / (9 * width) ** 0.5
    colours = spread * jax.random.normal(key, (3, 3, width, 3), jnp.float32)
    # Channel c f f + i f + j is colour c, as models/pixel_shuffle.py has it.
    kernel = jnp.repeat(colours, factor * factor, axis=-1)
    bias = jnp.zeros((kernel.shape[-1],), jnp.float32)
    return unet | {"conv_out": {"kernel": kernel, "bias": bias}}
