"""Regression losses, the KL, and the averaging of samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import diffusion, losses
from gendr_jax.losses import reduction

SHAPE = (3, 4, 5, 2)


def arrays(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(SHAPE).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize(
    "loss, formula",
    [(losses.l1, np.abs), (losses.l2, np.square), (losses.denoising, np.square)],
)
def test_regression_is_a_mean_per_sample(loss, formula):
    x, y = arrays(2)
    loss_b = loss(x, y)
    assert loss_b.shape == (3,)
    np.testing.assert_allclose(loss_b, formula(x - y).mean((1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("loss", (losses.l1, losses.l2, losses.denoising))
def test_the_answer_receives_no_gradient(loss):
    x, y = map(jnp.asarray, arrays(2))
    to_x, to_y = jax.grad(lambda x, y: loss(x, y).sum(), argnums=(0, 1))(x, y)
    assert np.abs(to_x).min() > 0 and not np.any(to_y)


@pytest.mark.parametrize("kind, weight", (("eps", "snr"), ("v", "snr + 1")))
def test_denoising_is_the_x0_error_times_snr(kind, weight):
    """method.md 1: |eps err|^2 = SNR |x0 err|^2, |v err|^2 = (SNR + 1) |x0 err|^2."""
    with jax.enable_x64(True):
        z, eps, out = (jnp.asarray(x, jnp.float64) for x in arrays(3, seed=1))
        t_b = jnp.array([20, 354, 979])
        target = diffusion.prediction_target(z, eps, t_b, kind)
        z_t = diffusion.add_noise(z, eps, t_b)
        x0 = diffusion.to_x0(out, z_t, t_b, kind)
        alpha_bar = diffusion.ALPHA_BAR[np.asarray(t_b)]
        snr = alpha_bar / (1 - alpha_bar)
        factor = snr if weight == "snr" else snr + 1
        expected = factor * losses.l2(x0, z)
        np.testing.assert_allclose(losses.denoising(out, target), expected, rtol=1e-10)


@pytest.mark.torch
def test_kl_equals_diffusers_per_element():
    torch = pytest.importorskip("torch")
    vae = pytest.importorskip("diffusers.models.autoencoders.vae")
    mean, logvar = arrays(2, seed=2)
    moments = torch.from_numpy(np.concatenate([mean, logvar], -1)).permute(0, 3, 1, 2)
    reference = vae.DiagonalGaussianDistribution(moments).kl().numpy()
    elements = np.prod(SHAPE[1:])
    np.testing.assert_allclose(elements * losses.kl(mean, logvar), reference, rtol=1e-5)


def test_kl_is_zero_only_at_the_prior():
    zero = jnp.zeros(SHAPE)
    np.testing.assert_array_equal(losses.kl(zero, zero), 0.0)
    grads = jax.grad(lambda m, v: losses.kl(m, v).sum(), argnums=(0, 1))(zero, zero)
    assert not np.any(grads[0]) and not np.any(grads[1])
    assert (losses.kl(zero, zero + 0.3) > 0).all()
    assert (losses.kl(zero, zero - 0.3) > 0).all()


def test_bfloat16_inputs_give_float32_losses():
    x, y = (jnp.asarray(x, jnp.bfloat16) for x in arrays(2))
    for loss in (losses.l1, losses.l2, losses.denoising, losses.kl):
        assert loss(x, y).dtype == jnp.float32


def test_finite_mean_leaves_broken_samples_out():
    loss_b = jnp.array([1.0, jnp.nan, 3.0, jnp.inf])
    value, grad = jax.value_and_grad(losses.finite_mean)(loss_b)
    assert value == 2.0
    np.testing.assert_array_equal(grad, [0.5, 0.0, 0.5, 0.0])
    np.testing.assert_array_equal(losses.finite_weights(loss_b), grad)
    assert jnp.isnan(losses.finite_mean(jnp.array([jnp.nan, jnp.nan])))
    good = jnp.array([1.0, 2.0, 6.0])
    assert losses.finite_mean(good) == good.mean()


def test_finite_gradient_is_an_identity_that_drops_samples():
    x = jnp.asarray(arrays(1)[0])
    np.testing.assert_array_equal(losses.finite_gradient(x), x)
    cotangent = jnp.ones(SHAPE).at[1, 0, 0, 0].set(jnp.nan)
    _, vjp = jax.vjp(losses.finite_gradient, x)
    expected = np.ones(SHAPE)
    expected[1] = 0
    np.testing.assert_array_equal(vjp(cotangent)[0], expected)
    np.testing.assert_array_equal(reduction.zero_nonfinite(cotangent), expected)
