"""Layers shared by the networks: with a compute dtype and optional LoRA adapters.

Parameters are float32 by default and are cast to the layer's compute dtype at use;
normalisation statistics are always float32. Attribute names follow diffusers, so that a
parameter path is a torch name with another separator.
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
Side = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # (x, A, B) -> s B(A x)

# Variance 1 / fan_in, three times torch's default: deep networks train faster.
fan_in = nnx.initializers.lecun_normal()


class Linear(nnx.Module):
    """y = x W + b, plus the low-rank side path when an adapter is attached."""

    def __init__(
        self, din: int, dout: int, *, bias: bool = True, dtype, rngs: nnx.Rngs
    ):
        self.kernel = nnx.Param(fan_in(rngs.params(), (din, dout), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dout,), jnp.float32)) if bias else None
        self.lora_a = self.lora_b = nnx.data(None)
        self.lora_scale, self.lora_in_kernel = 1.0, False
        self.wide_grads = False
        self.dtype = dtype

    def _affine(self, x, kernel):
        kernel = kernel[...].astype(self.dtype)
        return (
            _with_wide_grad(jnp.dot, x, kernel)
            if self.wide_grads
            else jnp.dot(x, kernel)
        )

    def _side(self, x, lora_a, lora_b):
        side = self._affine(self._affine(x, lora_a), lora_b)
        return jnp.asarray(self.lora_scale, side.dtype) * side

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(self.dtype)
        y = _adapted(self, self._affine, x, self.kernel, self.lora_b)
        y = y if self.bias is None else y + _along_last(self.bias, y)
        return named(y, LINEAR)

    def halves(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both halves of the outputs, each with its channels split over axis `model`.

        If the outputs were split as one array, a device would have channels of one half
        only, and value * gate would need communication.
        """
        x = x.astype(self.dtype)
        kernels = map(tensor_axis.columns, jnp.split(self.kernel[...], 2, -1))
        if self.lora_b is None:
            ys = [self._affine(x, kernel) for kernel in kernels]
        else:
            bs = map(tensor_axis.columns, jnp.split(self.lora_b[...], 2, -1))
            ys = [
                _adapted(self, self._affine, x, kernel, b)
                for kernel, b in zip(kernels, bs, strict=True)
            ]
        if self.bias is not None:
            biases = map(tensor_axis.columns, jnp.split(self.bias[...], 2))
            ys = [y + _along_last(b, y) for y, b in zip(ys, biases, strict=True)]
        return named(ys[0], LINEAR), named(ys[1], LINEAR)


class LayerArguments(TypedDict):
    """Keyword arguments that a network passes to all of its layers."""

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
        self.lora_scale, self.lora_in_kernel = 1.0, False
        self.wide_grads, self.product_grads = False, False
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
        product = tensor_axis.rows_once(product)
        return (
            _with_wide_grad(product, x, kernel)
            if self.wide_grads
            else product(x, kernel)
        )

    def _window(self, x, kernel):
        return self._conv(x, kernel, self.stride, self.padding)

    def _side(self, x, lora_a, lora_b):
        side = self._conv(self._window(x, lora_a), lora_b, 1, ((0, 0), (0, 0)))
        return jnp.asarray(self.lora_scale, side.dtype) * side

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(self.dtype)
        y = _adapted(self, self._window, x, self.kernel, self.lora_b)
        y = y if self.bias is None else y + _along_last(self.bias, y)
        return named(y, CONV)


class GroupNorm(nnx.Module):
    """Group normalisation over space and channel groups, statistics in float32.

    If `moments` is set, it is used instead of the input's (``shared_norms.py``).
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
        self.pooled = False  # set moments from the inner pixels of the full batch

    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        grouped = x.astype(jnp.float32).reshape(b, h, w, self.groups, -1)
        if self.pooled:
            # Without the edges, which depend on zero padding around the sample.
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
    """Keeps list indices equal to torch's, which has a dropout layer there."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


def normalisation(
    norm: Norm, channels: int, groups: int, eps: float, *, dtype, rngs: nnx.Rngs
) -> GroupNorm | LayerNorm | Identity:
    """The normalisation layer of this type."""
    match norm:
        case "groups":
            return GroupNorm(channels, groups, eps, dtype=dtype, rngs=rngs)
        case "channels":
            return LayerNorm(channels, eps, dtype=dtype, rngs=rngs)
        case "none":
            return Identity()


