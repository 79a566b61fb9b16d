"""losses/block_grid.py: the formula, and the borders and patterns that it must see."""

import jax
import jax.numpy as jnp
import numpy as np

from gendr_jax import losses
from tests.losses.test_masked_fourier import pattern, photo


def by_hand(y, target, factor):
    def profile(x, axis):
        step = np.abs(np.diff(x, axis=axis)).mean((1 - axis, 2))
        step = step[: len(step) // factor * factor]
        g = np.log([step[k::factor].mean() + 1 / 255 for k in range(factor)])
        return g - g.mean()

    gaps = [np.abs(profile(y, a) - profile(target, a)).mean() for a in (0, 1)]
    return np.mean(gaps)


def blocks(x, factor, size, seed=0):
    """x with an offset of random sign and strength for every block."""
    b, h, w, c = x.shape
    rng = np.random.default_rng(seed)
    offset = rng.normal(0, size, (b, -(-h // factor), -(-w // factor), c))
    return x + offset.repeat(factor, 1).repeat(factor, 2)[:, :h, :w]


def test_the_formula():
    y, target = photo(50, 41), photo(50, 41, seed=3)
    loss_b = losses.block_grid(y, target, factor=4)
    np.testing.assert_allclose(loss_b, [by_hand(y[0], target[0], 4)], rtol=1e-4)


def test_it_sees_borders_of_blocks_and_patterns_and_not_other_changes():
    x = 0.2 * photo(96, 96)

    def measure(y):
        return float(losses.block_grid(jnp.asarray(y), jnp.asarray(x), factor=4)[0])

    noise = np.random.default_rng(1).normal(0, 0.01, x.shape)
    assert measure(x) == 0
    assert measure(x + 0.3) < 1e-4  # brightness
    assert measure(x + noise) < 0.01
    assert measure(blocks(x, 4, 0.03)) > 0.1
    assert measure(x + 0.05 * pattern(96, 96, 4)) > 0.08
    assert measure(blocks(x, 5, 0.03)) < 0.02  # another period
    # Eq. 33 hardly sees offsets of random sign.
    fourier = lambda y: float(losses.masked_fourier(y, x, factor=4)[0])  # noqa: E731
    assert fourier(blocks(x, 4, 0.03)) < 0.1 * fourier(x + 0.03 * pattern(96, 96, 4))


def test_its_gradient_removes_the_borders_and_stops_at_the_target():
    x = jnp.asarray(0.2 * photo(48, 48))
    y = jnp.asarray(blocks(np.asarray(x), 4, 0.03), jnp.float32)
    value = jax.jit(lambda y, x: losses.block_grid(y, x, factor=4).sum())
    slope = jax.grad(value)(y, x)
    step = 1e-3 * slope / jnp.abs(slope).max()
    assert float(value(y - step, x)) < float(value(y, x))
    assert not jnp.any(jax.grad(value, argnums=1)(y, x))
    flat = jnp.zeros((1, 16, 16, 3))
    assert jnp.all(jnp.isfinite(jax.grad(value)(flat, flat)))


def test_broken_samples_stay_their_own():
    x = jnp.asarray(photo(48, 48)).repeat(2, 0)
    loss_b = losses.block_grid(x.at[0].set(jnp.nan), x, factor=4)
    assert np.isnan(loss_b[0]) and loss_b[1] == 0
