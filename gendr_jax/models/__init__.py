"""The networks as Flax NNX modules."""

from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig

__all__ = ["UNet", "UNetConfig", "VAE", "VAEConfig"]
