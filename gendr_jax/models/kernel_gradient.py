"""3 x 3 convolutions for CPUs whose kernel gradient is nine matrix products.

XLA computes the kernel's gradient as a convolution with a kernel as large as the
picture, which on a CPU takes five to fifteen times as long as the forward pass in
narrow layers. One matrix product for each of the nine shifts gives the same sum.
"""

import jax
import jax.numpy as jnp

from gendr_jax.models import platform

SAME = ((1, 1), (1, 1))


def suits(x_bhwc: jax.Array, kernel_hwio: jax.Array, stride: int, padding) -> bool:
    """Whether `convolve` supports these arguments and is faster on this platform."""
    return (
        kernel_hwio.shape[:2] == (3, 3)
        and (stride, padding) == (1, SAME)
        and x_bhwc.dtype == jnp.float32
        and platform.platform() == "cpu"
        and platform.alone()
    )


@jax.custom_vjp
def convolve(x_bhwc: jax.Array, kernel_hwio: jax.Array) -> jax.Array:
    """The convolution of stride 1 with a 3 x 3 kernel and a border of one zero."""
    return _plain(x_bhwc, kernel_hwio)


def _plain(x_bhwc: jax.Array, kernel_hwio: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x_bhwc, kernel_hwio, (1, 1), SAME, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _forward(x_bhwc: jax.Array, kernel_hwio: jax.Array):
    return convolve(x_bhwc, kernel_hwio), (x_bhwc, kernel_hwio)


def _backward(residuals, g_bhwk: jax.Array):
    x, kernel = residuals
    _, height, width, channels = x.shape
    rotated_kernel = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    padded = jnp.pad(x, ((0, 0), *SAME, (0, 0)))
    g_nk = g_bhwk.reshape(-1, g_bhwk.shape[-1])
    shifts = [
        padded[:, i : i + height, j : j + width].reshape(-1, channels)
        for i in range(3)
        for j in range(3)
    ]
    grad = jnp.stack([jnp.dot(shift.T, g_nk) for shift in shifts])
    return _plain(g_bhwk, rotated_kernel), grad.reshape(kernel.shape)


convolve.defvjp(_forward, _backward)
