"""The gradient of a score loss with the activations of one network in memory.

Plain autodiff of `score_loss` through z_t keeps the activations of both score
networks until the backward pass. Here each network runs forward once for its x0,
then again inside its own VJP, one after the other, with the same result
(docs/algorithm.md, eq. 15).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from gendr_jax.diffusion import at_least_fp32
from gendr_jax.errors import UsageError
from gendr_jax.losses import score
from gendr_jax.losses.reduction import sample_mean, zero_nonfinite

PredictX0 = Callable[[jax.Array], jax.Array]  # z_t_bhwc -> x0_bhwc


@dataclass(frozen=True)
class ScoreSettings:
    """Type of the score loss, and its weights.

    kind: "vsd", "sid" or "cid".
    alpha: SiD's weight. xi, rho, literal: CiD's. rho may be a traced scalar, for a
    ramp (`dataclasses.replace(settings, rho=...)`).
    """

    kind: Literal["vsd", "sid", "cid"] = "cid"
    alpha: float = 1.0
    xi: float = 0.5
    rho: float | jax.Array = 1.0
    literal: bool = False


def score_loss(
    settings: ScoreSettings,
    p_bhwc: jax.Array,
    q_bhwc: jax.Array,
    z_g_bhwc: jax.Array,
    z_h_bhwc: jax.Array,
) -> jax.Array:
    """loss_b of the chosen loss on given x0 predictions (equations in score.py).

    Raises:
      UsageError: unknown kind.
    """
    if settings.kind == "vsd":
        return score.vsd(p_bhwc, q_bhwc, z_g_bhwc)
    if settings.kind == "sid":
        return score.sid(p_bhwc, q_bhwc, z_g_bhwc, alpha=settings.alpha)
    if settings.kind == "cid":
        return score.cid(
            p_bhwc,
            q_bhwc,
            z_g_bhwc,
            z_h_bhwc,
            xi=settings.xi,
            rho=settings.rho,
            literal=settings.literal,
        )
    raise UsageError(
        f"score loss kind is {settings.kind!r}, not 'vsd', 'sid' or 'cid'. "
        "Choose one of them."
    )


def score_gradient(
    settings: ScoreSettings,
    predict_p: PredictX0,
    predict_q: PredictX0,
    z_g_bhwc: jax.Array,
    z_h_bhwc: jax.Array,
    *,
    a: jax.Array,
    sigma: jax.Array,
    eps_bhwc: jax.Array,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Loss and dL/dz_g, one VJP per score network, eq. 15.

    With c_p, c_q, c_z the derivatives of loss_b(p, q, z_g) at fixed other arguments:
    dL/dz_g = c_z + a (J_p^T c_p + J_q^T c_q), J_f the Jacobian of f at z_t. For VSD
    c_p = c_q = 0, so neither network is differentiated.

    Args:
      settings: which loss.
      predict_p: z_t_bhwc -> x0_bhwc of the guided real score.
      predict_q: z_t_bhwc -> x0_bhwc of the fake score.
      z_g_bhwc, z_h_bhwc: generated and true latent.
      a, sigma: [B, 1, 1, 1], from `diffusion.alpha_sigma`.
      eps_bhwc: the noise of z_t = a z_g + sigma eps.

    Returns:
      loss_b; grad_bhwc, the derivative of each sample's own loss (no division by B),
      zero for samples where it is not finite; aux with w_b = W and gap_b =
      mean_HWC |p - q| / W. All are detached from the arguments and from values that
      the two functions close over.

    Raises:
      UsageError: unknown kind.
    """
    z_g, z_h, eps = (
        jax.lax.stop_gradient(at_least_fp32(x)) for x in (z_g_bhwc, z_h_bhwc, eps_bhwc)
    )
    a, sigma = a.astype(z_g.dtype), sigma.astype(z_g.dtype)
    z_t = a * z_g + sigma * eps
    p, q = predict_p(z_t), predict_q(z_t)

    def total(p, q, z_g):  # samples are independent: the sum's gradient is per sample
        loss_b = score_loss(settings, p, q, z_g, z_h)
        return jnp.sum(loss_b), loss_b

    (c_p, c_q, grad), loss_b = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(
        p, q, z_g
    )
    if settings.kind != "vsd":
        grad += a * _pullback(predict_p, z_t, c_p, after=grad)
        grad += a * _pullback(predict_q, z_t, c_q, after=grad)

    w_b = score.normalizer(p, z_g)
    aux = {"w_b": w_b, "gap_b": sample_mean(jnp.abs(p - q)) / w_b}
    return jax.lax.stop_gradient((loss_b, zero_nonfinite(grad), aux))


def _pullback(
    predict: PredictX0, z_t: jax.Array, cotangent: jax.Array, *, after: jax.Array
) -> jax.Array:
    """J^T cotangent by recomputing `predict`, after `after` is computed.

    The barrier makes z_t depend on the cotangent and on the gradient so far, so that
    XLA can neither reuse the first forward pass, which would keep its activations in
    memory, nor run the VJPs of both networks concurrently.
    """
    z_t, cotangent, _ = jax.lax.optimization_barrier((z_t, cotangent, after))
    _, vjp = jax.vjp(predict, z_t)
    return vjp(cotangent)[0]


def attach_gradient(
    loss_b: jax.Array, z_g_bhwc: jax.Array, grad_bhwc: jax.Array
) -> jax.Array:
    """loss_b whose derivative w.r.t. z_g is grad_bhwc and nothing else.

    Plugs the result of `score_gradient` into a larger differentiable objective
    (adversarial, alignment, paired terms), one `jax.grad` for all of them.
    """
    z_g_bhwc = at_least_fp32(z_g_bhwc)
    zero_bhwc = z_g_bhwc - jax.lax.stop_gradient(z_g_bhwc)
    carrier_bhwc = jax.lax.stop_gradient(grad_bhwc) * zero_bhwc
    return jax.lax.stop_gradient(loss_b) + jnp.sum(carrier_bhwc, axis=(1, 2, 3))
