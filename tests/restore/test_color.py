"""restore/color.py against numpy, scipy and scikit-image, and its properties."""

import jax
import numpy as np
import pytest
from scipy import ndimage
from skimage import color as skimage_color

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


# ---- lab


def test_lab_is_that_of_scikit_image():
    x = pictures(7)
    expected = skimage_color.rgb2lab(x.astype(np.float64))
    np.testing.assert_allclose(color.to_lab(x), expected, atol=2e-2)


def test_lab_and_back_also_beyond_the_gamut():
    x = pictures(8) * 1.6 - 0.3
    np.testing.assert_allclose(color.from_lab(color.to_lab(x)), x, atol=2e-5)


def test_lab_fix_matches_the_moments_of_scikit_image_s_lab():
    sr, ref = pictures(9), (0.4 * pictures(10) + 0.3)
    fixed = np.asarray(color.lab(sr, ref))
    for i in range(2):
        of_fixed, of_ref = (np.asarray(color.to_lab(x[i])) for x in (fixed, ref))
        wanted = skimage_color.rgb2lab(ref[i].astype(np.float64))
        np.testing.assert_allclose(
            of_fixed.mean((0, 1)), wanted.mean((0, 1)), atol=5e-3
        )
        np.testing.assert_allclose(of_fixed.std((0, 1)), of_ref.std((0, 1)), rtol=2e-3)


# ---- wavelet


def a_trous(x_hwc):
    """Low frequencies by scipy: five levels, edges repeated, float64."""
    x = x_hwc.astype(np.float64)
    for level in range(5):
        kernel = np.zeros(2 * 2**level + 1)
        kernel[[0, 2**level, -1]] = 0.25, 0.5, 0.25
        for axis in (0, 1):
            x = ndimage.correlate1d(x, kernel, axis=axis, mode="nearest")
    return x


def test_wavelet_keeps_detail_and_takes_low_frequencies():
    sr, ref = pictures(11, (2, 80, 45, 3)), 0.5 * pictures(12, (2, 80, 45, 3))
    fixed = color.wavelet(sr, ref)
    for i in range(2):
        expected = sr[i] - a_trous(sr[i]) + a_trous(ref[i])
        np.testing.assert_allclose(fixed[i], expected, atol=1e-6)


@pytest.mark.slow
def test_wavelet_in_bands_with_a_halo_is_the_whole():
    sr, ref = pictures(13, (1, 150, 20, 3)), pictures(14, (1, 150, 20, 3))
    whole, halo = np.asarray(color.wavelet(sr, ref)), color.WAVELET_RADIUS
    for top, bottom in ((0, 50), (50, 100), (100, 150)):
        low, high = max(0, top - halo), min(150, bottom + halo)
        part = np.asarray(color.wavelet(sr[:, low:high], ref[:, low:high]))
        inner = part[:, top - low : bottom - low]
        np.testing.assert_array_equal(inner, whole[:, top:bottom])


def test_wavelet_a_second_time_changes_at_most_a_quarter():
    sr, ref = pictures(15, (1, 90, 90, 3)), 0.3 * pictures(16, (1, 90, 90, 3))
    once = np.asarray(color.wavelet(sr, ref))
    twice = np.asarray(color.wavelet(once, ref))
    first, second = np.linalg.norm(once - sr), np.linalg.norm(twice - once)
    assert 0 < second < first / 4


# ---- all of them


@pytest.mark.parametrize("name", ["adain", "lab", "wavelet"])
def test_padding_counts_in_none(name):
    sr, ref = pictures(17, (1, 64, 64, 3)), 0.5 * pictures(18, (1, 64, 64, 3))
    valid = (slice(None), slice(0, 50), slice(0, 37))
    mask = np.zeros(sr.shape[:3], bool)
    mask[valid] = True
    alone = color.fix(name, sr[valid], ref[valid])
    for x in (sr, ref):
        x[~mask] = 0.77
    padded = jax.jit(color.fix, static_argnums=0)(name, sr, ref, mask)[valid]
    np.testing.assert_allclose(padded, alone, atol=2e-5)


@pytest.mark.parametrize("name", ["adain", "lab"])
def test_lab_and_adain_a_second_time_change_nothing(name):
    sr, ref = pictures(19), 0.5 * pictures(20) + 0.2
    once = color.fix(name, sr, ref)
    assert np.abs(np.asarray(once) - sr).max() > 0.1
    np.testing.assert_allclose(color.fix(name, once, ref), once, atol=1e-3)


@pytest.mark.parametrize("name", ["adain", "lab", "wavelet"])
def test_equal_pictures_stay(name):
    x = pictures(21)
    np.testing.assert_allclose(color.fix(name, x, x), x, atol=2e-5)


@pytest.mark.parametrize("name", ["adain", "lab", "wavelet"])
def test_strength_goes_from_nothing_to_all(name):
    sr, ref = pictures(22), pictures(23)
    full = np.asarray(color.fix(name, sr, ref))
    np.testing.assert_array_equal(color.fix(name, sr, ref, strength=0.0), sr)
    half = color.fix(name, sr, ref, strength=0.5)
    np.testing.assert_allclose(half, (full + sr) / 2, atol=1e-6)
    np.testing.assert_array_equal(color.fix("none", sr, ref), sr)


def test_blending_is_exact_at_both_ends():
    sr, up = pictures(24), pictures(25)
    np.testing.assert_array_equal(color.blend(sr, up, 1.0), sr)
    np.testing.assert_array_equal(color.blend(sr, up, 0.0), up)


@pytest.mark.parametrize("name", ["adain", "lab"])
def test_moments_of_bands_are_those_of_the_whole(name):
    sr, ref = pictures(26, (1, 60, 31, 3)), 0.4 * pictures(27, (1, 60, 31, 3))

    def gathered(x):
        parts = [color.stats(name, x[:, i : i + 20]) for i in range(0, 60, 20)]
        total, *rest = (jax.tree.map(np.float64, part) for part in parts)
        for part in rest:
            total = color.merge(total, part)
        return total

    total = gathered(sr)
    assert total.mean.dtype == np.float64 and total.count.item() == 60 * 31
    whole = np.asarray(color.fix(name, sr, ref))
    for top in (0, 20):
        band = color.match(name, sr[:, top : top + 20], total, gathered(ref))
        np.testing.assert_allclose(band, whole[:, top : top + 20], atol=1e-5)
