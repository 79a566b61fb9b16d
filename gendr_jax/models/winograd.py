"""3 x 3 convolutions with fewer multiplications, for processors.

Winograd's F(2x2, 3x3) makes four neighbouring outputs of sixteen products where the sum
over nine taps takes 36; what it adds are sums (Lavin and Gray, 2015, section 4.1). On a
CPU, where multiplying is what takes the time, wide layers are 1.1 to 2 times as fast
(docs/benchmarks.md); in float32 the error is about four times that of the sum. The
backward pass is that of the plain convolution.
"""

import jax
import jax.numpy as jnp
from jax import lax

from gendr_jax.models import platform

SAME = ((1, 1), (1, 1))
# Narrower or smaller, the sums cost what the products save.
MIN_CHANNELS, MIN_SIDE = 256, 24
# Up to so many numbers are transformed at once, else a strip of at least STRIP groups.
MAX_NUMBERS, STRIP = 16 * 2**20, 256


def suits(x_bhwc: jax.Array, kernel_hwio: jax.Array, stride: int, padding) -> bool:
    """Whether `convolve` is the faster way on the platform at hand."""
    height, width, channels = x_bhwc.shape[1:]
    return (
        kernel_hwio.shape[:2] == (3, 3)
        and (stride, padding) == (1, SAME)
        and x_bhwc.dtype == jnp.float32
        and min(channels, kernel_hwio.shape[3]) >= MIN_CHANNELS
        and min(height, width) >= MIN_SIDE
        and platform.platform() == "cpu"
        and platform.alone()
    )


@jax.custom_vjp
def convolve(x_bhwc: jax.Array, kernel_hwio: jax.Array) -> jax.Array:
    """The convolution of stride 1 with a 3 x 3 kernel and a border of one zero.

    Args: x [B, H, W, C], kernel [3, 3, C, K]. Returns [B, H, W, K]. A sample's bits do
    not depend on the others of its batch.
    """
    batch, height, width, channels = x_bhwc.shape
    high, wide = -(-height // 2), -(-width // 2)  # groups of 2 x 2 outputs
    whole = 16 * high * wide * channels <= MAX_NUMBERS
    rows = high if whole else min(high, -(-STRIP // wide))
    strips = -(-high // rows)
    # Nothing is added, but XLA cannot transform the kernels of all layers long before
    # it needs them: in SD2.1's UNet half a gigabyte. It drops barriers on a CPU.
    kernel_hwio += jnp.where(x_bhwc[0, 0, 0, 0] > 0, 0.0, -0.0)
    taps = _both(_of_kernel, [[kernel_hwio[i, j] for j in range(3)] for i in range(3)])
    below, right = 2 * rows * strips - height, 2 * wide - width
    x = jnp.pad(x_bhwc, ((0, 0), (1, 1 + below), (1, 1 + right), (0, 0)))

    def strip(index):
        begin = (index // strips, index % strips * 2 * rows, 0, 0)
        size = (1, 2 * rows + 2, 2 * wide + 2, channels)
        return _strip(lax.dynamic_slice(x, begin, size)[0], taps)

    if batch * strips == 1:
        y = strip(0)
    else:
        y = lax.map(strip, jnp.arange(batch * strips))
    return y.reshape(batch, 2 * rows * strips, 2 * wide, -1)[:, :height, :width]


def _strip(x_hwc, taps):
    """The products of one strip: [2 r + 2, 2 w + 2, C] -> [2 r, 2 w, K]."""
    rows, wide = x_hwc.shape[0] // 2 - 1, x_hwc.shape[1] // 2 - 1
    parts = [[_every_second(x_hwc, i, j) for j in range(4)] for i in range(4)]
    parts = _both(_of_input, parts)
    products = [
        [_product(part, tap) for part, tap in zip(*pair, strict=True)]
        for pair in zip(parts, taps, strict=True)
    ]
    out = jnp.stack([jnp.stack(row, 2) for row in _both(_to_output, products)], 1)
    return out.reshape(rows * 2, wide * 2, -1)


def _product(part_hwc, tap_ck):
    flat = jnp.dot(part_hwc.reshape(-1, part_hwc.shape[2]), tap_ck)
    return flat.reshape(*part_hwc.shape[:2], -1)


def _every_second(x_hwc, row, column):
    high, wide, channels = x_hwc.shape
    end = (row + high - 3, column + wide - 3, channels)
    return lax.slice(x_hwc, (row, column, 0), end, (2, 2, 1))


def _both(transform, grid):
    """The transform along both axes of a grid of arrays."""
    grid = [transform(row) for row in grid]
    columns = [transform(list(column)) for column in zip(*grid, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


# The matrices B^T, G and A^T of the paper, as sums.


def _of_input(d):
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _of_kernel(g):
    outer = g[0] + g[2]
    return [g[0], 0.5 * (outer + g[1]), 0.5 * (outer - g[1]), g[2]]


def _to_output(m):
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def plain(x_bhwc: jax.Array, kernel_hwio: jax.Array) -> jax.Array:
    """The same by the sum over nine taps."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x_bhwc, kernel_hwio, (1, 1), SAME, dimension_numbers=layout
    )


def _forward(x, kernel):
    return convolve(x, kernel), (x, kernel)


def _backward(kept, g):
    return jax.vjp(plain, *kept)[1](g)


convolve.defvjp(_forward, _backward)
