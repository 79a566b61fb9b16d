"""3 x 3 convolutions for CPUs by Winograd's algorithm F(2x2, 3x3).

It computes four neighbouring outputs by 16 multiplications instead of 36, and some more
additions: Y = A^T [(G g G^T) * (B^T d B)] A for a 4 x 4 input d and a kernel g (Lavin
and Gray, 2015, section 4.1). On a CPU wide layers are 1.1 to 2 times as fast
(docs/benchmarks.md); in float32 the error is about four times that of direct
convolution. The backward pass is that of the plain convolution.
"""

import jax
import jax.numpy as jnp
from jax import lax

from gendr_jax.models import platform

SAME = ((1, 1), (1, 1))
# For fewer channels or pixels the additions cost more than the multiplications save.
MIN_CHANNELS, MIN_SIDE = 256, 24
# Larger transformed inputs are computed in strips of at least STRIP groups (2 x 2).
MAX_NUMBERS, STRIP = 16 * 2**20, 256


def suits(x_bhwc: jax.Array, kernel_hwio: jax.Array, stride: int, padding) -> bool:
    """Whether `convolve` supports these arguments and is faster on this platform."""
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

    Args: x [B, H, W, C], kernel [3, 3, C, K]. Returns [B, H, W, K]. A sample's result
    does not depend on its batch, bit for bit.
    """
    batch, height, width, channels = x_bhwc.shape
    # Groups of 2 x 2 outputs.
    group_rows, group_columns = -(-height // 2), -(-width // 2)
    fits_at_once = 16 * group_rows * group_columns * channels <= MAX_NUMBERS
    rows = group_rows if fits_at_once else min(group_rows, -(-STRIP // group_columns))
    strips = -(-group_rows // rows)
    # Adds zero, but makes the kernel depend on the input, so that XLA cannot transform
    # the kernels of all layers in advance: half a gigabyte in SD2.1's UNet.
    # (optimization_barrier is removed on a CPU.)
    kernel_hwio += jnp.where(x_bhwc[0, 0, 0, 0] > 0, 0.0, -0.0)
    kernel_grid = _along_both_axes(
        _of_kernel, [[kernel_hwio[i, j] for j in range(3)] for i in range(3)]
    )
    below, right = 2 * rows * strips - height, 2 * group_columns - width
    x = jnp.pad(x_bhwc, ((0, 0), (1, 1 + below), (1, 1 + right), (0, 0)))

    def strip(index):
        begin = (index // strips, index % strips * 2 * rows, 0, 0)
        size = (1, 2 * rows + 2, 2 * group_columns + 2, channels)
        return _strip(lax.dynamic_slice(x, begin, size)[0], kernel_grid)

    if batch * strips == 1:
        y = strip(0)
    else:
        y = lax.map(strip, jnp.arange(batch * strips))
    return y.reshape(batch, 2 * rows * strips, 2 * group_columns, -1)[
        :, :height, :width
    ]


def _strip(x_hwc, kernel_grid):
    """The convolution of one strip: [2 r + 2, 2 w + 2, C] -> [2 r, 2 w, K]."""
    # input_grid[i][j]: pixel (i, j) of the overlapping 4 x 4 inputs d of all groups.
    rows, columns = x_hwc.shape[0] // 2 - 1, x_hwc.shape[1] // 2 - 1
    input_grid = [[_every_second(x_hwc, i, j) for j in range(4)] for i in range(4)]
    input_grid = _along_both_axes(_of_input, input_grid)
    products = [
        [_product(inputs, tap) for inputs, tap in zip(*pair, strict=True)]
        for pair in zip(input_grid, kernel_grid, strict=True)
    ]
    out = jnp.stack(
        [jnp.stack(row, 2) for row in _along_both_axes(_to_output, products)], 1
    )
    return out.reshape(rows * 2, columns * 2, -1)


def _product(input_hwc, tap_ck):
    flat = jnp.dot(input_hwc.reshape(-1, input_hwc.shape[2]), tap_ck)
    return flat.reshape(*input_hwc.shape[:2], -1)


def _every_second(x_hwc, row, column):
    high, wide, channels = x_hwc.shape
    end = (row + high - 3, column + wide - 3, channels)
    return lax.slice(x_hwc, (row, column, 0), end, (2, 2, 1))


def _along_both_axes(transform, grid):
    """The 1-D transform along both axes of a grid of arrays: M grid M^T."""
    grid = [transform(row) for row in grid]
    columns = [transform(list(column)) for column in zip(*grid, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


# Products with the matrices B^T (input), G (kernel) and A^T (output) of the paper.


def _of_input(d):
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _of_kernel(g):
    outer = g[0] + g[2]
    return [g[0], 0.5 * (outer + g[1]), 0.5 * (outer - g[1]), g[2]]


def _to_output(m):
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def plain(x_bhwc: jax.Array, kernel_hwio: jax.Array) -> jax.Array:
    """The same by direct convolution."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x_bhwc, kernel_hwio, (1, 1), SAME, dimension_numbers=layout
    )


def _forward(x, kernel):
    return convolve(x, kernel), (x, kernel)


def _backward(residuals, g):
    return jax.vjp(plain, *residuals)[1](g)


convolve.defvjp(_forward, _backward)
