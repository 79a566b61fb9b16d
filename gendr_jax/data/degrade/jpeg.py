"""JPEG compression and decompression as arithmetic, without entropy coding (DiffJPEG).

PSNR against libjpeg at the same quality is 32-40 dB; both have the same PSNR against
the input.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from gendr_jax.data.degrade.resize import Length

# Annex K of the JPEG standard, transposed as in DiffJPEG.
LUMA_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
).T
CHROMA_TABLE = np.full((8, 8), 99, np.float32)
CHROMA_TABLE[:4, :4] = [
    [17, 18, 24, 47],
    [18, 21, 26, 66],
    [24, 26, 56, 99],
    [47, 66, 99, 99],
]
TO_YCC = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168736, -0.331264, 0.5],
        [0.5, -0.418688, -0.081312],
    ],
    np.float32,
)
FROM_YCC = np.array(
    [[1.0, 0.0, 1.402], [1.0, -0.344136, -0.714136], [1.0, 1.772, 0.0]], np.float32
)
# orthonormal DCT-II: row u holds a_u cos((2 x + 1) u pi / 16) / 2
DCT = np.array(
    [
        [
            (math.sqrt(0.5) if u == 0 else 1.0)
            * math.cos((2 * x + 1) * u * math.pi / 16)
            / 2
            for x in range(8)
        ]
        for u in range(8)
    ],
    np.float32,
)

# Side of the squares that one matrix product transforms: the width of a matrix unit; on
# a CPU no more than its vector units need.
UNIT, CPU_UNIT = 128, 32


def quality_factor(quality: jax.Array) -> jax.Array:
    """libjpeg's factor on its tables: quality 50 -> 1, 95 -> 0.1, 30 -> 1.667."""
    low = 50.0 / jnp.maximum(quality, 1.0)
    return jnp.where(quality < 50.0, low, 2.0 - quality / 50.0)


def jpeg(
    x_chw: jax.Array, quality: jax.Array, size: tuple[Length, Length]
) -> jax.Array:
    """Compress the first `size` pixels with 4:2:0 chroma and decompress them.

    Args:
      x_chw: RGB, clipped to [0, 1] here; pixels outside `size` are ignored.
      quality: scalar in (0, 100), not necessarily an integer.

    Returns: the shape of `x_chw`, in [0, 1], not rounded to 8 bits; pixels outside
      `size` are undefined.
    """
    return jax.lax.platform_dependent(
        x_chw,
        quality_factor(quality),
        jnp.asarray(size[0]),
        jnp.asarray(size[1]),
        cpu=functools.partial(_compress, unit=CPU_UNIT, in_slabs=False),
        default=functools.partial(_compress, unit=UNIT, in_slabs=True),
    )


def _compress(
    x_chw: jax.Array,
    factor: jax.Array,
    rows: jax.Array,
    columns: jax.Array,
    unit: int,
    in_slabs: bool,
) -> jax.Array:
    """JPEG by matrix products over squares of side `unit`, a multiple of 16.

    in_slabs: cut the picture into slabs one unit wide first, so that no product needs
      a reshape of the minor axis, which moves all data on an accelerator.
    """
    _, height, width = x_chw.shape
    valid = (jnp.arange(height) < rows)[:, None] & (jnp.arange(width) < columns)[None]
    x = jnp.where(valid[None], jnp.clip(x_chw, 0.0, 1.0), 0.0) * 255.0
    # To multiples of the unit; zeros beyond the picture, as in the reference.
    x = jnp.pad(x, ((0, 0), (0, -height % unit), (0, -width % unit)))
    slabs = x.shape[2] // unit if in_slabs else 1
    x = x.reshape(3, x.shape[1], slabs, -1).swapaxes(1, 2)
    # Luma is shifted by 128; TO_YCC leaves out the 128 that JPEG adds to chroma.
    y, cb, cr = (_mix(row, x) for row in TO_YCC)
    # Block-diagonal: the 8-point DCT of every block along one axis of the square.
    blocks = np.kron(np.eye(unit // 8, dtype=np.float32), DCT)
    luma = _quantise(y - 128.0, blocks, LUMA_TABLE, factor) + 128.0
    # Chroma: means of neighbours (4:2:0), then the DCT, in one matrix.
    halve = np.kron(np.eye(unit // 2), np.full((1, 2), 0.5)).astype(np.float32)
    half = blocks[: unit // 2, : unit // 2] @ halve
    cb, cr = (_quantise(c, half, CHROMA_TABLE, factor) for c in (cb, cr))
    rgb = jnp.stack([_mix(row, (luma, cb, cr)) for row in FROM_YCC])
    rgb = jnp.clip(rgb, 0.0, 255.0) / 255.0
    return rgb.swapaxes(1, 2).reshape(3, rgb.shape[2], -1)[:, :height, :width]


def _mix(weights: np.ndarray, planes: jax.Array | tuple[jax.Array, ...]) -> jax.Array:
    terms = (float(w) * planes[k] for k, w in enumerate(weights) if w)
    return sum(terms, start=jnp.float32(0.0))


def _quantise(
    x_shw: jax.Array, transform: np.ndarray, table: np.ndarray, factor: jax.Array
) -> jax.Array:
    """Transform slabs, round to multiples of `table` times `factor`, transform back.

    Args:
      transform: of one axis of a square, [m, n]: the DCT of its blocks of 8; for chroma
        m = n / 2, the DCT of the means of neighbours.
    """
    m, n = transform.shape
    # The inverse of an orthonormal matrix is its transpose; that of the means of
    # neighbours repeats each value, which is n / m times the transpose.
    inverse = transform.T * np.float32(n / m)
    x = _columns(transform, _rows(transform, x_shw))
    channels, height, width = x.shape
    step = jnp.asarray(np.tile(table, (m // 8, width // 8)))[None, None] * factor
    x = x.reshape(channels, height // m, m, width)
    x = jnp.round(x / step) * step
    return _rows(inverse, _columns(inverse, x.reshape(channels, height, width)))


def _rows(transform: np.ndarray, x_shw: jax.Array) -> jax.Array:
    """Every n rows to m rows; batched products, which need no transposition."""
    (m, n), (slabs, height, width) = transform.shape, x_shw.shape
    x = x_shw.reshape(slabs * height // n, n, width)
    many = jnp.broadcast_to(jnp.asarray(transform), (x.shape[0], m, n))
    x = jnp.matmul(many, x, precision="highest")
    return x.reshape(slabs, -1, width)


def _columns(transform: np.ndarray, x_shw: jax.Array) -> jax.Array:
    """Every n columns to m columns."""
    (m, n), (slabs, height, width) = transform.shape, x_shw.shape
    x = x_shw.reshape(slabs, height, width // n, n)
    x = jnp.matmul(x, jnp.asarray(transform.T), precision="highest")
    return x.reshape(slabs, height, width // n * m)
