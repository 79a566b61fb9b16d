"""Noise against NumPy, and its laws against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gendr_jax.data.degrade import noise


def draw(gaussian, gray, sigma=0.05, scale=1.5):
    return noise.NoiseDraw(
        *map(jnp.asarray, (gaussian, gray, np.float32(sigma), np.float32(scale)))
    )


def picture(seed=0, n=32):
    rng = np.random.default_rng(seed)
    x = rng.random((3, n, n), np.float32)
    return x, rng.standard_normal((3, n, n)).astype(np.float32)


@pytest.mark.parametrize("mean", [1.0, 4.0, 10.0, 60.0, 220.0])
def test_poisson_has_the_poisson_law(mean):
    """Total variation, with the law taken over a fine grid of normal quantiles."""
    count = 400_000
    z = stats.norm.ppf((np.arange(count) + 0.5) / count)
    got = np.asarray(noise.poisson(jnp.float32(mean), jnp.asarray(z, jnp.float32)))
    top = int(got.max()) + 50
    share = np.bincount(got.astype(int), minlength=top) / count
    distance = 0.5 * np.abs(share - stats.poisson.pmf(np.arange(top), mean)).sum()
    assert distance < (0.012 if mean < 4 else 0.007)


def test_poisson_of_nothing_is_nothing():
    z = jnp.asarray([-3.0, 0.0, 3.0])
    assert not np.asarray(noise.poisson(jnp.zeros(3), z)).any()


@pytest.mark.parametrize("levels", [1, 2, 3, 17, 64, 65, 128, 129, 256])
def test_shot_levels_counts_distinct_levels_inside(levels):
    rng = np.random.default_rng(levels)
    values = rng.permutation(256)[:levels]
    x = rng.choice(values, (3, 40, 40)).astype(np.float32)
    x[0].flat[:levels] = values
    valid = np.zeros((48, 48), bool)
    valid[:40, :40] = True
    padded = rng.integers(0, 256, (3, 48, 48)).astype(np.float32)
    padded[:, :40, :40] = x
    got = float(noise.shot_levels(jnp.asarray(padded), jnp.asarray(valid)))
    assert got == 2 ** np.ceil(np.log2(levels))
    level = jnp.asarray(np.where(valid, padded, 256), jnp.int32)
    assert noise._count_by_bits(level) == noise._count_by_scatter(level) == levels


@pytest.mark.parametrize("gray", [False, True])
def test_gaussian_noise(gray):
    x, z = picture()
    got = noise.add_noise(jnp.asarray(x), jnp.asarray(z), draw(True, gray), (32, 32))
    field = z[:1] if gray else z
    want = np.clip(x.astype(np.float64) + np.float32(0.05) * field, 0, 1)
    np.testing.assert_allclose(got, want, atol=1e-6, rtol=0)


@pytest.mark.parametrize("gray", [False, True])
def test_shot_noise(gray):
    """The same counts, from NumPy in float64; a count on a rounding tie may differ."""
    x, z = picture(1)
    got = noise.add_noise(jnp.asarray(x), jnp.asarray(z), draw(False, gray), (32, 32))
    x, z = x.astype(np.float64), z.astype(np.float64)
    base, field = x, z
    if gray:
        base = np.einsum("c,chw->hw", [0.2989, 0.587, 0.114], x)[None]
        field = z[:1]
    b = np.clip(np.round(base * 255), 0, 255) / 255
    v = 2 ** np.ceil(np.log2(len(np.unique(b))))
    mean = b * v
    with np.errstate(divide="ignore", invalid="ignore"):
        count = np.floor(
            mean
            + np.sqrt(mean) * field
            + (field**2 - 1) / 6
            - (field**3 - field) / (72 * np.sqrt(mean))
            + 0.5
        )
    count = np.where(mean > 0, np.maximum(count, 0), 0)
    want = np.clip(x + 1.5 * (count / v - b), 0, 1)
    far = np.abs(np.asarray(got) - want) > 1e-5
    assert far.mean() < 1e-3


def test_shot_noise_grows_with_light():
    dark, light = (jnp.full((3, 64, 64), v) for v in (0.1, 0.6))
    z = jax.random.normal(jax.random.key(0), (3, 64, 64))
    ramp = jnp.linspace(0, 1, 256).reshape(1, 16, 16)

    def spread(x):
        x = x.at[:, :16, :16].set(ramp)
        y = noise.add_noise(x, z, draw(False, False, scale=1.0), (64, 64))
        return float(jnp.std((y - x)[:, 20:]))

    assert spread(light) / spread(dark) == pytest.approx(6**0.5, rel=0.1)
