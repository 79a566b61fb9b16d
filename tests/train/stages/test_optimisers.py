"""The guarded update: clip and AdamW, skipped when not finite, held, averaged."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gendr_jax import sharding
from gendr_jax.train.settings import Adam
from gendr_jax.train.stages import optimisers
from tests.helpers.tiny_stages import same

ADAM = Adam(lr=1e-2, b1=0.8, b2=0.95, eps=1e-7, weight_decay=0.1, clip=0.5)


def params():
    rng = np.random.default_rng(0)
    draw = lambda *s: jnp.asarray(rng.standard_normal(s), jnp.float32)  # noqa: E731
    return {"a": draw(3, 4), "b": {"c": draw(5)}}


def quadratic(p, target):
    loss = sum(jnp.sum(jnp.square(x - target)) for x in jax.tree.leaves(p))
    return loss, {"loss": loss}


def buffers(tree):
    return [x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)]


def test_update_is_clip_then_adamw():
    """Three steps against the textbook formulas in float64."""
    tx = optimisers.adamw(ADAM, steps=100)
    role = optimisers.new_role(params(), tx)
    p = np.concatenate([np.ravel(x) for x in jax.tree.leaves(params())]).astype(float)
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t in range(1, 4):
        role, metrics = optimisers.update(role, tx, quadratic, 0.3)
        g = 2 * (p - 0.3)
        norm = np.sqrt(np.sum(g * g))
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
        g = g * min(1.0, ADAM.clip / norm)
        m = ADAM.b1 * m + (1 - ADAM.b1) * g
        v = ADAM.b2 * v + (1 - ADAM.b2) * g * g
        hat = m / (1 - ADAM.b1**t) / (np.sqrt(v / (1 - ADAM.b2**t)) + ADAM.eps)
        p = p - ADAM.lr * (hat + ADAM.weight_decay * p)
        assert float(metrics["skipped"]) == 0
    got = np.concatenate([np.ravel(x) for x in jax.tree.leaves(role.params)])
    np.testing.assert_allclose(got, p, rtol=1e-5, atol=1e-6)


def test_update_is_the_chain_of_optax():
    tx = optimisers.adamw(ADAM, steps=100)
    chain = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(1e-2, b1=0.8, b2=0.95, eps=1e-7, weight_decay=0.1),
    )
    p, role = params(), optimisers.new_role(params(), tx)
    state = chain.init(p)
    for _ in range(2):
        role, _ = optimisers.update(role, tx, quadratic, 0.3)
        grads = jax.grad(lambda p: quadratic(p, 0.3)[0])(p)
        updates, state = chain.update(grads, state, p)
        p = optax.apply_updates(p, updates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), role.params, p
    )


def warm_role(tx):
    """A role whose moments are not zero."""
    return optimisers.update(optimisers.new_role(params(), tx), tx, quadratic, 0.3)[0]


@pytest.mark.parametrize("where", ["loss", "gradient", "both"])
def test_a_step_that_is_not_finite_changes_nothing(where):
    tx = optimisers.adamw(ADAM, steps=100)
    role = warm_role(tx)
    grads = jax.tree.map(jnp.ones_like, role.params)
    if where != "loss":
        grads["b"]["c"] = grads["b"]["c"].at[2].set(jnp.inf)
    loss = jnp.float32(jnp.nan if where != "gradient" else 1.0)
    new, metrics = optimisers.apply(role, tx, grads, loss)
    assert same(new, role)  # weights, moments and counts
    assert float(metrics["skipped"]) == 1
    # The next finite step is the one that would have been.
    good = jax.tree.map(jnp.ones_like, role.params)
    after = optimisers.apply(new, tx, good, jnp.float32(1.0))[0]
    assert same(after, optimisers.apply(role, tx, good, jnp.float32(1.0))[0])
    assert not same(after.params, role.params)


@pytest.mark.parametrize("poison", [False, True])
def test_a_disabled_role_waits_without_being_skipped(poison):
    tx = optimisers.adamw(ADAM, steps=100)
    role = warm_role(tx)
    grads = jax.tree.map(jnp.ones_like, role.params)
    loss = jnp.float32(jnp.nan if poison else 1.0)
    new, metrics = optimisers.apply(role, tx, grads, loss, enabled=jnp.asarray(False))
    assert same(new, role)
    assert float(metrics["skipped"]) == 0


def test_a_nan_in_the_loss_function_is_caught_by_update():
    tx = optimisers.adamw(ADAM, steps=100)
    role = warm_role(tx)
    new, metrics = optimisers.update(role, tx, quadratic, jnp.nan)
    assert same(new, role)
    assert float(metrics["skipped"]) == 1


def rates(settings, hold=0, steps=8):
    """The learning rate of each step, seen through Adam's unit steps."""
    tx = optimisers.adamw(settings, steps=steps, hold=hold)
    p = {"w": jnp.zeros((1,))}
    state, found = tx.init(p), []
    for _ in range(steps):
        updates, state = tx.update({"w": jnp.ones((1,))}, state, p)
        found.append(-float(updates["w"][0]))
    return found


