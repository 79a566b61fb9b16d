"""I8, the Gaussian bias probe: which losses pull a shifted generator back.

Analytic scores of Gaussian data, float64. Also the documentation of `literal`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import diffusion, losses
from gendr_jax.losses import score

T_PROBE = (20, 354, 625, 979)
RESTORING = {
    "sid .5": losses.ScoreSettings("sid", alpha=0.5),
    "sid 1": losses.ScoreSettings("sid", alpha=1.0),
    "anchored 0": losses.ScoreSettings("cid", xi=0.0, rho=1.0),
    "anchored .5": losses.ScoreSettings("cid", xi=0.5, rho=1.0),
    "anchored 1": losses.ScoreSettings("cid", xi=1.0, rho=1.0),
    "vsd": losses.ScoreSettings("vsd"),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def autodiff(settings, predict_p, predict_q, z_g, z_h, *, a, sigma, eps_bhwc):
    """loss_b and dL_b/dz_g by differentiating the whole chain."""

    def total(z_g):
        z_t = a * z_g + sigma * eps_bhwc
        p, q = predict_p(z_t), predict_q(z_t)
        loss_b = losses.score_loss(settings, p, q, z_g, z_h)
        return loss_b.sum(), loss_b

    grad, loss_b = jax.grad(total, has_aux=True)(z_g)
    return loss_b, grad


def close(x, y, tolerance=1e-12):
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def gaussian_gradient(settings, t, bias=0.4, batch=64):
    """dL/db, with its closed form's factors, for analytic scores of Gaussian data.

    z_h ~ N(m, s^2), z_g = z_h + b: the real score knows mean m, the fake one m + b.
    """
    mean, std = 0.7, 0.8
    z_h = mean + std * jax.random.normal(jax.random.key(11), (batch, 2, 2, 2))
    eps = jax.random.normal(jax.random.key(12), z_h.shape)
    a, sigma = diffusion.alpha_sigma(jnp.full(batch, t), 4)
    gain = a * std**2 / (a**2 * std**2 + sigma**2)

    def denoiser(centre, z_t):
        return centre + gain * (z_t - a * centre)

    p, q = partial(denoiser, mean), partial(denoiser, mean + bias)
    z_g = z_h + bias
    noise = {"a": a, "sigma": sigma, "eps_bhwc": eps}
    _, grad = autodiff(settings, p, q, z_g, z_h, **noise)
    w_b = score.normalizer(p(a * z_g + sigma * eps), z_g)
    k = (a * gain).ravel()[0]
    return grad.sum((1, 2, 3)).mean(), k, (1 / w_b).mean()


@pytest.mark.parametrize("t", T_PROBE)
@pytest.mark.parametrize("settings", RESTORING.values(), ids=RESTORING)
def test_I8_gaussian_bias_shrinks(settings, t):
    bias = 0.4
    slope, k, inverse_w = gaussian_gradient(settings, t, bias)
    power = 1 if settings.kind == "vsd" else 2
    close(slope, (1 - k) ** power * bias * inverse_w, 1e-10)
    assert abs(bias - 0.01 * slope) < bias


@pytest.mark.parametrize("t", T_PROBE)
@pytest.mark.parametrize("xi", (0.0, 0.5, 1.0))
def test_I8_gaussian_bias_grows_with_the_literal_target(xi, t):
    """Why `literal` demands a paired term: it repels at every t and for every xi.

    Documentation of the flag: were this to fail, the literal form would no longer be
    the formula as printed. With lambda_rec at its least the bias shrinks again.
    """
    bias = 0.4
    settings = losses.ScoreSettings("cid", xi=xi, literal=True)
    slope, k, inverse_w = gaussian_gradient(settings, t, bias)
    close(slope, -k * (1 - k) * bias * inverse_w, 1e-10)
    assert abs(bias - 0.01 * slope) > bias
    paired_slope = losses.MIN_LAMBDA_REC * 2 * bias  # d/db of lambda mean(b^2)
    assert abs(bias - 0.01 * (slope + paired_slope)) < bias
