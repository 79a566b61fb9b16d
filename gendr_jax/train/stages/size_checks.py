"""Refuse sizes of networks, crops, batches and meshes that do not fit each other."""

import math

from jax.sharding import AbstractMesh, Mesh

from gendr_jax import losses, sharding
from gendr_jax.errors import UsageError
from gendr_jax.models.unet import UNetConfig
from gendr_jax.models.vae import VAEConfig
from gendr_jax.train.settings import (
    DistillSettings,
    PixelSettings,
    PixSettings,
    Settings,
    VAESettings,
)


def check(settings: Settings, mesh: Mesh | AbstractMesh) -> None:
    """Refuse sizes that do not fit each other, before anything is read."""
    unit = settings.vae.factor * 2
    if settings.data.crop % unit:
        raise UsageError(
            f"data.crop={settings.data.crop} is no multiple of {unit} (the VAE's "
            f"factor {settings.vae.factor}, twice). Give a multiple."
        )
    if not isinstance(settings, VAESettings):
        check_channels(settings.unet, settings.vae)
    if isinstance(settings, PixelSettings) and settings.data.crop % settings.factor:
        raise UsageError(
            f"data.crop={settings.data.crop} is no multiple of factor="
            f"{settings.factor}. Give a multiple."
        )
    if isinstance(settings, PixelSettings) and settings.factor != settings.vae.factor:
        raise UsageError(
            f"factor={settings.factor} puts pixels on another grid than the "
            f"autoencoder's factor {settings.vae.factor}. Make them equal."
        )
    if (
        isinstance(settings, DistillSettings | PixelSettings)
        and settings.data.crop % settings.data.scale
    ):
        raise UsageError(
            f"data.crop={settings.data.crop} is no multiple of data.scale="
            f"{settings.data.scale}. Give a multiple."
        )
    if isinstance(settings, PixSettings):
        check_mask(settings, settings.factor, settings.mask_radius)
    elif isinstance(settings, DistillSettings):
        check_mask(settings, settings.vae.factor, losses.MASK_RADIUS)
    check_groups(settings)
    check_model_axis(settings, mesh.shape.get(sharding.MODEL, 1))
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


def check_mask(
    settings: DistillSettings | PixSettings, factor: int, radius: float
) -> None:
    """Refuse a mask of the Fourier term whose neighbourhoods touch."""
    crop = settings.data.crop
    if settings.weights.fourier > 0 and crop < losses.least_side(factor, radius):
        raise UsageError(
            f"the Fourier term's mask_radius={radius:g} is too large for data.crop="
            f"{crop} and blocks of {factor}. Give {crop / (2 * factor) - 0.5:g} at "
            "most, or a larger crop."
        )


def check_groups(settings: Settings) -> None:
    """Refuse widths that do not divide into the groups of their norms."""
    vae = settings.vae
    widths = [
        (f"vae.block_out_channels has {w}, which", w, "vae", vae.norm_groups)
        for w in vae.block_out_channels
        if vae.convolutions and vae.norm_kind == "groups"
    ]
    if vae.convolutions and vae.mid_attention and vae.norm_kind != "groups":
        # The attention of the middle block always has a norm over groups.
        last = vae.block_out_channels[-1]
        text = f"vae.block_out_channels has {last}, which"
        widths.append((text, last, "vae", vae.norm_groups))
    if isinstance(settings, VAESettings):
        disc = settings.discriminator
        widths += [
            (
                f"discriminator.widths has {w}, which",
                w,
                "discriminator",
                disc.norm_groups,
            )
            for w in disc.widths[1:]
        ]
    else:
        unet = settings.unet
        levels = zip(unet.block_out_channels, unet.attention, strict=True)
        normed = {w for w, attends in levels if attends or unet.norm_kind == "groups"}
        # Of the middle block, where transformer and discriminator have norms.
        scored = isinstance(settings, DistillSettings | PixelSettings)
        if unet.mid_attention or scored:
            normed.add(unet.block_out_channels[-1])
        widths += [
            (f"unet.block_out_channels has {w}, which", w, "unet", unet.norm_groups)
            for w in sorted(normed)
        ]
        if scored:
            w = settings.discriminator_width
            widths.append((f"discriminator_width={w}", w, "unet", unet.norm_groups))
    for text, width, owner, groups in widths:
        if width % groups:
            raise UsageError(
                f"{text} does not divide into {owner}.norm_groups={groups}. Change one "
                "of them."
            )


def check_model_axis(settings: Settings, size: int) -> None:
    """Refuse a mesh axis `model` that would split nothing, or not evenly."""
    if size == 1:
        return
    if isinstance(settings, VAESettings):
        raise UsageError(
            f"the mesh has model={size}, which splits transformers; stage vae trains "
            "none. Give these devices to data, fsdp or space."
        )
    rules = settings.sharding.rules
    if rules and not any(sharding.MODEL in how for _, how in rules):
        raise UsageError(
            f"the mesh has model={size}, no rule of sharding.rules splits a weight "
            "over it. Add those of sharding.TENSOR_RULES (docs/sharding.md), or give "
            "these devices to another axis."
        )
    unet = settings.unet
    levels = zip(unet.block_out_channels, unet.attention, strict=True)
    widths = {width for width, attends in levels if attends}
    widths |= {unet.block_out_channels[-1]} if unet.mid_attention else set()
    uneven = sorted(width for width in widths if width % size)
    if uneven:
        raise UsageError(
            f"the mesh has model={size}, which does not divide the width {uneven[0]} "
            f"of the UNet's transformers. Take a divisor of {math.gcd(*widths)}."
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


def check_pixel_ends(unet: UNetConfig, vae: VAEConfig) -> None:
    """Refuse teachers that no student of pixels can start from."""
    if unet.input_shortcut and not vae.encodes_linearly:
        raise UsageError(
            "the teacher's UNet has an input_shortcut and its VAE's encoder "
            "convolutions: no pixel ends replace both. Distil a teacher without "
            "input_shortcut, or with an encoder of a linear path alone "
            "(vae.encoder_convolutions=False)."
        )
