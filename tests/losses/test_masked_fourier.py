"""losses/masked_fourier.py against loops written by hand, and patterns it must see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import losses
from gendr_jax.losses.masked_fourier import peak_mask


def photo(h=64, w=48, seed=0):
    """Smooth noise: like a photograph, most energy is at low frequencies."""
    rng = np.random.default_rng(seed)
    v, u = np.meshgrid(np.fft.fftfreq(h), np.fft.fftfreq(w), indexing="ij")
    fall = 1 / (0.02 + np.hypot(v, u))[..., None]
    spectrum = np.fft.fft2(rng.standard_normal((h, w, 3)), axes=(0, 1)) * fall
    x = np.fft.ifft2(spectrum, axes=(0, 1)).real
    return (x / np.abs(x).max()).astype(np.float32)[None]


def pattern(h, w, period, seed=1):
    tile = np.random.default_rng(seed).standard_normal((period, period, 3))
    reps = (-(-h // period), -(-w // period), 1)
    tile -= tile.mean((0, 1))
    return np.tile(tile, reps)[None, :h, :w].astype(np.float32)


def by_hand(y, target, factor, radius):
    _, h, w, c = y.shape
    total = 0.0
    for channel in range(c):
        a = np.abs(np.fft.fft2(y[0, ..., channel])) / np.sqrt(h * w)
        b = np.abs(np.fft.fft2(target[0, ..., channel])) / np.sqrt(h * w)
        for v in range(h):
            for u in range(w):
                is_open = False
                for k in range(factor):
                    for m in range(factor):
                        dv = abs(v - k * h / factor)
                        du = abs(u - m * w / factor)
                        dv, du = min(dv, h - dv), min(du, w - du)
                        is_open |= (k, m) != (0, 0) and dv**2 + du**2 <= radius**2
                total += is_open * abs(a[v, u] - b[v, u])
    return total / (h * w * c)


@pytest.mark.parametrize(("h", "w", "factor", "radius"), [(48, 40, 8, 2.0)])
def test_the_formula(h, w, factor, radius):
    y, target = photo(h, w), photo(h, w, seed=3)
    loss_b = losses.masked_fourier(y, target, factor=factor, radius=radius)
    np.testing.assert_allclose(loss_b, [by_hand(y, target, factor, radius)], rtol=2e-4)


def test_a_pattern_that_repeats_every_8_pixels_is_what_it_sees():
    x = photo(96, 96)

    def measure(y):
        return float(losses.masked_fourier(y, x, factor=8)[0])

    assert measure(x) == 0
    eight = measure(x + 0.05 * pattern(96, 96, 8))
    # As strong, at frequencies of 96 / 3, which are 4 bins from multiples of 96 / 8.
    assert eight > 100 * measure(x + 0.05 * pattern(96, 96, 3))
    # Brighter, and under a slow wave: frequencies that belong to the picture.
    wave = 0.1 * np.cos(2 * np.pi * np.arange(96) / 48).astype(np.float32)
    assert eight > 100 * measure(x + 0.3 + wave[None, :, None, None])
    assert measure(x + 0.025 * pattern(96, 96, 8)) < 0.7 * eight


def test_descent_lowers_the_planted_pattern_and_leaves_the_picture():
    x, planted = photo(), 0.05 * pattern(64, 48, 8)
    y = jnp.asarray(x + planted)
    grad = jax.jit(jax.grad(lambda y: losses.masked_fourier(y, x, factor=8).sum()))
    for _ in range(60):
        y = y - 0.02 * y.size * grad(y)
    left = np.asarray(y) - x
    along = np.vdot(left, planted) / np.vdot(planted, planted)
    assert along < 0.5
    rest = left - along * planted
    assert np.linalg.norm(rest) < 0.6 * np.linalg.norm(planted)


def test_where_the_pattern_lies_does_not_matter_and_mirroring_does():
    x, y = photo(), photo(seed=5)
    plain = losses.masked_fourier(y, x, factor=8)
    moved = np.roll(y, (3, 5), axis=(1, 2))  # magnitudes do not know positions
    np.testing.assert_allclose(losses.masked_fourier(moved, x, factor=8), plain, 1e-4)
    turned = y[:, ::-1, ::-1]  # nor does a turn by 180 degrees change them
    np.testing.assert_allclose(losses.masked_fourier(turned, x, factor=8), plain, 1e-4)
    # A diagonal pattern mirrored on one axis has its peaks elsewhere.
    v, u = np.mgrid[:64, :48]
    diagonal = (0.1 * np.cos(2 * np.pi * (v + u) / 8))[None, :, :, None]
    diagonal = np.repeat(diagonal, 3, -1).astype(np.float32)
    both = losses.masked_fourier(x + diagonal, x + diagonal[:, ::-1], factor=8)
    assert both[0] > 1e-3


@pytest.mark.parametrize(("h", "w", "factor"), [(64, 48, 8), (40, 40, 8), (32, 36, 4)])
def test_the_mask(h, w, factor):
    mask = np.asarray(peak_mask(h, w, factor))
    assert set(np.unique(mask)) == {0.0, 1.0}
    assert not mask[:3, 0].any() and not mask[0, -2:].any()  # about frequency zero
    assert mask[0, w // factor] == mask[h // factor, 0] == mask[h // 2, w // 2] == 1
    for axis in (0, 1):  # M(-v, -u) = M(v, u), as magnitudes of real pictures are
        mirrored = np.roll(np.flip(mask, axis), 1, axis)
        np.testing.assert_array_equal(mirrored, mask)
    disc = sum(a * a + b * b <= 4 for a in range(-2, 3) for b in range(-2, 3))
    if h % factor == w % factor == 0:
        assert mask.sum() == disc * (factor**2 - 1)


def test_the_gradient_is_finite_on_flat_pictures_and_stops_at_the_target():
    flat = jnp.full((2, 48, 48, 3), 0.5)
    x = jnp.asarray(photo(48, 48)).repeat(2, 0)
    value = lambda y, t: losses.masked_fourier(y, t, factor=8).sum()  # noqa: E731
    to_y, to_target = jax.grad(value, argnums=(0, 1))(flat, x)
    assert np.isfinite(to_y).all() and not np.any(to_target)
    assert np.abs(jax.grad(value)(x, flat)).max() > 0
    assert losses.masked_fourier(flat.astype(jnp.bfloat16), x, factor=8).shape == (2,)


def test_too_small_a_picture_is_refused():
    with pytest.raises(ValueError, match="32 x 64.*at least 40"):
        losses.masked_fourier(jnp.zeros((1, 32, 64, 3)), jnp.zeros(()), factor=8)
