"""One sample that is not finite: every role learns from the others, and counts it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gendr_jax import losses
from gendr_jax.train.stages import accumulate, base, distill, samples, vae
from gendr_jax.train.stages.distill import Carry
from tests.helpers.tiny_stages import batch, fewer_passes, gap, parts, random, settings
from tests.train.stages import test_distill, test_pixel, test_vae

KEY = jax.random.key(5)
BROKEN = 2  # of 4 samples
REST = np.array([0, 1, 3])
quick = pytest.fixture(scope="module", autouse=True)(fewer_passes)


def spoilt(x_bhwc):
    """The same arrays with one element of one sample NaN, where all samples are."""
    return x_bhwc.at[BROKEN, 3, 3, 0].set(jnp.nan) if len(x_bhwc) > 3 else x_bhwc


def rest(tree):
    return jax.tree.map(lambda x: x[REST], tree)


def moment(role):
    """The gradient of a first step, as Adam's first moment holds it."""
    return optax.tree.get(role.opt, "mu")


def check(spoilt_role, rest_role, clean_role):
    """The step is that of the other samples, and another than that of all of them."""
    assert gap(moment(spoilt_role), moment(rest_role)) < 1e-5
    assert gap(moment(clean_role), moment(rest_role)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("parts_of_batch", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_roles_of_the_distillation(parts_of_batch):
    stage, frozen, state = test_distill.build("cida", accumulate=parts_of_batch)
    state = test_distill.apart(state)
    alone = dataclasses.replace(stage.settings, accumulate=1)
    alone = distill.Distill(alone, stage.nets)  # three samples are not cut in two
    keys, pair = test_distill.drawn(stage, frozen)
    z_g, _ = stage.roles.generate(frozen, state.generator.params, pair.z_low_bhwc)
    clean = Carry(keys, pair, z_g)
    of_generated = dataclasses.replace(clean, z_g_bhwc=z_g.at[2, 0, 0, 0].set(jnp.nan))
    bad_pair = dataclasses.replace(pair, z_high_bhwc=spoilt(pair.z_high_bhwc))
    of_truth = dataclasses.replace(clean, pair=bad_pair)
    names = {"fake": of_generated, "real": of_truth, "disc": of_truth}
    for name, bad in names.items():
        update = jax.jit(getattr(stage, f"update_{name}"))
        new, _, metrics = update(state, bad, frozen)
        good, _, none = update(state, clean, frozen)
        fewer, _, _ = jax.jit(getattr(alone, f"update_{name}"))(
            state, rest(clean), frozen
        )
        check(getattr(new, name), getattr(fewer, name), getattr(good, name))
        assert metrics[f"skipped_{name}"] == 0
        assert metrics[f"broken_{name}"] == 1 and none[f"broken_{name}"] == 0


@pytest.mark.parametrize(
    "kind", ["paired", pytest.param("cida", marks=pytest.mark.slow)]
)
def test_a_step_of_the_distillation(kind):
    """From the photograph on: no line of the step lets the sample through."""
    stage, frozen, state = test_distill.build(
        kind, weights={"latent": 0.5, "pixel": 0.5}
    )
    broken = distill.Distill(
        stage.settings, dataclasses.replace(stage.nets, split=spoilt)
    )
    new, metrics = jax.jit(broken.step)(state, frozen, batch(), KEY)
    step = jax.jit(stage.step)
    fewer, _ = step(state, frozen, rest(batch()), KEY)
    good, _ = step(state, frozen, batch(), KEY)
    check(new.generator, fewer.generator, good.generator)
    assert all(np.isfinite(float(v)) for v in metrics.values()), metrics
    assert metrics["broken_generator"] == 1
    assert not any(float(v) for k, v in metrics.items() if k.startswith("skipped"))


@pytest.mark.slow
def test_the_base():
    s = settings("base")
    declared, frozen = parts(s, toy=True)
    begin = {
        "unet": random(declared.unet, 3),
        "projector": random(declared.projector, 4),
    }
    state = base.make_init(s, declared)(jax.random.key(0), begin)
    step = jax.jit(base.make_step(s, declared))
    broken = dataclasses.replace(declared, split=spoilt)
    new, metrics = jax.jit(base.make_step(s, broken))(state, frozen, batch(), KEY)
    fewer, _ = step(state, frozen, rest(batch()), KEY)
    good, _ = step(state, frozen, batch(), KEY)
    assert gap(new.base.params, fewer.base.params) < 1e-5
    assert gap(good.base.params, fewer.base.params) > 1e-3
    assert metrics["broken_base"] == 1 and metrics["skipped_base"] == 0
    assert all(np.isfinite(float(v)) for v in metrics.values()), metrics


@pytest.mark.slow
def test_the_autoencoder():
    s, net, state, step, _ = test_vae.build(adversarial_weight=0.1, adversarial_start=0)
    gather = test_vae.gather_on(test_vae.one_device())
    disc = test_vae.nets.build(test_vae.PatchDiscriminator, s.discriminator)
    broken = jax.jit(vae.make_step(s, net, disc, gather, spoilt))
    new, metrics = broken(state, {}, batch(), KEY)
    fewer, _ = step(state, {}, rest(batch()), KEY)
    good, _ = step(state, {}, batch(), KEY)
    for name in ("vae", "disc"):
        check(getattr(new, name), getattr(fewer, name), getattr(good, name))
        assert metrics[f"broken_{name}"] == 1 and metrics[f"skipped_{name}"] == 0
    np.testing.assert_allclose(new.latent_var, fewer.latent_var, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("adc", marks=pytest.mark.slow), "pix"])
def test_students_without_an_autoencoder(kind):
    stage, frozen, state, step = test_pixel.stepped(kind)
    nets = dataclasses.replace(stage.nets, split=spoilt)
    broken = type(stage)(stage.settings, nets)
    data = batch(crop=test_pixel.CROP)
    new, metrics = jax.jit(broken.step)(state, frozen, data, KEY)
    fewer, _ = step(state, frozen, rest(data), KEY)
    good, _ = step(state, frozen, data, KEY)
    for name in ("generator", "disc"):
        check(getattr(new, name), getattr(fewer, name), getattr(good, name))
        assert metrics[f"broken_{name}"] == 1 and metrics[f"skipped_{name}"] == 0


def test_a_batch_of_broken_samples_is_no_loss_of_zero():
    assert jnp.isnan(losses.finite_mean(jnp.array([jnp.nan, jnp.inf])))
    finite_b, x = losses.replace_nonfinite(jnp.array([[1.0, jnp.nan], [2.0, 3.0]]))
    np.testing.assert_array_equal(finite_b, [False, True])
    np.testing.assert_array_equal(x, [[0.0, 0.0], [2.0, 3.0]])


def test_parts_count_by_their_finite_samples():
    """Two of four and none of four, in two parts: the mean of those two."""
    x_b = jnp.array([1.0, jnp.nan, 3.0, jnp.nan, jnp.nan, jnp.nan, jnp.nan, jnp.nan])
    mean = lambda x: (losses.finite_mean(x), losses.finite_share(x))  # noqa: E731
    for count in (1, 2, 4):
        value, share = accumulate.mean_of_finite(count, mean, x_b)
        assert value == 2.0 and share == 0.25, count


def test_the_deviation_of_latents_is_that_of_samples_that_are_finite():
    x = jax.random.normal(KEY, (4, 3, 3, 2)) + 1
    alive = jnp.arange(4) != BROKEN
    found = samples.std(alive, x.at[BROKEN].set(0.0))
    np.testing.assert_allclose(found, x[REST].std(), rtol=1e-5)
