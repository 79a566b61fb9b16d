"""A batch in parts gives the gradient, the order and the update of the whole batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import sharding
from gendr_jax.train.stages import accumulate, base, distill
from tests.helpers.tiny_stages import batch, fewer_passes, gap, parts, settings

quick = pytest.fixture(scope="module", autouse=True)(fewer_passes)
X = jnp.arange(24.0).reshape(12, 2)


@pytest.mark.parametrize("number", [1, 2, 3, 12])
def test_rows_come_back_in_order(number):
    out = accumulate.rows(number, lambda x: {"y": 2 * x, "n": x[:, 0]}, X)
    np.testing.assert_array_equal(out["y"], 2 * X)
    np.testing.assert_array_equal(out["n"], X[:, 0])


@pytest.mark.parametrize("number", [1, 3])
def test_the_mean_is_that_of_the_batch(number):
    seen = []

    def mean(x, keys):
        seen.append(x.shape)
        return jnp.mean(x), {"second": jnp.mean(jax.random.key_data(keys) * 1.0)}

    keys = jax.random.split(jax.random.key(0), 12)
    total, metrics = accumulate.mean(number, mean, X, keys)
    np.testing.assert_allclose(total, np.mean(X), rtol=1e-6)
    bits = np.asarray(jax.random.key_data(keys), np.float64)
    np.testing.assert_allclose(metrics["second"], bits.mean(), rtol=1e-6)
    assert set(seen) == {(12 // number, 2)}


def test_no_row_leaves_its_device():
    """Parts are cut within each device's rows: nothing is sent."""
    mesh = sharding.make_mesh("data=4", jax.devices()[:4])
    rows = sharding.batch_sharding(mesh)
    x = jax.device_put(jnp.ones((16, 8)), rows)
    f = jax.jit(
        lambda x: accumulate.rows(2, lambda part: part + 1, x), out_shardings=rows
    )
    text = f.lower(x).compile().as_text()
    words = ("all-to-all", "all-gather", "collective-permute", "all-reduce")
    assert not [word for word in words if f"{word}(" in text]


ADAM = {"lr": 1e-3, "eps": 1e-2}  # no blow-up of small differences in the first step


def base_stage(number):
    s = settings("base", accumulate=number, optim=ADAM, optim_new=ADAM)
    declared, frozen = parts(s)
    state = base.make_init(s, declared)(jax.random.key(0), {})
    return base.make_step(s, declared), state, frozen


def distill_stage(number):
    roles = ("generator", "fake", "real", "discriminator")
    optim = dict.fromkeys(roles, ADAM)
    s = settings("distill", kind="cida", accumulate=number, optim=optim)
    declared, frozen = parts(s)
    init = distill.make_init(s, declared)
    state = init(jax.random.key(0), {"unet": frozen["unet"]})
    fake = dataclasses.replace(  # away from the start, where the score is zero
        state.fake, params=jax.tree.map(lambda x: x + 0.1, state.fake.params)
    )
    step = distill.Distill(s, declared).step
    return step, dataclasses.replace(state, fake=fake), frozen


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage", [base_stage, pytest.param(distill_stage, marks=pytest.mark.slow)]
)
def test_a_step_in_parts_is_the_step_of_the_batch(stage):
    results = []
    for number in (1, 2):
        step, state, frozen = stage(number)
        after, metrics = jax.jit(step)(state, frozen, batch(4), jax.random.key(1))
        results.append((after, metrics))
    (whole, expected), (cut, found) = results
    for name in expected:
        if name.startswith("loss"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
    role = "base" if stage is base_stage else "generator"
    start = getattr(state, role).params
    assert gap(getattr(whole, role).params, start) > 1e-5
    assert gap(getattr(cut, role).params, getattr(whole, role).params) < 1e-7