def test_warm_up_is_linear_and_ends_at_the_rate():
    found = rates(Adam(lr=1.0, eps=0.0, warmup=4))
    np.testing.assert_allclose(found, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1], rtol=1e-4)


def test_hold_comes_before_warm_up():
    found = rates(Adam(lr=1.0, eps=0.0, warmup=2), hold=3)
    np.testing.assert_allclose(found, [0, 0, 0, 0.5, 1, 1, 1, 1], rtol=1e-4)
    found = rates(Adam(lr=1.0, eps=0.0), hold=2, steps=3)
    np.testing.assert_allclose(found, [0, 0, 1], rtol=1e-4)


def test_wsd_stays_and_then_falls_to_the_end_of_the_run():
    found = rates(Adam(lr=1.0, eps=0.0, warmup=2, schedule="wsd", decay=4))
    np.testing.assert_allclose(found, [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25], rtol=1e-4)


def test_cosine_falls_from_the_end_of_the_warm_up():
    found = rates(Adam(lr=1.0, eps=0.0, warmup=2, schedule="cosine"))
    fall = 0.5 * (1 + np.cos(np.pi * np.arange(6) / 6))
    np.testing.assert_allclose(found, [0.5, 1, *fall], rtol=1e-4)


def test_a_schedule_leaves_out_the_steps_that_are_held():
    settings = Adam(lr=1.0, eps=0.0, schedule="wsd", decay=2)
    found = rates(settings, hold=3, steps=7)
    np.testing.assert_allclose(found[:3], 0)
    assert found[3] == pytest.approx(1, abs=1e-4) and 0 < found[-1] < 1


def test_hold_stops_weight_decay_too():
    tx = optimisers.adamw(Adam(lr=1.0, weight_decay=0.5), steps=9, hold=1)
    p = {"w": jnp.ones((2,))}
    updates, _ = tx.update({"w": jnp.ones((2,))}, tx.init(p), p)
    assert np.all(np.asarray(updates["w"]) == 0)


@pytest.mark.parametrize(
    ("step", "memory"), [(0, 0.1), (8, 0.5), (90, 0.9), (10**6, 0.9)]
)
def test_ema_has_a_shorter_memory_at_first(step, memory):
    a, p = jnp.asarray([1.0, -2.0]), jnp.asarray([3.0, 5.0])
    got = optimisers.ema({"x": a}, {"x": p}, 0.9, jnp.int32(step))["x"]
    expected = memory * np.asarray(a) + (1 - memory) * np.asarray(p)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_roles_never_share_buffers_and_can_be_donated():
    tx = optimisers.adamw(ADAM, steps=100)
    start = params()
    first, second = optimisers.new_role(start, tx), optimisers.new_role(start, tx)
    arrays = buffers(start) + buffers(first) + buffers(second)
    assert len(set(arrays)) == len(arrays)

    @jax.jit
    def both(a, b):
        return optimisers.update(a, tx, quadratic, 0.3)[0], b

    kept = jax.tree.map(np.array, second)
    step = jax.jit(both, donate_argnums=(0, 1))
    first, second = step(first, second)
    first, second = step(first, second)
    assert same(second, kept)
    assert same(start, params())


def test_names_of_metrics():
    assert optimisers.named("fake", {"loss": 1, "skipped": 0}) == {
        "loss_fake": 1,
        "skipped_fake": 0,
    }


def test_moments_in_the_hosts_memory_give_the_same_update():
    """They are fetched for the update and come back where they were."""
    tx = optimisers.adamw(ADAM, steps=100)
    role = optimisers.new_role(params(), tx)
    where = sharding.Placement(sharding.make_mesh("fsdp=8"), on_host=("^opt/",))
    places = where.tree(role)
    kinds = [s.memory_kind for s in jax.tree.leaves(places.opt)]
    assert kinds.count("pinned_host") == 4  # two moments of two arrays; not the counts

    def step(role):
        return optimisers.update(role, tx, quadratic, 0.3)[0]

    whole = sharding.replicated(where.mesh)
    target = jax.jit(step, in_shardings=(places,), out_shardings=places)
    found = target(sharding.place(role, places))
    expected = jax.jit(step)(jax.device_put(role, whole))
    assert jax.tree.map(lambda x: x.sharding, found.opt) == places.opt
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(a, b)
