"""losses/random_pad.py: the same draw on both, reflection, every offset."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import losses


@pytest.mark.parametrize("factor", [4, 8])
def test_it_is_numpys_reflection_by_the_drawn_sides(factor):
    x = np.random.default_rng(0).standard_normal((factor, 12, 17, 3)).astype("f4")
    offsets = np.stack([np.arange(factor), np.arange(factor)[::-1]], -1)
    padded = losses.random_pad(jnp.asarray(x), jnp.asarray(offsets), factor)
    assert padded.shape == (factor, 12 + factor, 17 + factor, 3)
    for one, picture, (top, left) in zip(padded, x, offsets, strict=True):
        sides = ((top, factor - top), (left, factor - left), (0, 0))
        np.testing.assert_array_equal(one, np.pad(picture, sides, mode="reflect"))


def test_offsets_are_uniform_per_sample_and_follow_the_key():
    keys = jax.random.split(jax.random.key(3), 4000)
    offsets = np.asarray(losses.random_offsets(keys, 8))
    assert offsets.shape == (4000, 2)
    for axis in (0, 1):
        counts = np.bincount(offsets[:, axis], minlength=8)
        assert len(counts) == 8 and counts.min() > 400 and counts.max() < 600
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.06
    np.testing.assert_array_equal(losses.random_offsets(keys[7:9], 8), offsets[7:9])


def test_gradients_come_back_to_every_pixel():
    x = jnp.ones((2, 9, 9, 1))
    offsets = jnp.array([[0, 3], [2, 1]])
    grad = jax.grad(lambda x: losses.random_pad(x, offsets, 4).sum())(x)
    assert grad.min() >= 1 and grad.sum() == 2 * 13 * 13
