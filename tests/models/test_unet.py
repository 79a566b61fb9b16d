"""The UNet without torch: features, dtypes, memory against time, sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.models.unet import UNet, UNetConfig

SMALL = UNetConfig(
    block_out_channels=(16, 32),
    layers_per_block=1,
    heads=(1, 2),
    attention=(False, True),
    cross_attention_dim=8,
    norm_groups=4,
)


@pytest.fixture(scope="module")
def small():
    """Weights and inputs without torch: (params, (z, t, context))."""
    rng = np.random.default_rng(4)
    params = jax.tree.map(
        lambda a: 0.1 * rng.standard_normal(a.shape, np.float32),
        nets.build(UNet, SMALL).abstract,
    )
    z = rng.standard_normal((2, 7, 5, 16), np.float32)
    return params, (z, np.array([3, 500]), rng.standard_normal((2, 3, 8), np.float32))


def _gradient(net, inputs):
    def loss(params):
        return jnp.sum(jnp.square(net.bind(params)(*inputs)[0].astype(jnp.float32)))

    return jax.jit(jax.grad(loss))


def test_encode_gives_the_features_of_the_whole(small):
    params, inputs = small
    net = nets.build(UNet, SMALL)
    both = jax.jit(lambda p, *x: (net.bind(p)(*x)[1], net.bind(p).encode(*x)))
    features, encoded = both(params, *inputs)
    assert encoded.keys() == features.keys() == {"down0", "mid"}
    assert features["down0"].shape == (2, 4, 3, 16)
    assert features["mid"].shape == (2, 4, 3, 32)
    for name in encoded:
        np.testing.assert_allclose(encoded[name], features[name], rtol=1e-6, atol=1e-6)


def test_encode_does_not_compute_the_up_path(small):
    params, inputs = small
    net = nets.build(UNet, SMALL)

    def flops(method):
        run = jax.jit(lambda p, *x: method(net.bind(p))(*x))
        return run.lower(params, *inputs).cost_analysis()["flops"]

    assert flops(lambda unet: unet.encode) < 0.6 * flops(lambda unet: unet)


@pytest.mark.slow
def test_bfloat16_compute_keeps_float32_parameters(small):
    params, inputs = small
    exact = nets.build(UNet, SMALL)
    half = nets.build(UNet, SMALL, dtype="bfloat16")
    assert {a.dtype for a in jax.tree.leaves(half.abstract)} == {jnp.dtype("float32")}
    out, _ = jax.jit(lambda p: half.bind(p)(*inputs))(params)
    expected, _ = jax.jit(lambda p: exact.bind(p)(*inputs))(params)
    assert out.dtype == jnp.bfloat16
    error = np.abs(np.asarray(out, np.float32) - expected).max()
    assert 0 < error < 0.05 * np.abs(expected).max()

    grads = jax.eval_shape(_gradient(half, inputs), params)
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_remat_changes_no_gradient():
    config = dataclasses.replace(
        SMALL, block_out_channels=(16,), heads=(2,), attention=(True,)
    )
    rng = np.random.default_rng(5)
    z, context = rng.standard_normal((1, 4, 4, 16)), rng.standard_normal((1, 3, 8))
    inputs = np.float32(z), np.array([500]), np.float32(context)
    plain, again = (
        nets.build(UNet, config, remat="none"),
        nets.build(UNet, config, remat="block"),
    )
    params = jax.tree.map(
        lambda a: 0.1 * rng.standard_normal(a.shape, np.float32), plain.abstract
    )
    assert "remat" in str(jax.make_jaxpr(_gradient(again, inputs))(params))
    assert "remat" not in str(jax.make_jaxpr(_gradient(plain, inputs))(params))
    plain, again = _gradient(plain, inputs)(params), _gradient(again, inputs)(params)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(again))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.parametrize("channels, count", [(16, 865_979_856), (4, 865_910_724)])
def test_full_size_parameter_counts(channels, count):
    config = UNetConfig(in_channels=channels, out_channels=channels)
    assert nets.count(nets.build(UNet, config).abstract) == count


def test_a_config_with_too_few_heads_names_the_field():
    with pytest.raises(ValueError, match="heads has 2 entries.*has 3"):
        UNetConfig(
            block_out_channels=(8, 8, 8), heads=(1, 1), attention=(True, True, True)
        )
