"""Blur kernels in closed form on a fixed square grid.

With x = column and y = row offsets from the centre, theta the angle of the long axis
and c, s its cosine and sine,

    q(x, y) = ((c x + s y) / sigma_x)^2 + ((-s x + c y) / sigma_y)^2
    Gaussian               exp(-q / 2)
    generalised Gaussian   exp(-q^beta / 2)
    plateau                1 / (1 + q^beta)
    sinc                   omega J1(omega r) / (2 pi r),  omega^2 / (4 pi) at r = 0

restricted to |x|, |y| <= (size - 1) / 2 and divided by their sum.
"""

import math

import jax
import jax.numpy as jnp

# Side of the grid of all kernels, which are zero outside their own size.
SUPPORT = 21
RADIUS = SUPPORT // 2

GAUSSIAN, GENERALISED, PLATEAU = 0, 1, 2


def bessel_j1(x: jax.Array) -> jax.Array:
    """J1(x) for x >= 0, absolute error below 4e-7.

    Abramowitz and Stegun 9.4.4 and 9.4.6. `jax.scipy.special.bessel_jn` is wrong by
    0.1 and NaN in places over the range needed here (0 .. 45).
    """
    t = jnp.square(x / 3.0)
    small_series = (
        0.5,
        -0.56249985,
        0.21093573,
        -0.03954289,
        0.00443319,
        -0.00031761,
        1.109e-5,
    )
    small = x * _polynomial(small_series, t)
    # jnp.where evaluates both sides: keep the unused one finite
    far = jnp.maximum(x, 3.0)
    u = 3.0 / far
    modulus = (
        *(0.79788456, 0.00000156, 0.01659667, 0.00017105),
        *(-0.00249511, 0.00113653, -0.00020033),
    )
    phase = (
        *(-2.35619449, 0.12499612, 0.00005650, -0.00637879),
        *(0.00074348, 0.00079824, -0.00029166),
    )
    large = _polynomial(modulus, u) * jnp.cos(far + _polynomial(phase, u))
    return jnp.where(x <= 3.0, small, large * jax.lax.rsqrt(far))


def blur_kernel(
    shape: jax.Array,
    size: jax.Array,
    sigma_x: jax.Array,
    sigma_y: jax.Array,
    theta: jax.Array,
    beta: jax.Array,
) -> jax.Array:
    """A Gaussian, generalised or plateau kernel, [SUPPORT, SUPPORT], sum 1.

    Args:
      shape: int scalar, GAUSSIAN, GENERALISED or PLATEAU.
      size: odd int scalar, side of the window in pixels, at most SUPPORT.
      sigma_x, sigma_y: standard deviations along the rotated axes, in pixels.
      theta: angle of the first axis, radians, from x (columns) towards y (rows).
      beta: exponent of the generalised and plateau shapes.
    """
    x, y = _grid()
    c, s = jnp.cos(theta), jnp.sin(theta)
    q = jnp.square((c * x + s * y) / sigma_x) + jnp.square((c * y - s * x) / sigma_y)
    power = jnp.where(shape == GAUSSIAN, q, q ** jnp.where(shape == GAUSSIAN, 1, beta))
    bell = jnp.exp(-0.5 * power)
    kernel = jnp.where(shape == PLATEAU, 1.0 / (1.0 + power), bell)
    return _normalise(kernel, size)


def sinc_kernel(size: jax.Array, omega: jax.Array) -> jax.Array:
    """The circular low-pass kernel of cut-off `omega` radians a pixel, sum 1."""
    x, y = _grid()
    r = jnp.sqrt(x * x + y * y)
    off_centre = omega * bessel_j1(omega * r) / (2.0 * math.pi * jnp.maximum(r, 1.0))
    kernel = jnp.where(r == 0, omega * omega / (4.0 * math.pi), off_centre)
    return _normalise(kernel, size)


def identity_kernel() -> jax.Array:
    """The kernel that changes nothing: 1 at the centre, [SUPPORT, SUPPORT]."""
    x, y = _grid()
    return ((x == 0) & (y == 0)).astype(jnp.float32)


def _grid() -> tuple[jax.Array, jax.Array]:
    """Column and row offsets from the centre, [SUPPORT, SUPPORT] each."""
    offsets = jnp.arange(-RADIUS, RADIUS + 1, dtype=jnp.float32)
    x, y = jnp.meshgrid(offsets, offsets, indexing="xy")
    return x, y


def _normalise(kernel: jax.Array, size: jax.Array) -> jax.Array:
    x, y = _grid()
    inside = jnp.maximum(jnp.abs(x), jnp.abs(y)) <= (size - 1) / 2
    kernel = jnp.where(inside, kernel, 0.0)
    return kernel / jnp.sum(kernel)


def _polynomial(coefficients: tuple[float, ...], x: jax.Array) -> jax.Array:
    """sum_k coefficients[k] x^k, by Horner's rule."""
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value