class ResnetBlock(nnx.Module):
    """GroupNorm-SiLU-Conv twice with a residual; the time embedding is added between.

    At initialisation it is the identity (or its shortcut), as in the original diffusion
    code. With ``norm="none"`` there are no norms before SiLU.
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
    """Stride-2 convolution; the VAE pads right and bottom only, as in diffusers."""

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
    """The layer with a zero kernel, for residual branches that start at zero."""
    layer.kernel = nnx.Param(jnp.zeros_like(layer.kernel[...]))
    return layer


def space_to_channel(x_bhwc: jax.Array, side: int) -> jax.Array:
    """Patches of side x side pixels as channels, in the order row, column, channel.

    Height and width are multiples of ``side``; 1 changes nothing.
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
    """Compute the gradient of every kernel in float32.

    It is then also summed over devices in float32 instead of the compute dtype.
    """
    for _, layer in nnx.iter_graph(model):
        if isinstance(layer, Linear | Conv):
            layer.wide_grads = True


def product_grads(model: nnx.Module) -> None:
    """Use `kernel_gradient.convolve` for all convolutions that it suits.

    For training only: forward results may differ in the last bits.
    """
    for _, layer in nnx.iter_graph(model):
        if isinstance(layer, Conv):
            layer.product_grads = True


def lora_in_kernel(model: nnx.Module) -> None:
    """Take kernels as merged with their adapters, which get their side path's gradient.

    The forward pass is that of a plain model, and the backward pass forms no full-size
    gradient of a kernel.
    """
    for _, layer in nnx.iter_graph(model):
        if isinstance(layer, Linear | Conv):
            layer.lora_in_kernel = True


def _adapted(layer: Linear | Conv, product: Product, x, kernel, lora_b) -> jax.Array:
    """The layer's product, with its adapter as it is attached; without bias."""
    if layer.lora_a is None:
        return product(x, kernel)
    lora_a, lora_b = layer.lora_a[...], lora_b[...]
    if layer.lora_in_kernel:
        return _side_gradient(product, layer._side, x, kernel[...], lora_a, lora_b)
    return product(x, kernel) + layer._side(x, lora_a, lora_b)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _side_gradient(
    product: Product,
    side: Side,
    x: jax.Array,
    kernel: jax.Array,
    lora_a: jax.Array,
    lora_b: jax.Array,
) -> jax.Array:
    """x * kernel, whose derivative by the adapter inside the kernel is the side path's.

    The kernel itself is a constant here.
    """
    return product(x, kernel)


def _side_gradient_forward(product: Product, side: Side, x, kernel, lora_a, lora_b):
    return product(x, kernel), (x, kernel, lora_a, lora_b)


def _side_gradient_backward(product: Product, side: Side, residuals, g: jax.Array):
    x, kernel, lora_a, lora_b = residuals
    _, pull_x = jax.vjp(lambda x: product(x, kernel), x)
    _, pull_adapter = jax.vjp(lambda a, b: side(x, a, b), lora_a, lora_b)
    return *pull_x(g), None, *pull_adapter(g)


_side_gradient.defvjp(_side_gradient_forward, _side_gradient_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _with_wide_grad(product: Product, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return product(x, kernel)


def _with_wide_grad_forward(product: Product, x: jax.Array, kernel: jax.Array):
    return product(x, kernel), (x, kernel)


def _with_wide_grad_backward(product: Product, residuals, g: jax.Array):
    x, kernel = residuals
    _, pull_x = jax.vjp(lambda x: product(x, kernel), x)
    wide_x, wide_kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
    _, pull_kernel = jax.vjp(lambda k: product(wide_x, k), wide_kernel)
    (grad,) = pull_kernel(g.astype(jnp.float32))
    return *pull_x(g), grad.astype(kernel.dtype)


_with_wide_grad.defvjp(_with_wide_grad_forward, _with_wide_grad_backward)


def _standardise(x: jax.Array, axes: tuple[int, ...], eps: float) -> jax.Array:
    mean = jnp.mean(x, axes, keepdims=True)
    centred = x - mean
    variance = jnp.mean(jnp.square(centred), axes, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps)


def _along_last(param, like: jax.Array) -> jax.Array:
    """A per-channel vector with the rank of ``like``: rank promotion is an error."""
    vector = param[...].astype(like.dtype)
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)
