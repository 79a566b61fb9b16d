"""The lean gradient equals autodiff (I7), reaches z_g alone (I9), survives NaN (I12).

Float64, toy networks. XLA keeps the barrier on TPU and GPU; its CPU backend drops it
(also that of jax.checkpoint), so memory is checked on the program before XLA.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import diffusion, losses

SHAPE = (3, 2, 3, 2)
N = 12  # H W C
T_B = np.array([40, 354, 900])
KAPPA = 2.0
ALL = {
    "sid .5": losses.ScoreSettings("sid", alpha=0.5),
    "sid 1.2": losses.ScoreSettings("sid", alpha=1.2),
    "anchored": losses.ScoreSettings("cid", xi=0.5, rho=1.0),
    "anchored .3": losses.ScoreSettings("cid", xi=0.0, rho=0.3),
    "literal": losses.ScoreSettings("cid", xi=0.5, literal=True),
    "vsd": losses.ScoreSettings("vsd"),
}
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
@pytest.mark.parametrize("jit", (False, True))
def test_I7_sequential_gradient_equals_autodiff(settings, jit):
    p, q, z_g, z_h, noise = standard(settings)
    expected = autodiff(settings, p, q, z_g, z_h, **noise)
    sequential = partial(losses.score_gradient, settings, p, q)
    sequential = jax.jit(sequential) if jit else sequential
    loss_b, grad, aux = sequential(z_g, z_h, **noise)
    close(loss_b, expected[0], 1e-13)
    close(grad, expected[1], 1e-13)
    z_t = noise["a"] * z_g + noise["sigma"] * noise["eps_bhwc"]
    w_b = jnp.abs(z_g - p(z_t)).mean((1, 2, 3))
    close(aux["w_b"], w_b)
    close(aux["gap_b"], jnp.abs(p(z_t) - q(z_t)).mean((1, 2, 3)) / w_b)


@each
def test_I7_sequential_generator_gradient_equals_autodiff(settings):
    """Through G, beside another term, in one jax.grad: what the train step does."""
    p, q, z_l, z_h, noise = standard(settings)

    def plain(theta):
        z_g = x0(theta, z_l)
        z_t = noise["a"] * z_g + noise["sigma"] * noise["eps_bhwc"]
        loss_b = losses.score_loss(settings, p(z_t), q(z_t), z_g, z_h)
        return (loss_b + 0.3 * losses.l2(z_g, z_h)).mean()

    def lean(theta):
        z_g = x0(theta, z_l)
        loss_b, grad, _ = losses.score_gradient(settings, p, q, z_g, z_h, **noise)
        loss_b = losses.attach_gradient(loss_b, z_g, grad)
        return (loss_b + 0.3 * losses.l2(z_g, z_h)).mean()

    theta = network(3)
    value, expected = jax.value_and_grad(plain)(theta)
    ours, grads = jax.value_and_grad(lean)(theta)
    close(ours, value)
    jax.tree.map(partial(close, tolerance=1e-13), grads, expected)


def test_I7_each_network_is_recomputed_behind_a_barrier():
    """The program handed to XLA: two barriers, and every forward pass twice."""
    depth = 5
    weights = jnp.zeros((2, depth, 2, 2))

    def deep(w, z_t):
        for layer in w:
            z_t = jnp.tanh(z_t @ layer)
        return z_t

    def program(method, settings):
        def run(w, z_g, noise):
            p, q = partial(deep, w[0]), partial(deep, w[1])
            return method(settings, p, q, z_g, z_g, **noise)[:2]

        z_g, _, noise = setup()
        text = jax.jit(run).lower(weights, z_g, noise).as_text()
        return text.count("dot_general"), text.count("optimization_barrier")

    forward = backward = 2 * depth
    cid, vsd = losses.ScoreSettings("cid"), losses.ScoreSettings("vsd")
    assert program(autodiff, cid) == (forward + backward, 0)
    lean = program(losses.score_gradient, cid)
    assert lean == (forward + forward + backward, 2)
    assert program(losses.score_gradient, vsd) == (forward, 0)


@each
def test_I9_only_the_generator_is_trained(settings):
    """Nothing reaches phi, psi or z_h through the sequential form."""
    _, _, z_g, z_h, noise = standard(settings)

    def loss(phi, psi, z_h, z_g):
        p, q = partial(guided, phi), partial(x0, psi)
        loss_b, grad, aux = losses.score_gradient(settings, p, q, z_g, z_h, **noise)
        extra = aux["w_b"].sum() + aux["gap_b"].sum()
        return losses.attach_gradient(loss_b, z_g, grad).sum() + extra + grad.sum()

    grads = jax.grad(loss, argnums=(0, 1, 2, 3))(network(1), network(2), z_h, z_g)
    for leaf in jax.tree.leaves(grads[:3]):
        np.testing.assert_array_equal(leaf, 0.0)
    assert jnp.abs(grads[3]).min() > 0


BREAKABLE = [(name, "p") for name in ALL] + [(name, "q") for name in ALL]
BREAKABLE += [(name, "z_h") for name in ("anchored", "anchored .3", "literal")]


@pytest.mark.parametrize("name, broken", BREAKABLE)
@pytest.mark.parametrize("lean", (False, True))
def test_I12_a_broken_sample_does_not_poison_the_batch(name, broken, lean):
    """theta's gradient equals that of a batch without the broken sample."""
    settings = ALL[name]
    p, q, z_l, z_h, noise = standard(settings)

    def spoil(x):
        return x.at[1, 0, 0, 0].set(jnp.nan)

    bad_p = (lambda z: spoil(p(z))) if broken == "p" else p
    bad_q = (lambda z: spoil(q(z))) if broken == "q" else q
    bad_h = spoil(z_h) if broken == "z_h" else z_h

    def objective(theta, p, q, z_l, z_h, noise):
        z_g = x0(theta, z_l)
        if lean:
            loss_b, grad, _ = losses.score_gradient(settings, p, q, z_g, z_h, **noise)
            loss_b = losses.attach_gradient(loss_b, z_g, grad)
        else:
            z_g = losses.finite_gradient(z_g)
            z_t = noise["a"] * z_g + noise["sigma"] * noise["eps_bhwc"]
            loss_b = losses.score_loss(settings, p(z_t), q(z_t), z_g, z_h)
        return losses.finite_mean(loss_b), loss_b

    step = jax.value_and_grad(objective, has_aux=True)
    theta = network(3)
    (value, loss_b), grads = step(theta, bad_p, bad_q, z_l, bad_h, noise)
    np.testing.assert_array_equal(np.isnan(loss_b), [False, True, False])
    keep = jnp.array([0, 2])
    less = {name: x[keep] for name, x in noise.items()}
    (expected, _), reference = step(theta, p, q, z_l[keep], z_h[keep], less)
    close(value, expected)
    jax.tree.map(close, grads, reference)
