"""Building blocks shared by the networks: layers with a compute dtype and adapters.

Parameters are float32 by default and are cast to the layer's compute dtype at use;
normalisation statistics are always float32. Attribute names follow diffusers, so
that a parameter path is a torch name with another separator. No block knows of
files or configs; of meshes, ``tensor_axis.py`` does.
"""

import functools
from collections.abc import Callable
from typing import Literal, TypedDict

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from gendr_jax.models import kernel_gradient, tensor_axis, winograd
from gendr_jax.models.remat import CONV, LINEAR, named

# Over space and groups of channels, over the channels of each position, or not at all.
Norm = Literal["groups", "channels", "none"]
Product = Callable[[jax.Array, jax.Array], jax.Array]  # (x, kernel) -> y, bilinear

# Unit gain, where torch's default has a third of it: deep stacks learn sooner.
fan_in = nnx.initializers.lecun_normal()


class Linear(nnx.Module):
    """y = x W + b, plus the low-rank side path when an adapter is attached."""

    def __init__(
        self, din: int, dout: int, *, bias: bool = True, dtype, rngs: nnx.Rngs
    ):
        self.kernel = nnx.Param(fan_in(rngs.params(), (din, dout), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dout,), jnp.float32)) if bias else None
        self.lora_a = self.lora_b = nnx.data(None)
        self.lora_scale, self.wide_grads = 1.0, False
        self.dtype = dtype

    def _affine(self, x, kernel):
        kernel = kernel[...].astype(self.dtype)
        return _wide(jnp.dot, x, kernel) if self.wide_grads else jnp.dot(x, kernel)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(self.dtype)
        y = self._affine(x, self.kernel)
        if self.lora_a is not None:
            side = self._affine(self._affine(x, self.lora_a), self.lora_b)
            y = y + jnp.asarray(self.lora_scale, y.dtype) * side
        y = y if self.bias is None else y + _along_last(self.bias, y)
        return named(y, LINEAR)

    def halves(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both halves of the outputs, each with its channels over the mesh's `model`.

        Split as one, a device would have channels of one half only.
        """
        x = x.astype(self.dtype)
        first, second = map(tensor_axis.columns, jnp.split(self.kernel[...], 2, -1))
        ys = [self._affine(x, kernel) for kernel in (first, second)]
        if self.lora_a is not None:
            assert self.lora_b is not None  # they come in pairs
            inner = self._affine(x, self.lora_a)
            scale = jnp.asarray(self.lora_scale, inner.dtype)
            bs = map(tensor_axis.columns, jnp.split(self.lora_b[...], 2, -1))
            ys = [
                y + scale * self._affine(inner, b) for y, b in zip(ys, bs, strict=True)
            ]
        if self.bias is not None:
            biases = map(tensor_axis.columns, jnp.split(self.bias[...], 2))
            ys = [y + _along_last(b, y) for y, b in zip(ys, biases, strict=True)]
        return named(ys[0], LINEAR), named(ys[1], LINEAR)


class LayerArguments(TypedDict):
    """What a network hands to every one of its layers."""

    dtype: DTypeLike
    rngs: nnx.Rngs


class Conv(nnx.Module):
    """2-D convolution, NHWC x HWIO, explicit padding; adapter A is kxk, B is 1x1."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        padding: int | tuple[tuple[int, int], tuple[int, int]] | None = None,
        bias: bool = True,
        dtype,
        rngs: nnx.Rngs,
    ):
        shape = (kernel, kernel, cin, cout)
        self.kernel = nnx.Param(fan_in(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((cout,), jnp.float32)) if bias else None
        self.lora_a = self.lora_b = nnx.data(None)
        self.lora_scale, self.wide_grads, self.product_grads = 1.0, False, False
        self.dtype = dtype
        self.stride = stride
        pad = kernel // 2 if padding is None else padding
        self.padding = ((pad, pad), (pad, pad)) if isinstance(pad, int) else pad

    def _conv(self, x, kernel, stride, padding):
        kernel = kernel[...].astype(self.dtype)
        if winograd.suits(x, kernel, stride, padding):
            return winograd.convolve(x, kernel)
        if self.product_grads and kernel_gradient.suits(x, kernel, stride, padding):
            return kernel_gradient.convolve(x, kernel)
        product = functools.partial(
            jax.lax.conv_general_dilated,
            window_strides=(stride, stride),
            padding=padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return _wide(product, x, kernel) if self.wide_grads else product(x, kernel)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(self.dtype)
        y = self._conv(x, self.kernel, self.stride, self.padding)
        if self.lora_a is not None:
            side = self._conv(x, self.lora_a, self.stride, self.padding)
            side = self._conv(side, self.lora_b, 1, ((0, 0), (0, 0)))
            y = y + jnp.asarray(self.lora_scale, y.dtype) * side
        y = y if self.bias is None else y + _along_last(self.bias, y)
        return named(y, CONV)


class GroupNorm(nnx.Module):
    """Group normalisation over space and channel groups, statistics in float32.

    Given `moments`, it uses those instead of its input's (``shared_norms.py``).
    """

    def __init__(
        self, channels: int, groups: int, eps: float, *, dtype, rngs: nnx.Rngs
    ):
        if channels % groups:
            raise ValueError(
                f"GroupNorm: {channels} channels do not divide into {groups} groups."
            )
        self.scale = nnx.Param(jnp.ones((channels,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))
        self.groups, self.eps, self.dtype = groups, eps, dtype
        self.moments = nnx.data(None)  # mean, variance: [groups] each
        self.pooled = False  # take those of the whole batch, but edges, and keep them

    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        grouped = x.astype(jnp.float32).reshape(b, h, w, self.groups, -1)
        if self.pooled:
            # Zeros beyond a sample's edges are not part of the picture.
            inner = grouped[:, h // 8 : h - h // 8, w // 8 : w - w // 8]
            mean = jnp.mean(inner, (0, 1, 2, 4))
            centred = inner - mean[None, None, None, :, None]
            self.moments = (mean, jnp.mean(jnp.square(centred), (0, 1, 2, 4)))
        if self.moments is None:
            y = _standardise(grouped, (1, 2, 4), self.eps).reshape(b, h, w, c)
        else:
            mean, variance = (m[None, None, None, :, None] for m in self.moments)
            y = (grouped - mean) * jax.lax.rsqrt(variance + self.eps)
            y = y.reshape(b, h, w, c)
        y = y * _along_last(self.scale, y) + _along_last(self.bias, y)
        return y.astype(self.dtype)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, statistics in float32."""

    def __init__(self, dim: int, eps: float, *, dtype, rngs: nnx.Rngs):
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.eps, self.dtype = eps, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        y = _standardise(x.astype(jnp.float32), (-1,), self.eps)
        y = y * _along_last(self.scale, y) + _along_last(self.bias, y)
        return y.astype(self.dtype)


class Identity(nnx.Module):
    """Holds a place in a list so that list indices equal torch's (dropout there)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


def normalisation(
    norm: Norm, channels: int, groups: int, eps: float, *, dtype, rngs: nnx.Rngs
) -> GroupNorm | LayerNorm | Identity:
    """The layer of this kind."""
    match norm:
        case "groups":
            return GroupNorm(channels, groups, eps, dtype=dtype, rngs=rngs)
        case "channels":
            return LayerNorm(channels, eps, dtype=dtype, rngs=rngs)
        case "none":
            return Identity()


class ResnetBlock(nnx.Module):
    """GroupNorm-SiLU-Conv twice with a residual; the time embedding joins between.

    A fresh block is the identity (or its shortcut), as in the original diffusion code.
    With ``norm="none"`` its input goes to SiLU as it is.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        *,
        time_dim: int | None,
        groups: int,
        eps: float,
        norm: Norm = "groups",
        dtype,
        rngs: nnx.Rngs,
    ):
        def normalise(channels: int) -> GroupNorm | LayerNorm | Identity:
            return normalisation(norm, channels, groups, eps, dtype=dtype, rngs=rngs)

        self.norm1 = normalise(cin)
        self.conv1 = Conv(cin, cout, dtype=dtype, rngs=rngs)
        self.time_emb_proj = (
            None if time_dim is None else Linear(time_dim, cout, dtype=dtype, rngs=rngs)
        )
        self.norm2 = normalise(cout)
        self.conv2 = zero(Conv(cout, cout, dtype=dtype, rngs=rngs))
        self.conv_shortcut = (
            None if cin == cout else Conv(cin, cout, 1, dtype=dtype, rngs=rngs)
        )

    def __call__(self, x: jax.Array, time_bd: jax.Array | None = None) -> jax.Array:
        h = self.conv1(nnx.silu(self.norm1(x)))
        if self.time_emb_proj is not None:
            assert time_bd is not None, "this block was made for a time embedding"
            h = h + self.time_emb_proj(nnx.silu(time_bd))[:, None, None, :]
        h = self.conv2(nnx.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample(nnx.Module):
    """Stride-2 convolution; the VAE pads right and bottom only, as its original."""

    def __init__(self, channels: int, *, padding, dtype, rngs: nnx.Rngs):
        self.conv = Conv(
            channels, channels, stride=2, padding=padding, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x)


class Upsample(nnx.Module):
    """Nearest-neighbour enlargement, then a convolution."""

    def __init__(self, channels: int, *, dtype, rngs: nnx.Rngs):
        self.conv = Conv(channels, channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
        h, w = x.shape[1] * 2, x.shape[2] * 2
        return self.conv(nearest(x, (h, w) if size is None else size))


def zero(layer: Linear | Conv) -> Linear | Conv:
    """The layer with a zero kernel: a residual branch that starts as nothing."""
    layer.kernel = nnx.Param(jnp.zeros_like(layer.kernel[...]))
    return layer


def space_to_channel(x_bhwc: jax.Array, side: int) -> jax.Array:
    """Patches of side x side pixels as channels: row, column, channel, in this order.

    Exact for sides that are multiples of ``side``; 1 leaves all as it is.
    """
    if side == 1:
        return x_bhwc
    b, h, w, c = x_bhwc.shape
    x = x_bhwc.reshape(b, h // side, side, w // side, side, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // side, w // side, -1)


def channel_to_space(x_bhwc: jax.Array, side: int) -> jax.Array:
    """The inverse of ``space_to_channel``."""
    if side == 1:
        return x_bhwc
    b, h, w, c = x_bhwc.shape
    x = x_bhwc.reshape(b, h, w, side, side, c // side**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * side, w * side, -1)


def nearest(x_bhwc: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Nearest resize with torch's index rule floor(i * in / out)."""
    for axis, n in ((1, size[0]), (2, size[1])):
        m = x_bhwc.shape[axis]
        if n == 2 * m:
            x_bhwc = jnp.repeat(x_bhwc, 2, axis=axis)
        elif n != m:
            x_bhwc = jnp.take(x_bhwc, jnp.arange(n) * m // n, axis=axis)
    return x_bhwc


def widen_grads(model: nnx.Module) -> None:
    """Let the gradient of every kernel leave its product as float32.

    Devices then add their parts of it in float32, where otherwise they do so in the
    compute dtype.
    """
    for _, layer in nnx.iter_graph(model):
        if isinstance(layer, Linear | Conv):
            layer.wide_grads = True


def product_grads(model: nnx.Module) -> None:
    """Let convolutions take their kernel's gradient as products, where that suits.

    For training alone: the forward pass keeps its sum, not always its last bits.
    """
    for _, layer in nnx.iter_graph(model):
        if isinstance(layer, Conv):
            layer.product_grads = True


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _wide(product: Product, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return product(x, kernel)


def _wide_forward(product: Product, x: jax.Array, kernel: jax.Array):
    return product(x, kernel), (x, kernel)


def _wide_backward(product: Product, kept, g: jax.Array):
    x, kernel = kept
    _, pull_x = jax.vjp(lambda x: product(x, kernel), x)
    wide_x, wide_kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
    _, pull_kernel = jax.vjp(lambda k: product(wide_x, k), wide_kernel)
    (grad,) = pull_kernel(g.astype(jnp.float32))
    return *pull_x(g), grad.astype(kernel.dtype)


_wide.defvjp(_wide_forward, _wide_backward)


def _standardise(x: jax.Array, axes: tuple[int, ...], eps: float) -> jax.Array:
    mean = jnp.mean(x, axes, keepdims=True)
    centred = x - mean
    variance = jnp.mean(jnp.square(centred), axes, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps)


def _along_last(param, like: jax.Array) -> jax.Array:
    """A per-channel vector, shaped to broadcast over ``like`` without rank rules."""
    vector = param[...].astype(like.dtype)
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)
