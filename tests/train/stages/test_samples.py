"""Batches into pairs, and draws that depend on the sample's index alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.data.degrade import recipe
from gendr_jax.models.vae import VAEConfig
from gendr_jax.train.stages import samples
from tests.helpers.tiny_stages import PARTS, ToyVAE, random

NAMES = ("t_score", "eps_score", "prompt")
KEY = jax.random.key(3)


def data(keys):
    return np.asarray(jax.random.key_data(keys))


def index(*values):
    return jnp.asarray(values, jnp.uint32)


def test_draws_depend_on_the_index_alone():
    """Not on position, order, batch size or the other samples."""
    alone = samples.draws(KEY, index(7), NAMES)
    batch = samples.draws(KEY, index(5, 9, 7, 2**31 + 7, 0), NAMES)
    turned = samples.draws(KEY, index(7, 0, 9), NAMES)
    for name in NAMES:
        np.testing.assert_array_equal(data(batch[name])[2], data(alone[name])[0])
        np.testing.assert_array_equal(data(turned[name])[0], data(alone[name])[0])
        np.testing.assert_array_equal(data(turned[name])[1], data(batch[name])[4])
    # Values, not only keys: noise of one sample is the same in any batch.
    like = jnp.zeros((5, 4, 6, 2))
    many = samples.normal_like(batch["eps_score"], like)
    one = samples.normal_like(alone["eps_score"], like[:1])
    np.testing.assert_array_equal(many[2], one[0])


def test_draws_differ_by_name_sample_and_key():
    keys = samples.draws(KEY, index(*range(16)), NAMES)
    other = samples.draws(jax.random.fold_in(KEY, 1), index(*range(16)), NAMES)
    rows = [
        tuple(row) for k in (keys, other) for name in NAMES for row in data(k[name])
    ]
    assert len(set(rows)) == len(rows) == 2 * len(NAMES) * 16


def test_timesteps_take_both_ends():
    keys = samples.draws(KEY, index(*range(400)), ("t",))["t"]
    t = np.asarray(samples.timesteps(keys, 20, 23))
    assert set(t) == {20, 21, 22, 23}
    full = np.asarray(samples.timesteps(keys, 0, 999))
    assert full.min() >= 0 and full.max() <= 999 and np.std(full) > 250


def test_noise_reads_the_draw_of_its_name():
    keys = samples.draws(KEY, index(1, 2), ("t_a", "eps_a", "t_b", "eps_b"))
    like = jnp.zeros((2, 8, 8, 4))
    t, eps = samples.noise(keys, "a", like, 20, 979)
    np.testing.assert_array_equal(t, samples.timesteps(keys["t_a"], 20, 979))
    np.testing.assert_array_equal(eps, samples.normal_like(keys["eps_a"], like))
    other = samples.noise(keys, "b", like, 20, 979)[1]
    assert eps.dtype == jnp.float32
    assert abs(float(jnp.mean(eps))) < 0.15 and abs(float(jnp.std(eps)) - 1) < 0.1
    assert abs(np.corrcoef(np.ravel(eps), np.ravel(other))[0, 1]) < 0.15


def test_drop_prompt_rate_and_selection():
    count = 400
    keys = samples.draws(KEY, index(*range(count)), ("prompt",))["prompt"]
    embedding = {"positive": jnp.ones((3, 2)), "negative": -jnp.ones((3, 2))}
    context = np.asarray(samples.drop_prompt(keys, embedding, 0.25))
    assert context.shape == (count, 3, 2)
    # Whole samples, one or the other.
    assert np.all(np.abs(context.sum(axis=(1, 2))) == 6)
    rate = np.mean(context[:, 0, 0] < 0)
    assert abs(rate - 0.25) < 4 * np.sqrt(0.25 * 0.75 / count)
    assert np.all(np.asarray(samples.drop_prompt(keys, embedding, 0.0)) == 1)
    assert np.all(np.asarray(samples.drop_prompt(keys, embedding, 1.0)) == -1)


def test_prompt_is_the_same_for_every_sample():
    words = jnp.arange(6.0).reshape(3, 2)
    context = samples.prompt(words, 4)
    assert context.shape == (4, 3, 2)
    assert all(np.array_equal(row, words) for row in context)


def test_tokens_are_row_major():
    feature = jnp.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    tokens = samples.tokens(feature)
    assert tokens.shape == (2, 12, 5)
    np.testing.assert_array_equal(tokens[1, 1 * 4 + 2], feature[1, 1, 2])


def pixels(*shape):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.integers(0, 256, shape, dtype=np.uint8))


def test_high_quality_is_in_minus_one_to_one_and_comes_back():
    levels = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    x = samples.high_quality({"hq": levels})
    assert x.dtype == jnp.float32
    assert float(x.min()) == -1 and float(x.max()) == 1
    back = np.round(np.asarray(samples.to_unit(x)) * 255)
    np.testing.assert_array_equal(back, levels)
    assert np.array_equal(samples.to_unit(jnp.asarray([-3.0, 0.0, 3.0])), [0, 0.5, 1])


@pytest.mark.parametrize("scale", [2, 4])
def test_low_quality_has_the_size_and_range_of_high(scale):
    batch = {"hq": pixels(2, 16, 24, 3)}
    keys = samples.draws(KEY, index(1, 2), ("degrade",))["degrade"]
    low = np.asarray(samples.low_quality(keys, batch, recipe("bicubic"), scale))
    assert low.shape == (2, 16, 24, 3) and low.dtype == np.float32
    assert low.min() >= -1 and low.max() <= 1
    high = np.asarray(samples.high_quality(batch))
    # Noise loses its detail and keeps its mean.
    assert low.std() < 0.7 * high.std()
    assert abs(low.mean() - high.mean()) < 0.05


def test_low_quality_keeps_a_flat_picture():
    batch = {"hq": jnp.full((1, 16, 16, 3), 51, jnp.uint8)}
    keys = samples.draws(KEY, index(1), ("degrade",))["degrade"]
    low = samples.low_quality(keys, batch, recipe("bicubic"), 4)
    np.testing.assert_allclose(low, 51 / 127.5 - 1, atol=1e-5)


@pytest.mark.slow
def test_low_quality_of_a_sample_does_not_depend_on_its_batch():
    """With the full degradation: blur, noise and JPEG draws."""
    full = jax.jit(
        lambda keys, hq: samples.low_quality(keys, {"hq": hq}, recipe("osediff"), 4),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    hq = pixels(3, 32, 32, 3)
    keys = samples.draws(KEY, index(4, 5, 6), ("degrade",))["degrade"]
    first = np.asarray(full(keys, hq))
    turned = np.asarray(full(keys[::-1], hq[::-1]))
    np.testing.assert_allclose(first, turned[::-1], atol=1e-5)
    assert first.min() >= -1 and first.max() <= 1
    # Another key gives another picture.
    assert np.abs(full(keys[::-1], hq) - first).max() > 0.01


def test_encoder_and_decoder_undo_scale_and_shift():
    config = VAEConfig(**PARTS["vae"])
    net = nets.build(ToyVAE, config)
    params = random(net, 0)
    x = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (2, 8, 8, 3)), jnp.float32)
    mean, _ = net.bind(params).encode(x)
    z = samples.encoder(net, config)(params, x)
    np.testing.assert_allclose(z, (np.asarray(mean) - 0.1) * 0.8, rtol=1e-5, atol=1e-6)
    y = samples.decoder(net, config)(params, z)
    np.testing.assert_allclose(y, net.bind(params).decode(mean), rtol=1e-4, atol=1e-5)


def test_bf16_networks_give_float32_latents_and_pictures():
    config = VAEConfig(**PARTS["vae"])
    net = nets.build(ToyVAE, config, dtype="bfloat16")
    params = nets.cast(random(net, 0), "bfloat16")
    z = samples.encoder(net, config)(params, jnp.ones((1, 8, 8, 3)))
    assert z.dtype == jnp.float32
    assert samples.decoder(net, config)(params, z).dtype == jnp.float32


def test_dino_tokens_carry_no_gradient():
    dino = lambda x: x.reshape(len(x), -1, 3)  # noqa: E731
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 8, 8, 3)), jnp.float32)
    total = lambda x: jnp.sum(samples.dino_tokens(dino, x, (1, 2)))  # noqa: E731
    assert samples.dino_tokens(dino, x, (1, 2)).shape == (1, 14 * 28, 3)
    assert not np.any(jax.grad(total)(x))
