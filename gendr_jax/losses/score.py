"""Score distillation: VSD, SiD and CiD, as pure per-sample functions.

Losses on given x0 predictions; `sequential.py` differentiates through the networks that
make them with less memory.

Names, as in docs/algorithm.md: z_g the generated latent, z_h the true one, p the
guided real score's x0 and q the fake score's x0, both at z_t = a z_g + sigma eps;
d = p - q; N = H W C. For SiD and CiD, p and q must still depend on z_g: gradients
through both networks are part of the method. Without them SiD turns into VSD and
literal CiD has no gradient at all.
"""

import jax
import jax.numpy as jnp

from gendr_jax.diffusion import at_least_fp32
from gendr_jax.errors import UsageError
from gendr_jax.losses.reduction import per_sample, sample_mean

W_MIN = 1e-5
MIN_LAMBDA_REC = 0.3  # smallest weight at which literal CiD did not diverge


def require_paired_term(literal: bool, lambda_rec: float) -> None:
    """Refuses literal CiD without a paired term. Call it where settings are read.

    `cid` is a pure function of arrays and does not know the rest of the objective, so
    the code that assembles it calls this once. Literal CiD pushes a biased z_g
    further away at every t (docs/algorithm.md, "The literal target"); in toy runs it
    diverged with lambda_rec = 0.05 and held with 0.3.

    Raises:
      UsageError: literal with lambda_rec < MIN_LAMBDA_REC.
    """
    if literal and not lambda_rec >= MIN_LAMBDA_REC:
        raise UsageError(
            "literal CiD diverges with a paired latent term of "
            f"lambda_rec={lambda_rec}, it needs at least {MIN_LAMBDA_REC}. "
            "Raise that weight, or set literal=False."
        )


def normalizer(p_bhwc: jax.Array, z_g_bhwc: jax.Array) -> jax.Array:
    """W = sg(max(mean_HWC |z_g - p|, 1e-5)), eq. 10. Shape [B], no gradient."""
    p_bhwc, z_g_bhwc = at_least_fp32(p_bhwc), at_least_fp32(z_g_bhwc)
    w_b = jnp.maximum(sample_mean(jnp.abs(z_g_bhwc - p_bhwc)), W_MIN)
    return jax.lax.stop_gradient(w_b)


def vsd(p_bhwc: jax.Array, q_bhwc: jax.Array, z_g_bhwc: jax.Array) -> jax.Array:
    """Variational score distillation, eq. 11 (DMD2's form; OSEDiff's is twice this).

    Value mean_HWC(g^2) / 2 with g = (q - p) / W; gradient w.r.t. z_g is g / N, and p
    and q receive none.

    Args:
      p_bhwc: x0 of the guided real score at z_t.
      q_bhwc: x0 of the fake score at z_t.
      z_g_bhwc: generated latent.

    Returns:
      loss_b, shape [B], float32 or better.
    """
    p, q, z_g = (at_least_fp32(x) for x in (p_bhwc, q_bhwc, z_g_bhwc))
    g = jax.lax.stop_gradient((q - p) / per_sample(normalizer(p, z_g), p.ndim))
    # Equal in value and gradient to (z_g - sg(z_g - g))^2 / 2, without cancellation.
    return sample_mean(0.5 * g * g + g * (z_g - jax.lax.stop_gradient(z_g)))


def sid(
    p_bhwc: jax.Array,
    q_bhwc: jax.Array,
    z_g_bhwc: jax.Array,
    *,
    alpha: float | jax.Array,
) -> jax.Array:
    """Score identity distillation, eq. 12 (SiD, `generator_loss`).

    mean_HWC[ d ((p - z_g) - alpha d) / W ]. Differentiate with p and q functions of
    z_g; only W is detached. alpha = 1/2 gives the exact Fisher gradient.

    Args:
      p_bhwc, q_bhwc, z_g_bhwc: as in `vsd`.
      alpha: weight of the squared difference; SiD uses 1 to 1.2.

    Returns:
      loss_b, shape [B], float32 or better.
    """
    p, q, z_g = (at_least_fp32(x) for x in (p_bhwc, q_bhwc, z_g_bhwc))
    return _identity_loss(p, q, z_g, target=z_g, xi=alpha)


def cid(
    p_bhwc: jax.Array,
    q_bhwc: jax.Array,
    z_g_bhwc: jax.Array,
    z_h_bhwc: jax.Array,
    *,
    xi: float | jax.Array,
    rho: float | jax.Array,
    literal: bool = False,
) -> jax.Array:
    """Consistent score identity distillation, L3 - xi L1, eq. 13-14.

    mean_HWC[ d ((p - T) - xi d) / W ] with
    T = z_g + rho sg(z_h - z_g)   (anchored: value z_h at rho = 1, derivative of z_g),
    T = sg(z_h)                   (literal: the formula as printed; rho is unused).
    rho = 0 is SiD with alpha = xi. The literal form needs a paired term: see
    `require_paired_term`. z_h never receives a gradient.

    Args:
      p_bhwc, q_bhwc, z_g_bhwc: as in `vsd`, p and q functions of z_g.
      z_h_bhwc: latent of the true high-quality image.
      xi: weight of the squared difference.
      rho: how far the identity target moves from z_g to z_h.
      literal: detach the target completely.

    Returns:
      loss_b, shape [B], float32 or better.
    """
    p, q, z_g, z_h = (at_least_fp32(x) for x in (p_bhwc, q_bhwc, z_g_bhwc, z_h_bhwc))
    if literal:
        target = jax.lax.stop_gradient(z_h)
    else:
        target = z_g + rho * jax.lax.stop_gradient(z_h - z_g)
    return _identity_loss(p, q, z_g, target=target, xi=xi)


def _identity_loss(
    p: jax.Array,
    q: jax.Array,
    z_g: jax.Array,
    *,
    target: jax.Array,
    xi: float | jax.Array,
) -> jax.Array:
    d = p - q
    w = per_sample(normalizer(p, z_g), p.ndim)
    return sample_mean(d * ((p - target) - xi * d) / w)
