"""Invariants I1-I13 of VSD, SiD and CiD, in float64 with toy networks.

I7, I12 and half of I9 are in test_losses_sequential.py, I8 in test_losses_bias.py.

The toy scores are small networks of all pixels of one sample, so that their
Jacobians are dense; p is guided by `diffusion.cfg` as in training.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import diffusion, losses
from gendr_jax.errors import UsageError
from gendr_jax.losses import score

SHAPE = (3, 2, 3, 2)
N = 12  # H W C
T_B = np.array([40, 354, 900])
KAPPA = 2.0
VARIANTS = {
    "sid .5": losses.ScoreSettings("sid", alpha=0.5),
    "sid 1.2": losses.ScoreSettings("sid", alpha=1.2),
    "anchored": losses.ScoreSettings("cid", xi=0.5, rho=1.0),
    "anchored .3": losses.ScoreSettings("cid", xi=0.0, rho=0.3),
    "literal": losses.ScoreSettings("cid", xi=0.5, literal=True),
}
ALL = VARIANTS | {"vsd": losses.ScoreSettings("vsd")}
each_variant = pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
each = pytest.mark.parametrize("settings", ALL.values(), ids=ALL)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def network(seed):
    w1, w2, w3 = jax.random.normal(jax.random.key(seed), (3, N, N)) / N**0.5
    return {"cond": w1, "uncond": w2, "out": w3}


def x0(params, z_t, role="cond"):
    hidden = jnp.tanh(z_t.reshape(-1, N) @ params[role])
    return 0.5 * z_t + (hidden @ params["out"]).reshape(z_t.shape)


def guided(params, z_t, kappa=KAPPA):
    return diffusion.cfg(x0(params, z_t, "uncond"), x0(params, z_t), kappa)


def setup(seed=0):
    """z_g, z_h, and keyword arguments a, sigma, eps_bhwc of z_t."""
    z_g, z_h, eps = jax.random.normal(jax.random.key(100 + seed), (3, *SHAPE))
    a, sigma = diffusion.alpha_sigma(jnp.asarray(T_B), 4)
    return z_g, z_h, {"a": a, "sigma": sigma, "eps_bhwc": eps}


def autodiff(settings, predict_p, predict_q, z_g, z_h, *, a, sigma, eps_bhwc):
    """loss_b and dL_b/dz_g by differentiating the whole chain."""

    def total(z_g):
        z_t = a * z_g + sigma * eps_bhwc
        p, q = predict_p(z_t), predict_q(z_t)
        loss_b = losses.score_loss(settings, p, q, z_g, z_h)
        return loss_b.sum(), loss_b

    grad, loss_b = jax.grad(total, has_aux=True)(z_g)
    return loss_b, grad


def standard(settings, seed=0, kappa=KAPPA):
    """The usual situation: two different networks, z_g and z_h unrelated."""
    z_g, z_h, noise = setup(seed)
    p = partial(guided, network(1), kappa=kappa)
    q = partial(x0, network(2))
    return p, q, z_g, z_h, noise


def close(x, y, tolerance=1e-12):
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@each
def test_I1_equal_scores_give_no_loss_and_no_gradient(settings):
    z_g, z_h, noise = setup()
    phi = network(1)
    p, q = partial(guided, phi, kappa=1.0), partial(x0, phi)
    loss_b, grad = autodiff(settings, p, q, z_g, z_h, **noise)
    assert loss_b.dtype == grad.dtype == jnp.float64
    np.testing.assert_array_equal(loss_b, 0.0)
    assert jnp.abs(grad).max() < 1e-14
    # the same call with another q must not be zero, or this test shows nothing
    loss_b, _ = autodiff(settings, p, partial(x0, network(2)), z_g, z_h, **noise)
    assert jnp.abs(loss_b).min() > 1e-3


@pytest.mark.parametrize("xi", (0.0, 0.5, 1.2))
def test_I2_anchored_is_sid_when_target_or_rho_says_so(xi):
    p, q, z_g, z_h, noise = standard(None)
    sid = losses.ScoreSettings("sid", alpha=xi)
    cid = partial(losses.ScoreSettings, "cid", xi=xi)
    expected = autodiff(sid, p, q, z_g, z_h, **noise)
    for settings, target in ((cid(rho=1.0), z_g), (cid(rho=0.0), z_h)):
        loss_b, grad = autodiff(settings, p, q, z_g, target, **noise)
        np.testing.assert_array_equal(loss_b, expected[0])
        np.testing.assert_array_equal(grad, expected[1])
    loss_b, _ = autodiff(cid(rho=1.0), p, q, z_g, z_h, **noise)
    assert jnp.abs(loss_b - expected[0]).min() > 1e-3


def frozen_reference(settings, p, q, z_g, z_h, *, a, sigma, eps_bhwc):
    """The equation written out; detached parts are numbers taken at z_g."""
    p_0 = p(a * z_g + sigma * eps_bhwc)
    w = jnp.abs(z_g - p_0).mean((1, 2, 3), keepdims=True)
    rho = settings.rho if settings.kind == "cid" else 0.0
    xi = settings.xi if settings.kind == "cid" else settings.alpha
    shift = rho * (z_h - z_g)

    def loss_b(z):
        z_t = a * z + sigma * eps_bhwc
        target = z_h if settings.literal else z + shift
        d, u = p(z_t) - q(z_t), p(z_t) - target
        return ((d * u - xi * d * d) / w).mean((1, 2, 3))

    return loss_b


@each_variant
def test_I3_finite_difference_equals_autodiff(settings):
    p, q, z_g, z_h, noise = standard(settings)
    loss_b, grad = autodiff(settings, p, q, z_g, z_h, **noise)
    reference = frozen_reference(settings, p, q, z_g, z_h, **noise)
    close(loss_b, reference(z_g))
    direction = jax.random.normal(jax.random.key(7), SHAPE)
    step = 1e-5
    slope_b = reference(z_g + step * direction) - reference(z_g - step * direction)
    np.testing.assert_allclose(
        (grad * direction).sum((1, 2, 3)), slope_b / (2 * step), rtol=1e-7
    )


@pytest.mark.parametrize("literal", (False, True))
def test_I4_xi_one_half_is_inverse_distillation(literal):
    p, q, z_g, z_h, noise = standard(None)
    z_t = noise["a"] * z_g + noise["sigma"] * noise["eps_bhwc"]
    p, q = p(z_t), q(z_t)
    loss_b = losses.cid(p, q, z_g, z_h, xi=0.5, rho=1.0, literal=literal)
    w_b = jnp.abs(z_g - p).mean((1, 2, 3))
    squares_b = ((p - z_h) ** 2 - (q - z_h) ** 2).mean((1, 2, 3))
    close(loss_b, squares_b / (2 * w_b))


@pytest.mark.parametrize("xi", (0.0, 0.5, 1.2))
def test_I5_second_factor_q_shifts_xi_by_one(xi):
    z_g, z_h, _ = setup()
    p, q = jax.random.normal(jax.random.key(5), (2, *SHAPE))
    w_b = jnp.abs(z_g - p).mean((1, 2, 3))
    target = z_g + 0.7 * (z_h - z_g)
    d = p - q
    by_q_b = (d * (q - target) - (xi - 1) * d * d).mean((1, 2, 3)) / w_b
    close(losses.cid(p, q, z_g, z_h, xi=xi, rho=0.7), by_q_b)


@each
def test_I6_detached_scores_give_vsd_and_literal_gives_nothing(settings):
    p, q, z_g, z_h, noise = standard(settings)
    z_t = noise["a"] * z_g + noise["sigma"] * noise["eps_bhwc"]
    p_0, q_0 = p(z_t), q(z_t)
    _, grad = autodiff(settings, lambda _: p_0, lambda _: q_0, z_g, z_h, **noise)
    if settings.literal:
        np.testing.assert_array_equal(grad, 0.0)
    else:
        w = jnp.abs(z_g - p_0).mean((1, 2, 3), keepdims=True)
        close(grad, (q_0 - p_0) / (w * N))


def test_vsd_is_half_of_osediffs_surrogate():
    z_g, _, _ = setup()
    p, q = jax.random.normal(jax.random.key(5), (2, *SHAPE))

    def osediff(z):
        w = jnp.abs(z - p).mean((1, 2, 3), keepdims=True)
        aim = jax.lax.stop_gradient(z - (q - p) / w)
        return ((z - aim) ** 2).mean((1, 2, 3))

    close(losses.vsd(p, q, z_g), 0.5 * osediff(z_g))
    theirs = jax.grad(lambda z: osediff(z).sum())(z_g)
    close(jax.grad(lambda z: losses.vsd(p, q, z).sum())(z_g), 0.5 * theirs)


@each
def test_I9_no_gradient_through_w_or_the_true_latent(settings):
    z_g, z_h, _ = setup()
    p, q = jax.random.normal(jax.random.key(5), (2, *SHAPE))

    def loss(z_h, p):
        return losses.score_loss(settings, p, q, z_g, z_h).sum()

    np.testing.assert_array_equal(jax.grad(loss)(z_h, p), 0.0)
    np.testing.assert_array_equal(
        jax.grad(lambda z_g: score.normalizer(p, z_g).sum())(z_g), 0.0
    )
    # by hand, with W a number: dL/dp = (u + (1 - 2 xi) d) / (W N)
    if settings.kind == "cid":
        rho = 1.0 if settings.literal else settings.rho
        target, d = z_g + rho * (z_h - z_g), p - q
        w = jnp.abs(z_g - p).mean((1, 2, 3), keepdims=True)
        expected = (p - target + (1 - 2 * settings.xi) * d) / (w * N)
        close(jax.grad(loss, argnums=1)(z_h, p), expected)


@each_variant
def test_I10_scaling_everything_scales_the_loss(settings):
    z_g, z_h, _ = setup()
    p, q = jax.random.normal(jax.random.key(5), (2, *SHAPE))
    loss_b = losses.score_loss(settings, p, q, z_g, z_h)
    for c in (1e-2, 3.0):
        scaled = losses.score_loss(settings, c * p, c * q, c * z_g, c * z_h)
        close(scaled, c * loss_b)


def test_I10_the_clip_stops_division_by_nothing():
    z_g, z_h, _ = setup()
    w_b = score.normalizer(z_g, z_g)
    np.testing.assert_array_equal(w_b, score.W_MIN)
    loss_b = losses.cid(z_g, z_g + 1.0, z_g, z_h, xi=0.5, rho=1.0)
    assert np.isfinite(loss_b).all()


@each
def test_I11_kappa_one_is_the_conditional_pass(settings):
    p, q, z_g, z_h, noise = standard(settings, kappa=1.0)
    loss_b, grad = autodiff(settings, p, q, z_g, z_h, **noise)
    p = partial(x0, network(1))
    expected = autodiff(settings, p, q, z_g, z_h, **noise)
    close(loss_b, expected[0], 1e-15)
    close(grad, expected[1], 1e-14)


@pytest.mark.parametrize("xi", (0.0, 0.5, 1.2))
@pytest.mark.parametrize("rho", (0.3, 1.0))
def test_I13_decomposition(xi, rho):
    """g_anchored = g_SiD + rho a J_d^T (z_g - z_h) / W; g_literal = that + d / W."""
    p, q, z_g, z_h, noise = standard(None)
    kinds = {
        "sid": losses.ScoreSettings("sid", alpha=xi),
        "anchored": losses.ScoreSettings("cid", xi=xi, rho=rho),
        "anchored 1": losses.ScoreSettings("cid", xi=xi, rho=1.0),
        "literal": losses.ScoreSettings("cid", xi=xi, literal=True),
    }
    grad = {
        name: N * autodiff(settings, p, q, z_g, z_h, **noise)[1]
        for name, settings in kinds.items()
    }
    z_t = noise["a"] * z_g + noise["sigma"] * noise["eps_bhwc"]
    d, vjp = jax.vjp(lambda z: p(z) - q(z), z_t)
    w = jnp.abs(z_g - p(z_t)).mean((1, 2, 3), keepdims=True)
    pull = noise["a"] * vjp(z_g - z_h)[0] / w
    close(grad["anchored"], grad["sid"] + rho * pull)
    close(grad["literal"], grad["anchored 1"] + d / w)


@pytest.mark.parametrize("dtype", (jnp.bfloat16, jnp.float32))
def test_losses_are_float32_for_lower_precision(dtype):
    p, q, z_g, z_h = jax.random.normal(jax.random.key(9), (4, *SHAPE)).astype(dtype)
    for settings in ALL.values():
        loss_b = losses.score_loss(settings, p, q, z_g, z_h)
        assert loss_b.shape == (3,) and loss_b.dtype == jnp.float32


def test_literal_demands_a_paired_term():
    losses.require_paired_term(literal=False, lambda_rec=0.0)
    losses.require_paired_term(literal=True, lambda_rec=0.3)
    for lambda_rec in (0.0, 0.05, float("nan")):
        with pytest.raises(UsageError, match=f"lambda_rec={lambda_rec}.*0.3"):
            losses.require_paired_term(literal=True, lambda_rec=lambda_rec)


def test_unknown_kind_is_named():
    z = jnp.zeros(SHAPE)
    with pytest.raises(UsageError, match="'cida'.*'cid'"):
        losses.score_loss(losses.ScoreSettings("cida"), z, z, z, z)
