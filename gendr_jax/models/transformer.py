"""The spatial transformer of Stable Diffusion: attention over a feature map's pixels.

Attribute names follow diffusers' Transformer2DModel.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from gendr_jax.models import tensor_axis
from gendr_jax.models.attention import attend
from gendr_jax.models.layers import (
    Conv,
    GroupNorm,
    Identity,
    LayerArguments,
    LayerNorm,
    Linear,
    zero,
)
from gendr_jax.models.remat import ATTENTION, named
from gendr_jax.models.tensor_axis import (
    all_tokens,
    gather_tokens,
    scatter_tokens,
    some_tokens,
)


class Attention(nnx.Module):
    """Multi-head attention on tokens; self-attention when the context is the input."""

    def __init__(
        self, dim: int, context_dim: int, heads: int, *, dtype, rngs: nnx.Rngs
    ):
        self.to_q = Linear(dim, dim, bias=False, dtype=dtype, rngs=rngs)
        self.to_k = Linear(context_dim, dim, bias=False, dtype=dtype, rngs=rngs)
        self.to_v = Linear(context_dim, dim, bias=False, dtype=dtype, rngs=rngs)
        self.to_out = nnx.List([Linear(dim, dim, dtype=dtype, rngs=rngs)])
        self.heads = heads

    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        by_heads = x is context and tensor_axis.divides(self.heads)
        if by_heads:
            x = context = gather_tokens(x)
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        if not by_heads:
            q = some_tokens(q)
        q, k, v = (a.reshape(*a.shape[:2], self.heads, -1) for a in (q, k, v))
        attended = named(attend(q, k, v, by_heads=by_heads), ATTENTION)
        y = self.to_out[0](attended.reshape(x.shape))
        return scatter_tokens(y) if by_heads else some_tokens(y)


class GEGLU(nnx.Module):
    """Gated linear unit with the exact (erf) GELU."""

    def __init__(self, din: int, dout: int, *, dtype, rngs: nnx.Rngs):
        self.proj = Linear(din, 2 * dout, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        if tensor_axis.axis_size() > 1:
            value, gate = self.proj.halves(x)
        else:
            value, gate = jnp.split(self.proj(x), 2, axis=-1)
        return value * nnx.gelu(gate, approximate=False)


class FeedForward(nnx.Module):
    """GEGLU to four times the width and back."""

    def __init__(self, dim: int, *, dtype, rngs: nnx.Rngs):
        self.net = nnx.List(
            [
                GEGLU(dim, 4 * dim, dtype=dtype, rngs=rngs),
                Identity(),
                Linear(4 * dim, dim, dtype=dtype, rngs=rngs),
            ]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        x = gather_tokens(x)
        for layer in self.net:
            x = layer(x)
        return scatter_tokens(x)


class TransformerBlock(nnx.Module):
    """Self-attention, cross-attention, feed-forward, each with a residual."""

    def __init__(
        self, dim: int, context_dim: int, heads: int, *, dtype, rngs: nnx.Rngs
    ):
        kw = LayerArguments(dtype=dtype, rngs=rngs)
        self.norm1 = LayerNorm(dim, 1e-5, **kw)
        self.attn1 = Attention(dim, dim, heads, **kw)
        self.norm2 = LayerNorm(dim, 1e-5, **kw)
        self.attn2 = Attention(dim, context_dim, heads, **kw)
        self.norm3 = LayerNorm(dim, 1e-5, **kw)
        self.ff = FeedForward(dim, **kw)

    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        h = self.norm1(x)
        x = x + self.attn1(h, h)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nnx.Module):
    """A transformer block over the pixels of a feature map (norm eps 1e-6)."""

    def __init__(
        self,
        channels: int,
        context_dim: int,
        heads: int,
        *,
        groups: int,
        linear: bool,
        dtype,
        rngs: nnx.Rngs,
    ):
        kw = LayerArguments(dtype=dtype, rngs=rngs)
        # SD1 projects by a 1x1 convolution, SD2 by a linear layer: equal but for the
        # shape of the weights.
        project = Linear if linear else functools.partial(Conv, kernel=1)
        self.norm = GroupNorm(channels, groups, 1e-6, **kw)
        self.proj_in = project(channels, channels, **kw)
        self.transformer_blocks = nnx.List(
            [TransformerBlock(channels, context_dim, heads, **kw)]
        )
        self.proj_out = zero(project(channels, channels, **kw))

    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        y = all_tokens(self.norm(x).reshape(b, h * w, c))
        y = _project(self.proj_in, some_tokens(y), (h, w))
        for block in self.transformer_blocks:
            y = block(y, context)
        y = all_tokens(some_tokens(_project(self.proj_out, y, (h, w))))
        return x + y.reshape(b, h, w, c)


def _project(
    layer: Linear | Conv, x_blc: jax.Array, size: tuple[int, int]
) -> jax.Array:
    """The layer on tokens of a map of this size; a convolution needs it as a map."""
    if isinstance(layer, Linear):
        return layer(x_blc)
    batch, length, width = x_blc.shape
    return layer(x_blc.reshape(batch, *size, width)).reshape(batch, length, -1)
