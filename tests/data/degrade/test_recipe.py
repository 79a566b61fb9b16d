"""Presets against the published tables, and the laws of the draws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gendr_jax.data.degrade import PRESETS, draws, kernels, recipe
from gendr_jax.errors import UsageError

COUNT = 4000


@pytest.fixture(scope="module")
def drawn():
    r = recipe("realesrgan")
    keys = jax.random.split(jax.random.key(1), COUNT)
    return jax.tree.map(
        np.asarray, jax.jit(jax.vmap(lambda k: draws.sample(k, r)))(keys)
    )


def test_presets_are_named_and_hashable():
    assert [recipe(name).name for name in PRESETS] == list(PRESETS)
    assert len({recipe(name) for name in PRESETS}) == len(PRESETS)


def test_an_unknown_preset_lists_those_that_exist():
    with pytest.raises(UsageError, match="'nope'.*osediff, realesrgan, seesr"):
        recipe("nope")


def test_published_values():
    """Numbers of the repositories that differ from the default."""
    base, seesr, stable = recipe(), recipe("seesr"), recipe("stablesr")
    assert base.first.resize == (0.15, 1.5) and base.second.resize == (0.3, 1.2)
    assert base.first.gaussian == (1, 30) and base.second.poisson == (0.05, 2.5)
    assert seesr.second.blur_prob == 0.5 and seesr.second.jpeg == (60, 100)
    assert seesr.first.blur == base.first.blur
    assert stable.first.blur.sigma == (0.2, 1.5) and stable.sharpen
    assert stable.second.blur.sigma == (0.2, 1.0)
    apisr = recipe("apisr")
    assert apisr.first.resize == (0.1, 1.2) and apisr.second.resize == (0.15, 1.2)
    assert apisr.second.resize_probs == (0.2, 0.7, 0.1) and apisr.sinc_prob == 0
    assert apisr.first.gaussian == base.first.gaussian and not apisr.sharpen
    assert recipe("invsr").second_prob == 0.5
    assert recipe("invsr").second.blur.sizes == (3, 5, 7, 9, 11, 13)


def test_resize_factors_follow_their_law(drawn):
    factor = drawn.first.factor
    counts = [(factor > 1).sum(), (factor < 1).sum(), (factor == 1).sum()]
    expected = COUNT * np.array([0.2, 0.7, 0.1])
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    down = factor[factor < 1]
    assert stats.kstest(down, stats.uniform(0.15, 0.85).cdf).pvalue > 1e-3
    up = factor[factor > 1]
    assert stats.kstest(up, stats.uniform(1, 0.5).cdf).pvalue > 1e-3


def test_other_scalars_follow_their_laws(drawn):
    modes = np.bincount(drawn.second.mode, minlength=3)
    assert stats.chisquare(modes).pvalue > 1e-3
    quality = stats.uniform(30, 65)
    assert stats.kstest(drawn.first.quality, quality.cdf).pvalue > 1e-3
    sigma = drawn.second.noise.gaussian_sigma * 255
    assert stats.kstest(sigma, stats.uniform(1, 24).cdf).pvalue > 1e-3
    for flag, prob in (
        (drawn.first.noise.is_gaussian, 0.5),
        (drawn.first.noise.is_gray, 0.4),
        (drawn.jpeg_last, 0.5),
    ):
        assert stats.binomtest(int(flag.sum()), COUNT, prob).pvalue > 1e-3


def test_kernel_kinds_follow_their_law(drawn):
    """Identity with 1 - blur_prob, 10 % sinc of the rest (the only ones below 0)."""
    kernels = drawn.second.kernel
    identity = kernels[:, 10, 10] == 1.0
    negative = kernels.min((1, 2)) < -1e-5
    # sigmas near 0.2 give kernels that are the identity to float32, hence "or more"
    assert identity.mean() == pytest.approx(0.2, abs=0.04)
    assert negative.mean() == pytest.approx(0.08, abs=0.02)
    sums = kernels.astype(np.float64).sum((1, 2))
    np.testing.assert_allclose(sums, 1.0, atol=1e-5)


def test_window_sizes_are_uniform(drawn):
    """Sinc kernels, the only ones with negative taps, fill their whole window."""
    kernels = drawn.first.kernel
    sinc = kernels[kernels.min((1, 2)) < 0]
    filled = (sinc != 0).any(1).sum(1)
    counts = [(filled == n).sum() for n in (7, 9, 11, 13, 15, 17, 19, 21)]
    assert sum(counts) == len(sinc) > 300
    assert stats.chisquare(counts).pvalue > 1e-3


def test_stages_are_independent(drawn):
    first, second = drawn.first, drawn.second
    for a, b in (
        (first.quality, second.quality),
        (first.factor, first.quality),
        (first.noise.gaussian_sigma, first.noise.poisson_scale),
    ):
        assert stats.spearmanr(a, b).pvalue > 1e-3


def test_second_pass_is_skipped_half_of_the_time_by_invsr():
    r = recipe("invsr")
    keys = jax.random.split(jax.random.key(2), COUNT)
    has = jax.jit(jax.vmap(lambda k: draws.sample(k, r).has_second))(keys)
    assert stats.binomtest(int(jnp.sum(has)), COUNT, 0.5).pvalue > 1e-3


@pytest.mark.slow
def test_apisr_resizes_anywhere_and_has_whole_qualities():
    r = recipe("apisr")
    keys = jax.random.split(jax.random.key(3), COUNT)
    drawn = jax.jit(jax.vmap(lambda k: draws.sample(k, r)))(keys)
    for order in (drawn.first, drawn.second):
        assert stats.chisquare(np.bincount(order.resize_at, minlength=3)).pvalue > 1e-3
        quality = np.asarray(order.quality)
        assert (quality == np.round(quality)).all()
        counts = np.bincount(quality.astype(int), minlength=96)[20:]
        assert len(counts) == 76 and stats.chisquare(counts).pvalue > 1e-3
    assert np.asarray(drawn.jpeg_last).all()
    assert (np.asarray(drawn.sinc)[:, 10, 10] == 1).all()
    assert draws.sample(keys[0], recipe()).first.resize_at == 1


def test_realesrgan_is_osediff_with_the_sharpened_truth():
    """realesrgan_model.py: `out = filter2D(self.gt_usm, self.kernel1)`."""
    ours, theirs = recipe("osediff"), recipe("realesrgan")
    assert theirs.sharpen and not ours.sharpen and recipe() == ours
    assert dataclasses.replace(theirs, name="osediff", sharpen=False) == ours
    sharp = {name for name in PRESETS if recipe(name).sharpen}
    assert sharp == {"realesrgan", "stablesr"}


def drawn_by(name, count=400):
    keys_b = jax.random.split(jax.random.key(3), count)
    return jax.jit(jax.vmap(lambda k: draws.sample(k, recipe(name))))(keys_b)


def test_half_of_the_mixed_samples_are_milder_and_the_others_those_of_invsr():
    plain, mixed = drawn_by("invsr"), drawn_by("mixed")
    loss = (100 - mixed.first.quality) / (100 - plain.first.quality)
    noise = mixed.first.noise.gaussian_sigma / plain.first.noise.gaussian_sigma
    np.testing.assert_allclose(noise, loss, atol=1e-4)  # one strength for all
    second = mixed.second.noise.poisson_scale / plain.second.noise.poisson_scale
    np.testing.assert_allclose(second, loss, atol=1e-4)
    change = (mixed.first.factor - 1) - loss * (plain.first.factor - 1)
    np.testing.assert_allclose(change, 0, atol=1e-5)
    whole = loss > 0.9999
    assert abs(float(whole.mean()) - 0.5) < 0.1
    assert np.histogram(loss[~whole], 4, (0, 1))[0].min() > 0.15 * (~whole).sum()
    np.testing.assert_array_equal(mixed.sinc[whole], plain.sinc[whole])
    np.testing.assert_array_equal(mixed.has_second, plain.has_second)
    np.testing.assert_allclose(mixed.first.kernel.sum((1, 2)), 1, atol=1e-5)


def test_without_strength_nothing_is_left_of_a_pass():
    draw = jax.tree.map(lambda x: x[0], drawn_by("invsr", 1).first)
    gone = draws.milder(draw, 0.0)
    np.testing.assert_array_equal(gone.kernel, kernels.identity_kernel())
    assert float(gone.factor) == 1 and float(gone.quality) == 100
    assert float(gone.noise.gaussian_sigma) == float(gone.noise.poisson_scale) == 0
    same = draws.milder(draw, 1.0)
    np.testing.assert_allclose(same.kernel, draw.kernel, atol=1e-7)
    assert float(same.factor) == pytest.approx(float(draw.factor), rel=1e-6)
