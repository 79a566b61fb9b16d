"""Sizes that must fit each other, looked at before anything is read.

What lives here: settings against settings and the mesh. What does not: types and
misspelt names (`typed.py`), weights that do not fit (`start.py`).
"""

from jax.sharding import Mesh

from gendr_jax import sharding
from gendr_jax.errors import UsageError
from gendr_jax.models.unet import UNetConfig
from gendr_jax.models.vae import VAEConfig
from gendr_jax.train.settings import Common, DistillSettings, VAESettings


def check(settings: Common, mesh: Mesh) -> None:
    """Refuse sizes that do not fit each other, before anything is read."""
    unit = settings.vae.factor * 2
    if settings.data.crop % unit:
        raise UsageError(
            f"data.crop={settings.data.crop} is no multiple of {unit} (the VAE's "
            f"factor {settings.vae.factor}, twice). Choose one."
        )
    if not isinstance(settings, VAESettings):
        check_channels(settings.unet, settings.vae)
    if (
        isinstance(settings, DistillSettings)
        and settings.data.crop % settings.data.scale
    ):
        raise UsageError(
            f"data.crop={settings.data.crop} is no multiple of data.scale="
            f"{settings.data.scale}. Choose one."
        )
    shards = sharding.row_shards(mesh)
    if settings.accumulate < 1 or settings.batch_size % (shards * settings.accumulate):
        raise UsageError(
            f"batch_size={settings.batch_size} does not divide over {shards} devices "
            f"times accumulate={settings.accumulate}. Choose a multiple."
        )
    unit *= mesh.shape[sharding.SPACE]
    if settings.data.crop % unit:
        raise UsageError(
            f"data.crop={settings.data.crop} is no multiple of {unit}, which "
            f"space={mesh.shape[sharding.SPACE]} needs. Choose another."
        )


def check_channels(unet: UNetConfig, vae: VAEConfig) -> None:
    """Refuse a UNet that does not work on this autoencoder's latents."""
    channels = (unet.in_channels, unet.out_channels)
    if channels != (vae.latent_channels,) * 2:
        raise UsageError(
            f"the UNet takes {channels[0]} channels and gives {channels[1]}, the VAE's "
            f"latents have {vae.latent_channels}. Combine networks of one training, or "
            "let stage base widen the UNet (config.unet.in_channels, out_channels)."
        )
