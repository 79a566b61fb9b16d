"""Noise fields: the bits of jax.random, a normal law, and no trace of the canvas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gendr_jax.data.degrade import fields


def test_bits_are_those_of_jax_random():
    """jax.random.bits is the exclusive or of both words at the counters (0, i)."""
    key = jax.random.key(7)
    words = jax.random.key_data(key)
    counter = jnp.arange(1000, dtype=jnp.uint32)
    high, low = fields.threefry(words[0], words[1], counter * 0, counter)
    np.testing.assert_array_equal(high ^ low, jax.random.bits(key, (1000,)))


@pytest.mark.slow
def test_a_larger_canvas_starts_with_the_smaller():
    key = jax.random.key(1)
    large = fields.normals(key, 3, (64, 80))
    small = jax.jit(lambda k: fields.normals(k, 3, (48, 32)))(key)
    np.testing.assert_allclose(small, large[:, :48, :32], atol=1e-6)
    gray = fields.normals(key, 1, (64, 80))
    np.testing.assert_allclose(gray, large[:1], atol=1e-6)


def test_a_given_field_is_cut():
    given = jnp.arange(3 * 8 * 8.0).reshape(3, 8, 8)
    np.testing.assert_array_equal(fields.normals(given, 1, (4, 5)), given[:1, :4, :5])


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_values_are_normal_and_independent(kind):
    z = np.asarray(fields.normals(jax.random.key(2, impl=kind), 3, (192, 160)))
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    assert np.isfinite(z).all()
    other = np.asarray(fields.normals(jax.random.key(3, impl=kind), 3, (192, 160)))
    pairs = [(z[:, 1:], z[:, :-1]), (z[:, :, 1:], z[:, :, :-1]), (z[1:], z[:-1])]
    for a, b in [*pairs, (z[2:], z[:1]), (z, other)]:
        assert stats.pearsonr(a.ravel(), b.ravel()).pvalue > 1e-3


def test_the_ends_are_finite():
    ends = np.asarray(fields._normal(jnp.asarray([0, 2**32 - 1], jnp.uint32)))
    np.testing.assert_allclose(ends[0], -ends[1], rtol=1e-6)
    assert 5 < ends[1] < 6
