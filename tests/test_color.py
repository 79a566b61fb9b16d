"""restore/color.py against a direct form in float64, and its properties."""

import jax
import numpy as np

from gendr_jax.restore import color


def pictures(seed, shape=(2, 9, 7, 3)):
    return np.random.default_rng(seed).random(shape, np.float32)


def reference(sr_hwc, ref_hwc):
    """StableSR's adaptive_instance_normalization, in float64 on one picture."""
    sr, ref = (x.reshape(-1, 3).astype(np.float64) for x in (sr_hwc, ref_hwc))
    std = [np.sqrt(x.var(0, ddof=1) + 1e-5) for x in (sr, ref)]
    return ((sr - sr.mean(0)) / std[0] * std[1] + ref.mean(0)).reshape(sr_hwc.shape)


def test_equals_the_field_s_adain_per_sample_and_channel():
    sr, ref = pictures(0), pictures(1) * [0.2, 0.5, 0.9] + 0.05
    fixed = np.asarray(color.adain(sr, ref.astype(np.float32)))
    for i in range(2):
        np.testing.assert_allclose(fixed[i], reference(sr[i], ref[i]), atol=2e-6)


def test_padding_does_not_count():
    sr, ref = pictures(2), pictures(3)
    valid = (slice(None), slice(0, 5), slice(0, 6))
    mask = np.zeros(sr.shape[:3], bool)
    mask[valid] = True
    alone = color.adain(sr[valid], ref[valid])
    dirty = sr.copy(), ref.copy()
    for x in dirty:
        x[~mask] = 77.0
    padded = np.asarray(color.adain(*dirty, mask))[valid]
    np.testing.assert_allclose(padded, alone, atol=1e-5)


def test_a_second_time_changes_nothing():
    sr, ref = pictures(4), 0.5 * pictures(5) + 0.2
    once = color.adain(sr, ref)
    assert np.abs(np.asarray(once) - sr).max() > 0.1
    np.testing.assert_allclose(color.adain(once, ref), once, atol=2e-4)


def test_flat_and_single_pixel_pictures_take_the_reference_s_mean():
    for shape in ((1, 6, 6, 3), (1, 1, 1, 3)):
        flat, ref = np.full(shape, 0.7, np.float32), np.full(shape, 0.25, np.float32)
        np.testing.assert_allclose(color.adain(flat, ref), ref, atol=1e-6)


def test_float32_whatever_comes_in():
    half = pictures(6).astype(jax.numpy.bfloat16)
    assert color.adain(half, half).dtype == np.float32
