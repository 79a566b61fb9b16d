"""Diffusion mathematics of Stable Diffusion 2.1, as pure functions.

Noise schedule, forward noising, conversions between the prediction types (eps, v, x0)
and the score, classifier-free guidance, GenDR's one-step prediction, DDIM sampler.

Notation: alpha_bar_t is the schedule, a_t = sqrt(alpha_bar_t),
sigma_t = sqrt(1 - alpha_bar_t), z a clean latent, z_t = a_t z + sigma_t eps.
Computation is float32, or float64 where the inputs are float64. Equation numbers
are those of docs/algorithm.md.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from gendr_jax.errors import UsageError

PredictionType = Literal["eps", "v", "x0"]

NUM_TIMESTEPS = 1000
T_STAR = 354  # the timestep whose alpha_bar (0.49982) is nearest to one half

# eq. 1: "scaled linear" betas; float64, so that float32 only ever rounds the result
BETA = np.linspace(0.00085**0.5, 0.012**0.5, NUM_TIMESTEPS, dtype=np.float64) ** 2
ALPHA_BAR = np.cumprod(1.0 - BETA)


def at_least_fp32(x: jax.Array) -> jax.Array:
    """Returns x in float32, or unchanged where it is float64 already."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def alpha_sigma(t_b: jax.Array, ndim: int) -> tuple[jax.Array, jax.Array]:
    """a_t = sqrt(alpha_bar_t) and sigma_t = sqrt(1 - alpha_bar_t), eq. 1.

    Args:
      t_b: integer timesteps in [0, 999], shape [B].
      ndim: rank of the array that the result will multiply.

    Returns:
      (a, sigma), each of shape [B, 1, ..., 1] with `ndim` axes, float32 (float64
      under jax_enable_x64).
    """
    shape = (t_b.shape[0],) + (1,) * (ndim - 1)
    a_b = jnp.asarray(np.sqrt(ALPHA_BAR))[t_b]
    sigma_b = jnp.asarray(np.sqrt(1.0 - ALPHA_BAR))[t_b]
    return a_b.reshape(shape), sigma_b.reshape(shape)


