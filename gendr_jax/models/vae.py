"""The image autoencoder: ostris/vae-kl-f8-d16 by default, others by configuration.

Attribute names follow diffusers' AutoencoderKL. Latents are unscaled here;
``VAEConfig.to_model`` and ``from_model`` apply scaling and shift.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from gendr_jax.models.attention import attend
from gendr_jax.models.config_checks import require_counts
from gendr_jax.models.layers import (
    Conv,
    Downsample,
    GroupNorm,
    LayerArguments,
    Linear,
    Norm,
    ResnetBlock,
    Upsample,
    channel_to_space,
    normalisation,
    space_to_channel,
    zero,
)
from gendr_jax.models.remat import Policy, remat

EPS = 1e-6
SURE = -12.0  # initial log-variance: a standard deviation of exp(-6) = 1/400


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """VAE16 by default. SD: latent_channels=4, scaling_factor=0.18215. FLUX/SD3:
    no quantisation convolutions and a shift factor.

    Attributes:
        patch: side of pixel patches that become channels before the first convolution,
            and pixels again after the last one; 1: none.
        linear_path: adds a linear map between patches of ``factor`` pixels and latents
            to the convolutions.
        convolutions: False: only the linear path.
        encoder_convolutions: False: the encoder is the linear path alone, while the
            decoder keeps its convolutions.
        norm_channels: norms are over the channels of each position instead of over
            groups of channels and all positions. Then crops, tiles and images of all
            sizes are decoded alike.
    """

    in_channels: int = 3
    latent_channels: int = 16
    block_out_channels: tuple[int, ...] = (128, 128, 256, 512)
    layers_per_block: int = 2
    norm_groups: int = 32
    quant_conv: bool = True
    post_quant_conv: bool = True
    mid_attention: bool = True
    scaling_factor: float = 0.2614
    shift_factor: float = 0.0
    patch: int = 1
    linear_path: bool = False
    convolutions: bool = True
    encoder_convolutions: bool = True
    norm_channels: bool = False

    def __post_init__(self):
        require_counts(self, "in_channels", "latent_channels", "block_out_channels")
        require_counts(self, "layers_per_block", "norm_groups", "patch")
        if not 0 < self.scaling_factor < math.inf:
            raise ValueError(
                f"VAEConfig.scaling_factor is {self.scaling_factor}. Give a number "
                "above 0."
            )
        if not (self.convolutions or self.linear_path):
            raise ValueError(
                "VAEConfig has neither convolutions nor a linear path. "
                "Set linear_path=True."
            )
        if not (self.encoder_convolutions or self.linear_path):
            raise ValueError(
                "VAEConfig.encoder_convolutions=False leaves no encoder without a "
                "linear path. Set linear_path=True."
            )

    @property
    def encodes_linearly(self) -> bool:
        """Whether the encoder is the linear path alone."""
        return not (self.convolutions and self.encoder_convolutions)

    @property
    def norm_kind(self) -> Norm:
        """The type of the convolutions' norms."""
        return "channels" if self.norm_channels else "groups"

    @property
    def factor(self) -> int:
        """Pixels per latent position along one side."""
        return self.patch * 2 ** (len(self.block_out_channels) - 1)

    def to_model(self, z_bhwc: jax.Array) -> jax.Array:
        """Latents in the scale of the diffusion model (about unit variance)."""
        return (z_bhwc - self.shift_factor) * self.scaling_factor

    def from_model(self, z_bhwc: jax.Array) -> jax.Array:
        """The inverse of ``to_model``."""
        return z_bhwc / self.scaling_factor + self.shift_factor


class AttentionBlock(nnx.Module):
    """Attention of one head over all positions, with a residual."""

    def __init__(self, channels: int, groups: int, *, dtype, rngs: nnx.Rngs):
        kw = LayerArguments(dtype=dtype, rngs=rngs)
        self.group_norm = GroupNorm(channels, groups, EPS, **kw)
        self.to_q = Linear(channels, channels, **kw)
        self.to_k = Linear(channels, channels, **kw)
        self.to_v = Linear(channels, channels, **kw)
        self.to_out = nnx.List([Linear(channels, channels, **kw)])

    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        y = self.group_norm(x).reshape(b, h * w, c)
        q, k, v = (f(y)[:, :, None, :] for f in (self.to_q, self.to_k, self.to_v))
        return x + self.to_out[0](attend(q, k, v)[:, :, 0]).reshape(x.shape)


