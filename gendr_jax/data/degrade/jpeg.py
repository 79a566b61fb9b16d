"""JPEG compression as arithmetic: the losses of a JPEG round trip, no file.

What lives here: DiffJPEG as Real-ESRGAN uses it, with its two quirks, because other
people's networks were trained on them: the luma table is transposed, and tables
scaled by the quality are not rounded to integers. Against libjpeg at one quality the
result differs by 32-40 dB, while both are equally far from the source.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from gendr_jax.data.degrade.resize import Length

# Annex K of the JPEG standard, transposed here to the layout of DiffJPEG.
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


def quality_factor(quality: jax.Array) -> jax.Array:
    """What libjpeg multiplies its tables by: 50 -> 1, 95 -> 0.1, 30 -> 1.667."""
    low = 50.0 / jnp.maximum(quality, 1.0)
    return jnp.where(quality < 50.0, low, 2.0 - quality / 50.0)


def jpeg(
    x_chw: jax.Array, quality: jax.Array, size: tuple[Length, Length]
) -> jax.Array:
    """Compress the first `size` pixels with 4:2:0 chroma and decompress them.

    Args:
      x_chw: RGB, clipped to [0, 1] here; what lies outside `size` is ignored.
      quality: scalar in (0, 100), need not be whole.

    Returns: the shape of `x_chw`, in [0, 1], not rounded to 8 bits; what lies outside
      `size` has no meaning.
    """
    _, height, width = x_chw.shape
    valid = (jnp.arange(height) < size[0])[:, None] & (jnp.arange(width) < size[1])[
        None
    ]
    x = jnp.where(valid[None], jnp.clip(x_chw, 0.0, 1.0), 0.0) * 255.0
    # Whole 16 x 16 units; zeros beyond the picture, as in the reference.
    x = jnp.pad(x, ((0, 0), (0, -height % 16), (0, -width % 16)))
    factor = quality_factor(quality)
    ycc = jnp.einsum("dc,chw->dhw", TO_YCC, x, precision="highest")
    # luma minus 128; chroma is centred on 128 and so needs nothing
    luma = _quantise(ycc[:1] - 128.0, LUMA_TABLE * factor) + 128.0
    chroma = _quantise(_halve(ycc[1:]), CHROMA_TABLE * factor)
    ycc = jnp.concatenate([luma, _double(chroma)])
    rgb = jnp.einsum("dc,chw->dhw", FROM_YCC, ycc, precision="highest")
    return jnp.clip(rgb, 0.0, 255.0)[:, :height, :width] / 255.0


def _quantise(x_chw: jax.Array, table: jax.Array) -> jax.Array:
    """8 x 8 blocks to whole multiples of `table` in the cosine domain, and back."""
    channels, height, width = x_chw.shape
    blocks = x_chw.reshape(channels, height // 8, 8, width // 8, 8)
    dct = jnp.asarray(DCT)
    coefficients = jnp.einsum(
        "uy,vx,caybx->caubv", dct, dct, blocks, precision="highest"
    )
    step = table[None, None, :, None, :]
    coefficients = jnp.round(coefficients / step) * step
    blocks = jnp.einsum(
        "uy,vx,caubv->caybx", dct, dct, coefficients, precision="highest"
    )
    return blocks.reshape(channels, height, width)


def _halve(x_chw: jax.Array) -> jax.Array:
    channels, height, width = x_chw.shape
    return x_chw.reshape(channels, height // 2, 2, width // 2, 2).mean((2, 4))


def _double(x_chw: jax.Array) -> jax.Array:
    return jnp.repeat(jnp.repeat(x_chw, 2, axis=1), 2, axis=2)
