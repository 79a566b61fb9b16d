"""What tests of commands share: a tiny restorer on disk, a command in this process."""

import jax
import numpy as np

from gendr_jax import nets
from gendr_jax.cli import main as main_lib
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.weights import folder

VAE_CONFIG = VAEConfig(
    latent_channels=4, block_out_channels=(4, 4), layers_per_block=1, norm_groups=2
)
UNET_CONFIG = UNetConfig(
    in_channels=4,
    out_channels=4,
    block_out_channels=(4,),
    layers_per_block=1,
    heads=(1,),
    attention=(False,),
    cross_attention_dim=6,
    norm_groups=2,
)


def params_of(model, config):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: (0.2 * rng.standard_normal(leaf.shape)).astype(np.float32),
        nets.build(model, config).abstract,
    )


def save_weights(path):
    """The weights folder of a restorer of two tiny networks."""
    return folder.save(
        path,
        kind="restorer",
        unet=(UNET_CONFIG, params_of(UNet, UNET_CONFIG)),
        vae=(VAE_CONFIG, params_of(VAE, VAE_CONFIG)),
        prompt={"positive": np.zeros((3, 6), np.float32)},
        provenance={"stage": "distill"},
    )


def gendr(*args):
    return main_lib.main([str(arg) for arg in args])
