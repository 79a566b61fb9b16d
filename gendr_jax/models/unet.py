"""The denoising UNet of Stable Diffusion 2.1, with 16 latent channels by default.

Attribute names follow diffusers' UNet2DConditionModel. Features are returned with the
output: "down0" is the map after the first down block (for alignment), "mid" that after
the middle block (for the discriminator).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from gendr_jax.models.config_checks import require_counts
from gendr_jax.models.layers import (
    Conv,
    Downsample,
    LayerArguments,
    Linear,
    Norm,
    ResnetBlock,
    Upsample,
    normalisation,
    zero,
)
from gendr_jax.models.remat import Policy, remat
from gendr_jax.models.transformer import SpatialTransformer


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Widths of SD2.1 with 16-channel latents by default.

    Attributes:
        mid_attention: whether the middle block has attention.
        norm: whether there are norms before every SiLU. Without them, activations of a
            deep network grow by orders of magnitude at learning rates above 5e-4.
        norm_channels: norms are over the channels of each position. Then positions
            depend on all others by attention only, and a crop is restored like the same
            region of its picture.
        input_shortcut: adds a linear map of the input to the output, initialised so
            that one step at t* returns its input (see ``diffusion.one_step``).
    """

    in_channels: int = 16
    out_channels: int = 16
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    heads: tuple[int, ...] = (5, 10, 20, 20)
    attention: tuple[bool, ...] = (True, True, True, False)
    cross_attention_dim: int = 1024
    norm_groups: int = 32
    linear_projection: bool = True
    norm_eps: float = 1e-5
    mid_attention: bool = True
    norm: bool = True
    norm_channels: bool = False
    input_shortcut: bool = False

    @property
    def norm_kind(self) -> Norm:
        """The type of norm before every SiLU."""
        if not self.norm:
            return "none"
        return "channels" if self.norm_channels else "groups"

    def __post_init__(self):
        require_counts(self, "in_channels", "out_channels", "block_out_channels")
        require_counts(self, "layers_per_block", "heads", "norm_groups")
        require_counts(self, "cross_attention_dim")
        levels = len(self.block_out_channels)
        for name in ("heads", "attention"):
            if len(getattr(self, name)) != levels:
                raise ValueError(
                    f"UNetConfig.{name} has {len(getattr(self, name))} entries, "
                    f"block_out_channels has {levels}. Give one per level."
                )
        # The middle block has the width and heads of the last level.
        attends_by_level = (
            *self.attention[:-1],
            self.attention[-1] or self.mid_attention,
        )
        for width, heads, attends in zip(
            self.block_out_channels, self.heads, attends_by_level, strict=True
        ):
            if attends and width % heads:
                raise ValueError(
                    f"UNetConfig: {width} channels do not divide into {heads} heads. "
                    "Change heads."
                )