class MidBlock(nnx.Module):
    """Resnet, attention (if any), resnet."""

    def __init__(self, channels: int, config: VAEConfig, *, dtype, rngs: nnx.Rngs):
        kw = LayerArguments(dtype=dtype, rngs=rngs)
        self.resnets = nnx.List(
            [_resnet(channels, channels, config, **kw) for _ in range(2)]
        )
        self.attentions = nnx.List(
            [AttentionBlock(channels, config.norm_groups, **kw)]
            if config.mid_attention
            else []
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Level(nnx.Module):
    """The resnets of one resolution, then down- or upsampling, if any."""

    def __init__(
        self,
        cin: int,
        cout: int,
        count: int,
        config: VAEConfig,
        resize: str,
        *,
        dtype,
        rngs,
    ):
        kw = LayerArguments(dtype=dtype, rngs=rngs)
        self.resnets = nnx.List(
            [_resnet(cin if i == 0 else cout, cout, config, **kw) for i in range(count)]
        )
        if resize == "down":
            # Padded right and bottom only, as in diffusers.
            pad = ((0, 1), (0, 1))
            self.downsamplers = nnx.List([Downsample(cout, padding=pad, **kw)])
        elif resize == "up":
            self.upsamplers = nnx.List([Upsample(cout, **kw)])
        self.resize = resize

    def __call__(self, x: jax.Array, policy: Policy = "none") -> jax.Array:
        for resnet in self.resnets:
            x = remat(resnet, policy)(x)
        if self.resize == "down":
            x = self.downsamplers[0](x)
        elif self.resize == "up":
            x = self.upsamplers[0](x)
        return x


class Encoder(nnx.Module):
    """Image to mean and log-variance channels."""

    def __init__(self, config: VAEConfig, *, dtype, remat: Policy, rngs: nnx.Rngs):
        kw = LayerArguments(dtype=dtype, rngs=rngs)
        widths = config.block_out_channels
        self.remat, self.patch = remat, config.patch
        channels = config.in_channels * config.patch**2
        self.conv_in = Conv(channels, widths[0], **kw)
        self.down_blocks = nnx.List(
            [
                Level(
                    widths[max(i - 1, 0)],
                    width,
                    config.layers_per_block,
                    config,
                    "down" if i < len(widths) - 1 else "",
                    **kw,
                )
                for i, width in enumerate(widths)
            ]
        )
        self.mid_block = MidBlock(widths[-1], config, **kw)
        self.conv_norm_out = _norm(widths[-1], config, **kw)
        self.conv_out = Conv(widths[-1], 2 * config.latent_channels, **kw)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv_in(space_to_channel(x, self.patch))
        for block in self.down_blocks:
            x = block(x, self.remat)
        x = remat(self.mid_block, self.remat)(x)
        return self.conv_out(nnx.silu(self.conv_norm_out(x)))


class Decoder(nnx.Module):
    """Latent to image."""

    def __init__(self, config: VAEConfig, *, dtype, remat: Policy, rngs: nnx.Rngs):
        kw = LayerArguments(dtype=dtype, rngs=rngs)
        widths = config.block_out_channels[::-1]
        self.remat, self.patch = remat, config.patch
        self.conv_in = Conv(config.latent_channels, widths[0], **kw)
        self.mid_block = MidBlock(widths[0], config, **kw)
        self.up_blocks = nnx.List(
            [
                Level(
                    widths[max(i - 1, 0)],
                    width,
                    config.layers_per_block + 1,
                    config,
                    "up" if i < len(widths) - 1 else "",
                    **kw,
                )
                for i, width in enumerate(widths)
            ]
        )
        self.conv_norm_out = _norm(widths[-1], config, **kw)
        channels = config.in_channels * config.patch**2
        self.conv_out = Conv(widths[-1], channels, **kw)
        if config.linear_path:
            self.conv_out = zero(self.conv_out)

    def __call__(self, z: jax.Array) -> jax.Array:
        x = remat(self.mid_block, self.remat)(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x, self.remat)
        x = self.conv_out(nnx.silu(self.conv_norm_out(x)))
        return channel_to_space(x, self.patch)


class LinearPath(nnx.Module):
    """Patches to latents and back, one matrix each.

    logvar is initialised to SURE, an almost deterministic posterior.
    """

    def __init__(self, config: VAEConfig, *, dtype, rngs: nnx.Rngs):
        kw: LayerArguments = {"dtype": dtype, "rngs": rngs}
        pixels, c = config.in_channels * config.factor**2, config.latent_channels
        self.factor = config.factor
        self.down = Conv(pixels, 2 * c, 1, **kw)
        self.up = Conv(c, pixels, 1, **kw)
        mean, logvar = jnp.split(self.down.kernel[...], 2, axis=-1)
        kernel = jnp.concatenate([mean, jnp.zeros_like(logvar)], axis=-1)
        self.down.kernel = nnx.Param(kernel)
        self.down.bias = nnx.Param(jnp.repeat(jnp.array([0.0, SURE]), c))

    def encode(self, x: jax.Array) -> jax.Array:
        """Image to mean and log-variance channels."""
        return self.down(space_to_channel(x, self.factor))

    def decode(self, z: jax.Array) -> jax.Array:
        """Latent to image."""
        return channel_to_space(self.up(z), self.factor)


class VAE(nnx.Module):
    """Encoder and decoder with their quantisation convolutions."""

    def __init__(
        self, config: VAEConfig, *, dtype, remat: Policy = "none", rngs: nnx.Rngs
    ):
        kw = LayerArguments(dtype=dtype, rngs=rngs)
        c = config.latent_channels
        encodes, decodes = not config.encodes_linearly, config.convolutions
        self.encoder = Encoder(config, remat=remat, **kw) if encodes else None
        self.decoder = Decoder(config, remat=remat, **kw) if decodes else None
        self.linear_path = LinearPath(config, **kw) if config.linear_path else None
        quant = encodes and config.quant_conv
        post_quant = decodes and config.post_quant_conv
        self.quant_conv = Conv(2 * c, 2 * c, 1, **kw) if quant else None
        self.post_quant_conv = Conv(c, c, 1, **kw) if post_quant else None

    def encode(self, x_bhwc: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Image in [-1, 1] to the posterior's (mean, log-variance), unscaled."""
        moments: list[jax.Array] = []
        if self.linear_path is not None:
            moments.append(self.linear_path.encode(x_bhwc))
        if self.encoder is not None:
            x = self.encoder(x_bhwc)
            moments.append(x if self.quant_conv is None else self.quant_conv(x))
        mean, logvar = jnp.split(_total(moments), 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, z_bhwc: jax.Array) -> jax.Array:
        """Unscaled latents to an image, about [-1, 1], not clipped."""
        images: list[jax.Array] = []
        if self.linear_path is not None:
            images.append(self.linear_path.decode(z_bhwc))
        if self.decoder is not None:
            post = self.post_quant_conv
            images.append(self.decoder(z_bhwc if post is None else post(z_bhwc)))
        return _total(images)


def _total(terms: list[jax.Array]) -> jax.Array:
    """The sum; a single term keeps its dtype."""
    return functools.reduce(jnp.add, terms)


def _norm(channels: int, config: VAEConfig, *, dtype, rngs: nnx.Rngs):
    return normalisation(
        config.norm_kind, channels, config.norm_groups, EPS, dtype=dtype, rngs=rngs
    )


def _resnet(cin: int, cout: int, config: VAEConfig, *, dtype, rngs: nnx.Rngs):
    return ResnetBlock(
        cin,
        cout,
        time_dim=None,
        groups=config.norm_groups,
        eps=EPS,
        norm=config.norm_kind,
        dtype=dtype,
        rngs=rngs,
    )
