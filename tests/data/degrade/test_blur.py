"""Filtering and sharpening against SciPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from gendr_jax.data.degrade import blur, kernels, unsharp


def asymmetric_kernel():
    kernel = np.random.default_rng(0).random((21, 21))
    return kernel / kernel.sum()


@pytest.mark.parametrize("size", [(32, 32), (31, 17), (12, 25), (2, 5)])
def test_blur_equals_scipy(size):
    """SciPy's 'mirror' is reflection without the edge pixel; it bounces like ours."""
    kernel = asymmetric_kernel()
    x = np.random.default_rng(1).random((3, 32, 32), np.float32)
    h, w = size
    dynamic = jax.jit(lambda x, k, n: blur.blur(x, k, (n[0], n[1])))
    got = dynamic(jnp.asarray(x), jnp.asarray(kernel, jnp.float32), jnp.asarray(size))
    for channel in range(3):
        want = ndimage.correlate(
            x[channel, :h, :w].astype(float), kernel, mode="mirror"
        )
        np.testing.assert_allclose(got[channel, :h, :w], want, atol=3e-6, rtol=0)


@pytest.mark.parametrize(
    "size", [pytest.param((32, 32), marks=pytest.mark.slow), (29, 17)]
)
def test_the_accelerator_paths_equal_the_cpu_path(size):
    kernel = jnp.asarray(asymmetric_kernel(), jnp.float32)
    x = jnp.asarray(np.random.default_rng(2).random((3, 44, 52), np.float32))
    h, w = size
    for correlate in (blur._correlate_lanes, blur._correlate_blocks):
        got = blur._blur_padded(x, kernel, jnp.int32(h), jnp.int32(w), correlate)
        want = blur._blur_fourier(x, kernel, jnp.int32(h), jnp.int32(w))
        assert got.shape == want.shape == x.shape
        np.testing.assert_allclose(got[:, :h, :w], want[:, :h, :w], atol=3e-6)
    index = blur.reflect_index(jnp.int32(29), -10, 60)
    np.testing.assert_array_equal(
        blur._select_rows(x, index), blur._take_rows(x, index)
    )
    np.testing.assert_array_equal(
        blur._select_columns(x, index), blur._take_columns(x, index)
    )


def test_identity_kernel_keeps_the_picture():
    x = jnp.asarray(np.random.default_rng(3).random((3, 48, 48), np.float32))
    y = blur.blur(x, kernels.identity_kernel(), (48, 48))
    np.testing.assert_array_equal(y, x)


def test_reflection_of_one_pixel_repeats_it():
    assert not np.asarray(blur.reflect_index(jnp.int32(1), -10, 30)).any()


def test_sharpen_equals_scipy():
    size, (h, w) = 64, (60, 43)
    rng = np.random.default_rng(4)
    x = ndimage.gaussian_filter(rng.random((3, size, size)), (0, 2, 2))
    x = ((x - x.min()) / np.ptp(x)).astype(np.float32)
    taps = np.exp(-0.5 * ((np.arange(51) - 25) / 8.0) ** 2)
    taps /= taps.sum()

    def smooth(p):
        p = ndimage.correlate1d(p, taps, axis=0, mode="mirror")
        return ndimage.correlate1d(p, taps, axis=1, mode="mirror")

    got = jax.jit(lambda x, n: unsharp.sharpen(x, (n[0], n[1])))(
        jnp.asarray(x), jnp.asarray([h, w])
    )
    changed = 0.0
    for channel in range(3):
        i = x[channel, :h, :w].astype(np.float64)
        r = i - smooth(i)
        s = smooth((np.abs(r) * 255 > 10).astype(np.float64))
        want = s * np.clip(i + 0.5 * r, 0, 1) + (1 - s) * i
        changed = max(changed, np.abs(want - i).max())
        np.testing.assert_allclose(got[channel, :h, :w], want, atol=1e-4, rtol=0)
    assert changed > 0.02