def timestep_embedding(t_b: jax.Array, dim: int) -> jax.Array:
    """Sinusoidal embedding [B, dim] in float32, cosines first (SD's flip)."""
    half = dim // 2
    rates = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t_b.astype(jnp.float32)[:, None] * rates[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimestepEmbedding(nnx.Module):
    """Two linear layers with SiLU between."""

    def __init__(self, din: int, dout: int, *, dtype, rngs: nnx.Rngs):
        self.linear_1 = Linear(din, dout, dtype=dtype, rngs=rngs)
        self.linear_2 = Linear(dout, dout, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.linear_2(nnx.silu(self.linear_1(x)))


class UNet(nnx.Module):
    """Down blocks, middle, up blocks; ``remat`` recomputes each block backward."""

    def __init__(
        self, config: UNetConfig, *, dtype, remat: Policy = "none", rngs: nnx.Rngs
    ):
        kw = LayerArguments(dtype=dtype, rngs=rngs)
        widths = config.block_out_channels
        time_dim = 4 * widths[0]
        self.config, self.dtype, self.remat = config, dtype, remat
        self.conv_in = Conv(config.in_channels, widths[0], **kw)
        self.time_embedding = TimestepEmbedding(widths[0], time_dim, **kw)
        self.down_blocks = nnx.List(
            [DownBlock(config, level, time_dim, **kw) for level in range(len(widths))]
        )
        self.mid_block = MidBlock(config, time_dim, **kw)
        self.up_blocks = nnx.List(
            [UpBlock(config, i, time_dim, **kw) for i in reversed(range(len(widths)))]
        )
        self.conv_norm_out = normalisation(
            config.norm_kind, widths[0], config.norm_groups, config.norm_eps, **kw
        )
        self.conv_out = Conv(widths[0], config.out_channels, **kw)
        self.conv_shortcut = _input_shortcut(config, **kw)
        if self.conv_shortcut is not None:
            self.conv_out = zero(self.conv_out)

    def __call__(
        self, z_bhwc: jax.Array, t_b: jax.Array, context_bld: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Raw output [B,h,w,C] (eps or v, as trained) and the named features."""
        x, skips, features, time_bd, context = self._down(z_bhwc, t_b, context_bld)
        for block in self.up_blocks:
            x, skips = block(x, skips, time_bd, context, self.remat)
        x = self.conv_out(nnx.silu(self.conv_norm_out(x)))
        if self.conv_shortcut is not None:
            x = x + self.conv_shortcut(z_bhwc)
        return x, features

    def encode(
        self, z_bhwc: jax.Array, t_b: jax.Array, context_bld: jax.Array
    ) -> dict[str, jax.Array]:
        """Down path and middle only: the features a discriminator needs."""
        return self._down(z_bhwc, t_b, context_bld)[2]

    def _down(self, z, t, context):
        time_bd = timestep_embedding(t, self.config.block_out_channels[0])
        time_bd = self.time_embedding(time_bd)
        context = context.astype(self.dtype)
        x = self.conv_in(z)
        skips, features = [x], {}
        for level, block in enumerate(self.down_blocks):
            x, block_skips = block(x, time_bd, context, self.remat)
            skips += block_skips
            if level == 0:
                features["down0"] = x
        x = remat(self.mid_block, self.remat)(x, time_bd, context)
        features["mid"] = x
        return x, skips, features, time_bd, context


class DownBlock(nnx.Module):
    """Resnets, attention if any, and a stride-2 convolution except in the last."""

    def __init__(
        self, config: UNetConfig, level: int, time_dim: int, *, dtype, rngs: nnx.Rngs
    ):
        kw = LayerArguments(dtype=dtype, rngs=rngs)
        widths = config.block_out_channels
        cin, cout = widths[max(level - 1, 0)], widths[level]
        self.resnets = nnx.List(
            [
                _resnet(cin if i == 0 else cout, cout, config, time_dim, **kw)
                for i in range(config.layers_per_block)
            ]
        )
        self.attentions = _attentions(config, level, config.layers_per_block, **kw)
        last = level == len(widths) - 1
        self.downsamplers = nnx.List(
            [] if last else [Downsample(cout, padding=1, **kw)]
        )

    def __call__(self, x, time_bd, context, policy: Policy = "none"):
        skips = []
        for i, resnet in enumerate(self.resnets):
            x = remat(resnet, policy)(x, time_bd)
            if self.attentions:
                x = remat(self.attentions[i], policy)(x, context)
            skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        return x, skips


class MidBlock(nnx.Module):
    """Resnet, attention, resnet."""

    def __init__(self, config: UNetConfig, time_dim: int, *, dtype, rngs: nnx.Rngs):
        kw = LayerArguments(dtype=dtype, rngs=rngs)
        width, heads = config.block_out_channels[-1], config.heads[-1]
        self.resnets = nnx.List(
            [_resnet(width, width, config, time_dim, **kw) for _ in range(2)]
        )
        self.attentions = nnx.List(
            [_transformer(width, heads, config, **kw)] if config.mid_attention else []
        )

    def __call__(self, x, time_bd, context):
        x = self.resnets[0](x, time_bd)
        for attention in self.attentions:
            x = attention(x, context)
        return self.resnets[1](x, time_bd)


class UpBlock(nnx.Module):
    """Resnets with one skip each, attention if any, upsampling except in the last."""

    def __init__(
        self, config: UNetConfig, level: int, time_dim: int, *, dtype, rngs: nnx.Rngs
    ):
        kw = LayerArguments(dtype=dtype, rngs=rngs)
        widths = config.block_out_channels
        coarser_width = widths[min(level + 1, len(widths) - 1)]
        cout, count = widths[level], config.layers_per_block + 1
        # Skips come in reverse: `count - 1` of this level, then the last one of the
        # next finer level.
        skips = [cout] * (count - 1) + [widths[max(level - 1, 0)]]
        self.resnets = nnx.List(
            [
                _resnet(
                    (coarser_width if i == 0 else cout) + skip,
                    cout,
                    config,
                    time_dim,
                    **kw,
                )
                for i, skip in enumerate(skips)
            ]
        )
        self.attentions = _attentions(config, level, count, **kw)
        self.upsamplers = nnx.List([] if level == 0 else [Upsample(cout, **kw)])

    def __call__(self, x, skips, time_bd, context, policy: Policy = "none"):
        for i, resnet in enumerate(self.resnets):
            x = jnp.concatenate([x, skips[-1]], axis=-1)
            skips = skips[:-1]
            x = remat(resnet, policy)(x, time_bd)
            if self.attentions:
                x = remat(self.attentions[i], policy)(x, context)
        for upsample in self.upsamplers:
            # To the size of the next skip: doubling does not restore odd sizes.
            x = upsample(x, skips[-1].shape[1:3])
        return x, skips


def _resnet(cin, cout, config, time_dim, **kw):
    return ResnetBlock(
        cin,
        cout,
        time_dim=time_dim,
        groups=config.norm_groups,
        eps=config.norm_eps,
        norm=config.norm_kind,
        **kw,
    )


def _input_shortcut(config, **kw):
    """Initialised to eps = (sqrt(2) - 1) z_l, for which one step returns z_l."""
    if not config.input_shortcut:
        return None
    shortcut = Conv(config.in_channels, config.out_channels, 1, **kw)
    eye = jnp.eye(config.in_channels, config.out_channels, dtype=jnp.float32)
    shortcut.kernel = nnx.Param((math.sqrt(2.0) - 1.0) * eye[None, None])
    return shortcut


def _attentions(config, level, count, **kw):
    width, heads = config.block_out_channels[level], config.heads[level]
    indices = range(count if config.attention[level] else 0)
    return nnx.List([_transformer(width, heads, config, **kw) for _ in indices])


def _transformer(width, heads, config, **kw):
    return SpatialTransformer(
        width,
        config.cross_attention_dim,
        heads,
        groups=config.norm_groups,
        linear=config.linear_projection,
        **kw,
    )
