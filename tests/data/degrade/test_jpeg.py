"""DiffJPEG against SciPy in float64, and against libjpeg."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import fft, ndimage
from skimage import data

from gendr_jax.data.degrade import jpeg

# Annex K as printed in the standard, quantisation of luma, row by row.
ANNEX_K = np.array(
    """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56
    14 17 22 29 51 87 80 62 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92
    49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99""".split(),
    float,
).reshape(8, 8)


def photo(height, width, seed=0):
    """Smooth shapes with an edge: something that a JPEG is made for."""
    rng = np.random.default_rng(seed)
    light = ndimage.gaussian_filter(rng.random((height, width)), 2)
    colour = ndimage.gaussian_filter(rng.random((3, height, width)), (0, 4, 4))
    x = (light - light.mean()) / light.std() + 0.2 * (colour - 0.5) / colour.std()
    x = (x - x.min()) / np.ptp(x)
    x[:, :, width // 3 :] *= 0.6
    return (np.round(x * 255) / 255).astype(np.float32)


def oracle(x, quality):
    """(result, distance of the closest coefficient to a rounding tie) in float64.

    The distance is given for every pixel: the smallest over its 16 x 16 unit.
    """
    _, height, width = x.shape
    x = np.pad(x.astype(np.float64), ((0, 0), (0, -height % 16), (0, -width % 16)))
    factor = (5000 / quality if quality < 50 else 200 - 2 * quality) / 100
    r, g, b = x * 255
    y = 0.299 * r + 0.587 * g + 0.114 * b
    cb = -0.168736 * r - 0.331264 * g + 0.5 * b + 128
    cr = 0.5 * r - 0.418688 * g - 0.081312 * b + 128
    margin = np.full((x.shape[1] // 16, x.shape[2] // 16), np.inf)
    planes = []
    for plane, table in ((y, jpeg.LUMA_TABLE), (cb, None), (cr, None)):
        table = ANNEX_K.T if table is not None else jpeg.CHROMA_TABLE.astype(float)
        chroma = plane is not y
        if chroma:
            h, w = plane.shape
            plane = plane.reshape(h // 2, 2, w // 2, 2).mean((1, 3))
        h, w = plane.shape
        blocks = (plane - 128).reshape(h // 8, 8, w // 8, 8).transpose(0, 2, 1, 3)
        steps = fft.dctn(blocks, axes=(2, 3), norm="ortho") / (table * factor)
        tie = (0.5 - np.abs(steps - np.round(steps))).min((2, 3))
        if not chroma:
            tie = tie.reshape(h // 16, 2, w // 16, 2).min((1, 3))
        margin = np.minimum(margin, tie)
        back = fft.idctn(np.round(steps) * table * factor, axes=(2, 3), norm="ortho")
        plane = back.transpose(0, 2, 1, 3).reshape(h, w) + 128
        planes.append(np.kron(plane, np.ones((2, 2))) if chroma else plane)
    y, cb, cr = planes
    rgb = np.stack(
        [
            y + 1.402 * (cr - 128),
            y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128),
            y + 1.772 * (cb - 128),
        ]
    )
    rgb = np.clip(rgb, 0, 255)[:, :height, :width] / 255
    return rgb, np.kron(margin, np.ones((16, 16)))[:height, :width]


@pytest.mark.parametrize("quality", [30.0, 49.7, 50.0, 71.3, 95.0])
@pytest.mark.parametrize("size", [(64, 64), (41, 58), (9, 16)])
def test_equals_the_oracle(quality, size):
    x = photo(*size)
    want, margin = oracle(x, quality)
    canvas = np.random.default_rng(1).random((3, 64, 80), np.float32)
    canvas[:, : size[0], : size[1]] = x
    run = jax.jit(lambda x, q, n: jpeg.jpeg(x, q, (n[0], n[1])))
    got = run(jnp.asarray(canvas), jnp.float32(quality), jnp.asarray(size))
    got = np.asarray(got)[:, : size[0], : size[1]]
    # a coefficient that close to a tie may be rounded either way in float32
    clear = margin > 1e-4
    assert clear.mean() > 0.7
    np.testing.assert_allclose(got[:, clear], want[:, clear], atol=1e-5, rtol=0)


def test_factor_of_the_quality():
    q = jnp.asarray([30.0, 50.0, 95.0])
    np.testing.assert_allclose(jpeg.quality_factor(q), [5 / 3, 1, 0.1], rtol=1e-5)


# dB between DiffJPEG and libjpeg, of photographs: one crop had 31.8, 32.6 and 40.6
BANDS = {30: (31, 39), 60: (32, 40), 95: (38, 45)}


@pytest.mark.parametrize("quality", BANDS)
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_is_a_look_alike_of_libjpeg(name, quality):
    """As far from the source as libjpeg, and closer to libjpeg than to the source."""
    levels = getattr(data, name)()[100:292, 130:322]
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    x, real = (
        np.moveaxis(np.asarray(p), -1, 0).astype(np.float32) / 255
        for p in (levels, Image.open(stream))
    )
    run = jax.jit(lambda x, q: jpeg.jpeg(x, q, (192, 192)))
    ours = np.asarray(run(jnp.asarray(x), jnp.float32(quality)))

    def psnr(a, b):
        return -10 * np.log10(np.mean((a - b) ** 2))

    assert psnr(ours, x) == pytest.approx(psnr(real, x), abs=1.5)
    assert psnr(ours, real) > psnr(real, x)
    low, high = BANDS[quality]
    assert low < psnr(ours, real) < high


def test_lower_quality_loses_more():
    x = jnp.asarray(photo(64, 64, 3))
    run = jax.jit(lambda q: jnp.mean(jnp.square(jpeg.jpeg(x, q, (64, 64)) - x)))
    errors = [float(run(jnp.float32(q))) for q in (10, 30, 60, 95)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 4
