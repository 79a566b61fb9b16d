"""Channel surgery: a 4-channel UNet's weights for 16-channel latents.

Only the tree of weights is touched; which layers are then trained first is the base
stage's business (``train/base_step.py``).
"""

import jax.numpy as jnp

from gendr_jax.errors import InputError
from gendr_jax.nets import Params


def widen(unet: Params, *, channels_in: int, channels_out: int) -> Params:
    """Channel surgery: SD2.1's 4-channel weights for ``channels_in`` latents.

    conv_in is tiled along its inputs and divided by sqrt(copies), which keeps the
    pre-activations' spread for independent unit-variance channels; conv_out becomes
    zero (copied rows cannot be right), so the first output is 0 and the loss about 1.

    Raises:
        InputError: the new channel count is no multiple of the old one.
    """
    kernel = unet["conv_in"]["kernel"]
    copies, rest = divmod(channels_in, kernel.shape[2])
    if rest:
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
