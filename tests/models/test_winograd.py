"""Winograd's convolution is the convolution, and serves where it is the faster one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from gendr_jax.models import layers, winograd


def draw(height, width, cin, cout, batch=1, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, height, width, cin), np.float32)
    kernel = rng.standard_normal((3, 3, cin, cout), np.float32) / np.sqrt(9 * cin)
    return jnp.asarray(x), jnp.asarray(kernel, jnp.float32)


def exact(x, kernel):
    """By the definition, in float64."""
    x, kernel = (np.asarray(a, np.float64) for a in (x, kernel))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("bhwcij,ijcd->bhwd", windows, kernel, optimize=True)


SHAPES = [(1, 1, 2, 3), (2, 2, 1, 1), (5, 8, 3, 4), (8, 7, 4, 2), (11, 23, 5, 6)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("most", [None, 0])
def test_it_is_the_convolution(shape, batch, most, monkeypatch):
    if most is not None:  # strips of one or two rows of groups
        monkeypatch.setattr(winograd, "MAX_NUMBERS", most)
        monkeypatch.setattr(winograd, "STRIP", 8)
    x, kernel = draw(*shape, batch)
    convolve = jax.jit(lambda *a: winograd.convolve(*a))  # traced with the patches
    np.testing.assert_allclose(convolve(x, kernel), exact(x, kernel), atol=4e-6)


def pairwise(x, kernel):
    """The sum of float32 products by halves, as numpy adds: nearer than in order."""
    padded = np.pad(np.asarray(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    terms = np.ascontiguousarray(windows).reshape(*x.shape[:3], -1)
    taps = np.asarray(kernel).transpose(2, 0, 1, 3).reshape(terms.shape[-1], -1)
    return np.stack([(terms * taps[:, d]).sum(-1) for d in range(taps.shape[1])], -1)


def test_its_error_is_a_few_times_that_of_the_sum():
    """Larger than that of a sum by halves; XLA may sum more or less exactly."""
    x, kernel = draw(24, 24, 256, 16)
    truth = exact(x, kernel)
    ours, plain, nearest = (
        float(np.sqrt(np.mean(np.square(f(x, kernel) - truth))))
        for f in (winograd.convolve, winograd.plain, pairwise)
    )
    assert nearest < ours < 8 * nearest and ours < 8 * plain and ours < 2e-6


def test_gradients_are_those_of_the_convolution():
    x, kernel = draw(5, 6, 3, 4, batch=2)
    weight = jax.random.normal(jax.random.key(1), (2, 5, 6, 4))

    def grads(convolve):
        loss = lambda *a: jnp.sum(weight * jnp.sin(convolve(*a)))  # noqa: E731
        return jax.grad(loss, (0, 1))(x, kernel)

    pairs = zip(grads(winograd.convolve), grads(winograd.plain), strict=True)
    for ours, plain in pairs:
        np.testing.assert_allclose(ours, plain, atol=5e-6)


@pytest.mark.parametrize("most", [None, 0])
def test_a_samples_bits_do_not_depend_on_its_batch(most, monkeypatch):
    if most is not None:
        monkeypatch.setattr(winograd, "MAX_NUMBERS", most)
    x, kernel = draw(26, 31, 40, 48, batch=3)
    together = jax.jit(winograd.convolve)(x, kernel)
    for i in range(3):
        one = jax.jit(winograd.convolve)(x[i : i + 1], kernel)
        np.testing.assert_array_equal(one[0], together[i])


def test_numbers_that_are_none_stay_in_their_sample():
    x, kernel = draw(6, 6, 2, 2, batch=2)
    y = winograd.convolve(x.at[0, 0, 0, 0].set(jnp.nan), kernel)
    assert jnp.isnan(y[0]).any() and jnp.isfinite(y[1]).all()


def on_one_device(f):
    """Called as it would be on a machine of one device."""
    mesh, spec = Mesh(np.array(jax.devices()[:1]), ("data",)), PartitionSpec()
    return jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)


def conv(cin, cout, kernel=3, dtype=jnp.float32, **options):
    return layers.Conv(cin, cout, kernel, dtype=dtype, rngs=nnx.Rngs(0), **options)


def by_sums(net, side=24):
    """Whether a net's convolution on a map of that side became sums and products."""
    x = jnp.ones((1, side, side, net.kernel.shape[2]))
    return "conv_general_dilated" not in str(jax.make_jaxpr(on_one_device(net))(x))


def test_where_it_serves():
    assert by_sums(conv(256, 256)) and by_sums(conv(320, 256), side=25)
    assert not by_sums(conv(255, 256)) and not by_sums(conv(256, 255))
    assert not by_sums(conv(256, 256), side=23)
    assert not by_sums(conv(256, 256, 1))
    assert not by_sums(conv(256, 256, stride=2))
    assert not by_sums(conv(256, 256, padding=((0, 1), (0, 1))))
    assert not by_sums(conv(256, 256, dtype=jnp.bfloat16))


def test_where_devices_share_a_map_it_does_not_serve():
    """Eight of them here, and no shard_map: the partitioner splits a convolution."""
    net, x = conv(256, 256), jnp.ones((1, 24, 24, 256))
    assert "conv_general_dilated" in str(jax.make_jaxpr(net)(x))


@pytest.mark.slow
def test_a_layer_gives_the_same_either_way():
    net, x = conv(256, 260), draw(24, 27, 256, 1)[0]
    net.bias[...] = jnp.arange(260.0)
    np.testing.assert_allclose(on_one_device(net)(x), net(x), atol=2e-5)