def _alpha_sigma_like(t_b: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, sigma = alpha_sigma(t_b, x.ndim)
    return a.astype(x.dtype), sigma.astype(x.dtype)


def add_noise(z_bhwc: jax.Array, eps_bhwc: jax.Array, t_b: jax.Array) -> jax.Array:
    """z_t = a_t z + sigma_t eps, eq. 2. Latents in model scale, t_b int [B]."""
    z_bhwc, eps_bhwc = at_least_fp32(z_bhwc), at_least_fp32(eps_bhwc)
    a, sigma = _alpha_sigma_like(t_b, z_bhwc)
    return a * z_bhwc + sigma * eps_bhwc


def _x0_eps(
    out: jax.Array,
    z_t: jax.Array,
    a: jax.Array,
    sigma: jax.Array,
    prediction_type: PredictionType,
) -> tuple[jax.Array, jax.Array]:
    """(x0, eps) of z_t = a x0 + sigma eps from an output of any type, eq. 3-4."""
    if prediction_type == "eps":
        return (z_t - sigma * out) / a, out
    if prediction_type == "v":
        return a * z_t - sigma * out, sigma * z_t + a * out
    if prediction_type == "x0":
        return out, (z_t - a * out) / sigma
    raise _unknown(prediction_type)


def _unknown(prediction_type: str) -> UsageError:
    return UsageError(
        f"prediction_type is {prediction_type!r}, not 'eps', 'v' or 'x0'. "
        "Set it to what the network was trained to predict."
    )


def _convert(
    out_bhwc: jax.Array,
    z_t_bhwc: jax.Array,
    t_b: jax.Array,
    prediction_type: PredictionType,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    out_bhwc, z_t_bhwc = at_least_fp32(out_bhwc), at_least_fp32(z_t_bhwc)
    a, sigma = _alpha_sigma_like(t_b, z_t_bhwc)
    x0, eps = _x0_eps(out_bhwc, z_t_bhwc, a, sigma, prediction_type)
    return x0, eps, a, sigma


def to_x0(
    out_bhwc: jax.Array,
    z_t_bhwc: jax.Array,
    t_b: jax.Array,
    prediction_type: PredictionType,
) -> jax.Array:
    """Clean-latent prediction f(z_t), eq. 3-4.

    Args:
      out_bhwc: raw network output of type `prediction_type`.
      z_t_bhwc: the noisy latent that the network saw.
      t_b: its integer timesteps, [B].
      prediction_type: "eps", "v" or "x0".

    Raises:
      UsageError: unknown prediction_type.
    """
    return _convert(out_bhwc, z_t_bhwc, t_b, prediction_type)[0]


def to_eps(
    out_bhwc: jax.Array,
    z_t_bhwc: jax.Array,
    t_b: jax.Array,
    prediction_type: PredictionType,
) -> jax.Array:
    """Noise prediction, eq. 3-4. Arguments and errors as `to_x0`."""
    return _convert(out_bhwc, z_t_bhwc, t_b, prediction_type)[1]


def to_v(
    out_bhwc: jax.Array,
    z_t_bhwc: jax.Array,
    t_b: jax.Array,
    prediction_type: PredictionType,
) -> jax.Array:
    """Velocity v = a eps - sigma x0, eq. 4. Arguments and errors as `to_x0`."""
    x0, eps, a, sigma = _convert(out_bhwc, z_t_bhwc, t_b, prediction_type)
    return a * eps - sigma * x0


def to_score(
    out_bhwc: jax.Array,
    z_t_bhwc: jax.Array,
    t_b: jax.Array,
    prediction_type: PredictionType,
) -> jax.Array:
    """Score grad_z log p(z_t) = -eps / sigma, eq. 5. Arguments as `to_x0`."""
    _, eps, _, sigma = _convert(out_bhwc, z_t_bhwc, t_b, prediction_type)
    return -eps / sigma


def prediction_target(
    z_bhwc: jax.Array,
    eps_bhwc: jax.Array,
    t_b: jax.Array,
    prediction_type: PredictionType,
) -> jax.Array:
    """Training target of a network of that prediction type at z_t, eq. 6.

    Raises:
      UsageError: unknown prediction_type.
    """
    z_bhwc, eps_bhwc = at_least_fp32(z_bhwc), at_least_fp32(eps_bhwc)
    if prediction_type == "eps":
        return eps_bhwc
    if prediction_type == "x0":
        return z_bhwc
    if prediction_type == "v":
        a, sigma = _alpha_sigma_like(t_b, z_bhwc)
        return a * eps_bhwc - sigma * z_bhwc
    raise _unknown(prediction_type)


def cfg(uncond: jax.Array, cond: jax.Array, kappa: float | jax.Array) -> jax.Array:
    """Classifier-free guidance uncond + kappa (cond - uncond), eq. 7.

    Written around `cond`, so that kappa = 1 returns `cond` bit for bit. Because x0 is
    affine in the output, guiding outputs or x0 predictions is the same.
    """
    uncond, cond = at_least_fp32(uncond), at_least_fp32(cond)
    return cond + (kappa - 1) * (cond - uncond)


def one_step(
    z_l_bhwc: jax.Array, out_bhwc: jax.Array, prediction_type: PredictionType
) -> jax.Array:
    """GenDR's single step at alpha_bar = 1/2 exactly, eq. 8.

    Args:
      z_l_bhwc: low-quality latent in model scale; no noise is added to it.
      out_bhwc: network output on (z_l, T_STAR).
      prediction_type: "eps": sqrt(2) z_l - eps; "v": (z_l - v) / sqrt(2).

    Raises:
      UsageError: unknown prediction_type.
    """
    z_l_bhwc, out_bhwc = at_least_fp32(z_l_bhwc), at_least_fp32(out_bhwc)
    if prediction_type == "eps":
        return 2**0.5 * z_l_bhwc - out_bhwc
    if prediction_type == "v":
        return 0.5**0.5 * (z_l_bhwc - out_bhwc)
    if prediction_type == "x0":
        return out_bhwc
    raise _unknown(prediction_type)


def ddim_timesteps(
    steps: int, spacing: Literal["trailing", "leading"]
) -> tuple[np.ndarray, np.ndarray]:
    """Descending timesteps [steps] and the alpha_bar reached after each [steps].

    "trailing" starts at t = 999 and ends at alpha_bar = 1; "leading" is SD2.1's own
    scheduler file (offset 1, ends at alpha_bar_0): equal for many steps, but it
    starts far below t = 999 when steps are few.

    Raises:
      UsageError: steps out of range or unknown spacing.
    """
    max_steps = NUM_TIMESTEPS - (spacing == "leading")
    if not 1 <= steps <= max_steps:
        raise UsageError(
            f"DDIM of {steps} steps is impossible, the schedule has {max_steps}. "
            f"Choose steps between 1 and {max_steps}."
        )
    if spacing == "trailing":
        t = np.round(np.arange(steps, 0, -1) * (NUM_TIMESTEPS / steps)).astype(int) - 1
        return t, np.append(ALPHA_BAR[t[1:]], 1.0)
    if spacing == "leading":
        t = np.arange(steps)[::-1] * (NUM_TIMESTEPS // steps) + 1
        return t, np.append(ALPHA_BAR[t[1:]], ALPHA_BAR[0])
    raise UsageError(
        f"DDIM spacing is {spacing!r}, not 'trailing' or 'leading'. Choose one of them."
    )


def ddim(
    predict_fn: Callable[[jax.Array, jax.Array], jax.Array],
    z_T_bhwc: jax.Array,
    steps: int,
    prediction_type: PredictionType,
    spacing: Literal["trailing", "leading"] = "trailing",
) -> jax.Array:
    """Deterministic DDIM (Song et al. 2021, eta = 0), eq. 9.

    Args:
      predict_fn: (z_t_bhwc, t_b int32) -> raw network output, guidance included. It
        is traced once, whatever the number of steps.
      z_T_bhwc: standard normal noise, [B, H, W, C].
      steps: number of network calls, 1 to 1000.
      prediction_type: of the output, "eps", "v" or "x0".
      spacing: see `ddim_timesteps`.

    Returns:
      z_0_bhwc, a clean latent in model scale, float32 (float64 for float64 input).

    Raises:
      UsageError: steps, spacing or prediction_type out of range.
    """
    z_T_bhwc = at_least_fp32(z_T_bhwc)
    dtype = z_T_bhwc.dtype
    t, next_alpha_bar = ddim_timesteps(steps, spacing)
    steps_xs = (
        jnp.asarray(t, jnp.int32),
        jnp.asarray(np.sqrt(next_alpha_bar), dtype),
        jnp.asarray(np.sqrt(1.0 - next_alpha_bar), dtype),
    )

    def ddim_step(z_t_bhwc, step):
        t, next_a, next_sigma = step
        t_b = jnp.full(z_t_bhwc.shape[:1], t)
        out_bhwc = predict_fn(z_t_bhwc, t_b)
        x0, eps, _, _ = _convert(out_bhwc, z_t_bhwc, t_b, prediction_type)
        return next_a * x0 + next_sigma * eps, None

    z_0_bhwc, _ = jax.lax.scan(ddim_step, z_T_bhwc, steps_xs)
    return z_0_bhwc
