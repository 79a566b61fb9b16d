"""The autoencoder's step on the real network, tiny; and its adversarial schedule."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.losses import kl, l1
from gendr_jax.models.heads import PatchDiscriminator
from gendr_jax.models.vae import VAE
from gendr_jax.train.stages import samples
from gendr_jax.train.stages import vae as vae_stage
from tests.helpers.optimised import OPTIMISED
from tests.helpers.tiny_stages import (
    ToyVAE,
    batch,
    fewer_passes,
    gap,
    gather_on,
    one_device,
    random,
    same,
    settings,
)

KEY = jax.random.key(5)
quick = pytest.fixture(scope="module", autouse=True)(fewer_passes)


def build(model=ToyVAE, options=None, **changes):
    """(settings, network, fresh state, step, sample); weights drawn on the host."""
    s = settings("vae", **changes)
    vae = nets.build(model, s.vae)
    disc = nets.build(PatchDiscriminator, s.discriminator)
    gather = gather_on(one_device())
    init = vae_stage.make_init(s, vae, disc)
    state = init(jax.random.key(0), {"vae": random(vae, 0)})
    step = vae_stage.make_step(s, vae, disc, gather, lambda x: x)
    compiled = jax.jit(step, compiler_options=options)
    return s, vae, state, compiled, vae_stage.make_sample(vae, gather)


@pytest.mark.slow
def test_the_real_network_learns_one_batch():
    """Also: no discriminator when it is off, and a sampled picture in [0, 1]."""
    _, _, state, step, sample = build(VAE, optim={"lr": 1e-2}, kl_weight=1e-4)
    assert state.disc is None
    found, data = [], batch(4)
    for _ in range(15):
        state, metrics = step(state, {}, data, KEY)
        found.append(float(metrics["l1_vae"]))
        assert float(metrics["skipped_vae"]) == 0
    assert np.mean(found[-3:]) < 0.75 * found[0], found
    assert state.disc is None and int(state.step) == 15
    assert not any("disc" in name or "adversarial" in name for name in metrics)
    columns = sample(state, {}, data, KEY)
    assert list(columns) == ["photograph", "reconstruction"]
    for picture in columns.values():
        assert picture.shape == data["hq"].shape
        assert float(picture.min()) >= 0 and float(picture.max()) <= 1


def test_loss_is_l1_plus_weighted_kl_of_a_posterior_sample():
    s, vae, state, step, _ = build(kl_weight=0.25)
    data = batch(4)
    _, metrics = step(state, {}, data, KEY)
    keys = samples.draws(jax.random.fold_in(KEY, 0), data["index"], ("posterior",))[
        "posterior"
    ]
    x = samples.high_quality(data)
    model = vae.bind(state.vae.params)
    mean, logvar = model.encode(x)
    y = model.decode(mean + jnp.exp(logvar / 2) * samples.normal_like(keys, mean))
    expected = float(jnp.mean(l1(y, x))), float(jnp.mean(kl(mean, logvar)))
    np.testing.assert_allclose(metrics["l1_vae"], expected[0], rtol=1e-5)
    np.testing.assert_allclose(metrics["kl_vae"], expected[1], rtol=1e-5)
    np.testing.assert_allclose(
        metrics["loss_vae"], expected[0] + 0.25 * expected[1], rtol=1e-5
    )
    assert float(jnp.std(jnp.exp(logvar))) > 0.01  # the draw mattered


def test_the_step_repeats_itself_and_each_step_draws_anew():
    _, _, state, step, _ = build()
    data = batch(4)
    first, m1 = step(state, {}, data, KEY)
    again, m2 = step(state, {}, data, KEY)
    assert same((first, m1), (again, m2))
    later = step(dataclasses.replace(state, step=jnp.int32(1)), {}, data, KEY)[1]
    assert float(later["l1_vae"]) != float(m1["l1_vae"])


@pytest.mark.slow
def test_before_the_start_step_only_the_discriminator_is_adversarial():
    """Its head starts at zero: a first logit of 0, then it learns from step 0."""
    data = batch(4)
    _, _, plain, plain_step, _ = build(options=OPTIMISED)
    _, _, state, step, _ = build(
        options=OPTIMISED, adversarial_start=3, adversarial_weight=10.0
    )
    assert state.disc is not None
    old_disc = state.disc
    first = None
    for i in range(5):
        assert same(state.vae.params, plain.vae.params) == (i <= 3), i
        state, metrics = step(state, {}, data, KEY)
        plain, _ = plain_step(plain, {}, data, KEY)
        first = metrics if first is None else first
    np.testing.assert_allclose(first["loss_disc"], 2 * np.log(2), rtol=1e-6)
    assert float(metrics["loss_disc"]) < 2 * np.log(2)
    assert not same(state.disc.params, old_disc.params)
    assert {"adversarial_vae", "skipped_disc", "grad_norm_disc"} <= set(metrics)


def test_the_adversarial_term_is_off_exactly_until_its_step():
    """One state, two clocks: the gradient differs by the term alone."""
    _, _, state, step, _ = build(adversarial_start=3, adversarial_weight=10.0)
    data = batch(4)
    for _ in range(2):  # a discriminator whose logits are not zero
        state, _ = step(state, {}, data, KEY)
    at = lambda n: dataclasses.replace(state, step=jnp.int32(n))  # noqa: E731
    for n, factor in ((2, 0.0), (3, 10.0)):
        metrics = step(at(n), {}, data, KEY)[1]
        rest = float(metrics["l1_vae"]) + 1e-6 * float(metrics["kl_vae"])
        expected = rest + factor * float(metrics["adversarial_vae"])
        np.testing.assert_allclose(metrics["loss_vae"], expected, rtol=1e-5)


def test_latent_var_gives_a_scaling_factor_for_unit_latents():
    s, vae, state, step, _ = build(optim={"lr": 0.0})
    data = batch(8)
    for _ in range(5):
        state, metrics = step(state, {}, data, KEY)
    x = samples.high_quality(data)
    mean, logvar = vae.bind(state.vae.params).encode(x)
    draw = jax.random.normal(jax.random.key(1), mean.shape)
    z = np.asarray(mean + jnp.exp(logvar / 2) * draw)
    root = np.sqrt(np.mean((z - s.vae.shift_factor) ** 2))  # as to_model shifts them
    assert abs(root - 1) > 0.05  # the untrained latents are not of unit size
    factor = vae_stage.scaling_factor(state)
    measured = dataclasses.replace(s.vae, scaling_factor=factor)
    assert abs(np.sqrt(np.mean(measured.to_model(z) ** 2)) - 1) < 0.05
    np.testing.assert_allclose(metrics["latent_std_vae"], 1 / factor, rtol=1e-5)


def test_the_variance_is_a_running_mean():
    """Plain mean first, exponential later; a skipped step leaves it alone."""
    _, _, state, step, _ = build(optim={"lr": 0.0})
    one, two = batch(4, seed=1), batch(4, seed=2)
    v1 = float(step(state, {}, one, KEY)[0].latent_var)
    v2 = float(step(state, {}, two, KEY)[0].latent_var)
    assert v1 != v2
    both = step(step(state, {}, one, KEY)[0], {}, two, KEY)[0]
    np.testing.assert_allclose(both.latent_var, (v1 + v2) / 2, rtol=1e-5)
    late = dataclasses.replace(both, step=jnp.int32(10**6))
    after = float(step(late, {}, two, KEY)[0].latent_var)
    expected = 0.99 * float(both.latent_var) + 0.01 * v2
    np.testing.assert_allclose(after, expected, rtol=1e-5)


def test_weights_that_are_not_finite_skip_the_step():
    _, _, state, step, _ = build(adversarial_start=0)
    broken = jax.tree.map(lambda x: x * jnp.nan, state.vae.params)
    role = dataclasses.replace(state.vae, params=broken)
    bad = dataclasses.replace(state, vae=role)
    new, metrics = step(bad, {}, batch(4), KEY)
    assert float(metrics["skipped_vae"]) == 1 and float(metrics["skipped_disc"]) == 1
    assert same(new.disc, bad.disc) and same(new.vae, bad.vae)
    assert same(new.latent_var, bad.latent_var)
    assert int(new.step) == 1


def test_ema_follows_the_weights():
    _, _, state, step, _ = build(ema=0.5)
    before = state.ema
    for i in range(2):
        old = state.ema
        state, _ = step(state, {}, batch(4), KEY)
        keep = min(0.5, (1 + i) / (10 + i))
        scale = lambda tree, by: jax.tree.map(lambda x: by * x, tree)  # noqa: E731
        expected = jax.tree.map(
            jnp.add, scale(old, keep), scale(state.vae.params, 1 - keep)
        )
        assert gap(state.ema, expected) < 1e-6
    assert not same(state.ema, before)


def test_init_starts_from_the_given_weights_or_from_chance():
    s, vae, state, _, _ = build()
    assert same(state.vae.params, random(vae, 0)) and same(state.ema, random(vae, 0))
    disc = nets.build(PatchDiscriminator, s.discriminator)
    init = vae_stage.make_init(s, vae, disc)
    one, two = (init(jax.random.key(i), {}) for i in range(2))
    nets.check_like(one.vae.params, vae.abstract)
    assert not same(one.vae.params, two.vae.params)
    assert same(one.ema, one.vae.params)
