"""Projector for feature alignment (REPA), and discriminators.

The last layer of a discriminator is initialised to zero, so that every logit is 0 and
the first update changes the discriminator alone.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from gendr_jax.models.config_checks import require_counts
from gendr_jax.models.layers import Conv, GroupNorm, LayerArguments, Linear, zero
from gendr_jax.models.remat import Policy

# torch's default, which the original heads use.
EPS = 1e-5
LEAK = 0.2


@dataclasses.dataclass(frozen=True)
class RepaProjectorConfig:
    """REPA's MLP: UNet channels to DINOv2 ViT-B channels."""

    in_dim: int = 320
    hidden_dim: int = 2048
    out_dim: int = 768


class RepaProjector(nnx.Module):
    """Linear, SiLU, Linear, SiLU, Linear per token (REPA models/sit.py build_mlp).

    Weights are Xavier-uniform, biases zero.
    """

    def __init__(
        self,
        config: RepaProjectorConfig,
        *,
        dtype,
        remat: Policy = "none",
        rngs: nnx.Rngs,
    ):
        dims = (config.in_dim, config.hidden_dim, config.hidden_dim, config.out_dim)
        self.layers = nnx.List(
            [
                Linear(a, b, dtype=dtype, rngs=rngs)
                for a, b in zip(dims, dims[1:], strict=False)
            ]
        )
        xavier = nnx.initializers.xavier_uniform()
        for layer in self.layers:
            shape = layer.kernel[...].shape
            layer.kernel = nnx.Param(xavier(rngs.params(), shape, jnp.float32))

    def __call__(self, x_bld: jax.Array) -> jax.Array:
        """Tokens [B, L, in_dim] to [B, L, out_dim]; any leading axes."""
        for layer in self.layers[:-1]:
            x_bld = nnx.silu(layer(x_bld))
        return self.layers[-1](x_bld)


@dataclasses.dataclass(frozen=True)
class DiscriminatorHeadConfig:
    """Head on the UNet's middle block."""

    in_channels: int = 1280
    hidden_channels: int = 256
    norm_groups: int = 32

    def __post_init__(self):
        require_counts(self, "in_channels", "hidden_channels", "norm_groups")


class DiscriminatorHead(nnx.Module):
    """GN, SiLU, 3x3 convolution, GN, SiLU, 1x1 convolution (method 5.1)."""

    def __init__(
        self,
        config: DiscriminatorHeadConfig,
        *,
        dtype,
        remat: Policy = "none",
        rngs: nnx.Rngs,
    ):
        kw = LayerArguments(dtype=dtype, rngs=rngs)
        c, hidden, groups = (
            config.in_channels,
            config.hidden_channels,
            config.norm_groups,
        )
        self.norm1 = GroupNorm(c, groups, EPS, **kw)
        self.conv1 = Conv(c, hidden, **kw)
        self.norm2 = GroupNorm(hidden, groups, EPS, **kw)
        self.conv2 = zero(Conv(hidden, 1, 1, **kw))

    def __call__(self, feature_bhwc: jax.Array) -> jax.Array:
        """Features [B, h, w, C] to spatial logits [B, h, w, 1]."""
        x = self.conv1(nnx.silu(self.norm1(feature_bhwc)))
        return self.conv2(nnx.silu(self.norm2(x)))


@dataclasses.dataclass(frozen=True)
class PatchDiscriminatorConfig:
    """Channels per level; each level but the last halves the size."""

    in_channels: int = 3
    widths: tuple[int, ...] = (64, 128, 256, 512)
    norm_groups: int = 32

    def __post_init__(self):
        require_counts(self, "in_channels", "widths", "norm_groups")


class PatchDiscriminator(nnx.Module):
    """PatchGAN on images (pix2pix; taming-transformers' NLayerDiscriminator).

    GroupNorm instead of the original BatchNorm, so that a sample's logits do not depend
    on the rest of its batch.
    """

    def __init__(
        self,
        config: PatchDiscriminatorConfig,
        *,
        dtype,
        remat: Policy = "none",
        rngs: nnx.Rngs,
    ):
        kw = LayerArguments(dtype=dtype, rngs=rngs)
        widths = config.widths
        ins = (config.in_channels, *widths[:-1])
        strides = (2,) * (len(widths) - 1) + (1,)
        self.convs = nnx.List(
            [
                Conv(a, b, 4, stride=s, padding=1, **kw)
                for a, b, s in zip(ins, widths, strides, strict=True)
            ]
        )
        self.norms = nnx.List(
            [GroupNorm(width, config.norm_groups, EPS, **kw) for width in widths[1:]]
        )
        self.conv_out = zero(Conv(widths[-1], 1, 4, padding=1, **kw))

    def __call__(self, x_bhwc: jax.Array) -> jax.Array:
        """Images [B, H, W, 3] to spatial logits [B, h, w, 1], h about H/2^(levels-1).

        Raises ValueError when the image is too small for any logit.
        """
        x = nnx.leaky_relu(self.convs[0](x_bhwc), LEAK)
        for conv, norm in zip(self.convs[1:], self.norms, strict=True):
            x = nnx.leaky_relu(norm(conv(x)), LEAK)
        logits = self.conv_out(x)
        if not logits.size:
            raise ValueError(
                f"PatchDiscriminator: {x_bhwc.shape[1]}x{x_bhwc.shape[2]} pixels leave "
                f"no logit after {len(self.convs)} levels. Use larger crops or fewer "
                "widths."
            )
        return logits
