"""The softplus pair of the adversarial term."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import losses


def logits(seed, shape=(4, 3, 2, 1)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_zero_logits_cost_two_ln_two():
    zero = jnp.zeros((4, 3, 2, 1))
    loss_b = losses.discriminator_loss(zero, zero)
    np.testing.assert_allclose(loss_b, np.full(4, 2 * np.log(2)), rtol=1e-6)
    np.testing.assert_allclose(losses.generator_loss(zero), np.log(2), rtol=1e-6)


@pytest.mark.torch
def test_equals_binary_cross_entropy_of_torch():
    torch = pytest.importorskip("torch")
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    real, fake = logits(0), logits(1)

    def reference(x, label):
        x = torch.from_numpy(x)
        return bce(x, torch.full_like(x, label), reduction="none").mean((1, 2, 3))

    expected = reference(real, 1.0) + reference(fake, 0.0)
    ours = losses.discriminator_loss(real, fake)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    ours = losses.generator_loss(fake)
    np.testing.assert_allclose(ours, reference(fake, 1.0), rtol=1e-5)


def test_swapping_real_and_fake_mirrors():
    real, fake = logits(2), logits(3)
    swapped = losses.discriminator_loss(-fake, -real)
    np.testing.assert_allclose(losses.discriminator_loss(real, fake), swapped)


def test_large_logits_stay_finite_with_finite_gradients():
    x = jnp.array([[-1e4, 1e4]])
    grads = jax.grad(lambda x: losses.discriminator_loss(x, -x).sum())(x)
    assert np.isfinite(losses.generator_loss(x)).all() and np.isfinite(grads).all()
    # non-saturating: a confidently rejected fake still moves, an accepted one rests
    grads = jax.grad(lambda x: losses.generator_loss(x).sum())(x)
    np.testing.assert_allclose(grads, [[-0.5, 0.0]])


def test_bfloat16_logits_give_a_float32_loss():
    x = jnp.asarray(logits(4), jnp.bfloat16)
    assert losses.discriminator_loss(x, x).dtype == jnp.float32
    assert losses.generator_loss(x).dtype == jnp.float32


def test_separable_batch_drives_the_discriminator_down():
    real, fake = logits(5) + 2.0, logits(6) - 2.0

    def loss(params):
        def head(x):
            return params["w"] * x + params["b"]

        return losses.discriminator_loss(head(real), head(fake)).mean()

    params = {"w": jnp.zeros(()), "b": jnp.zeros(())}
    trace = []
    for _ in range(50):
        value, grads = jax.value_and_grad(loss)(params)
        params = jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)
        trace.append(float(value))
    assert np.all(np.diff(trace) < 0) and trace[-1] < 0.25 < trace[0]
    assert params["w"] > 0
