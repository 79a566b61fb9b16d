"""Every random number of one sample's degradation, except its noise fields.

A sample's draws are a function of its key alone: one vector of uniform numbers, each
element of which has one use, so that a new parameter at a new index changes no other.
Real-ESRGAN draws some of these once a batch and shuffles pairs in a queue to make up
for it; draws by sample need no queue.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gendr_jax.data.degrade import kernels
from gendr_jax.data.degrade.noise import NoiseDraw
from gendr_jax.data.degrade.recipe import Blur, Order, Recipe
from gendr_jax.data.degrade.resize import MODES

# uniform numbers drawn for a sample: 20 for each pass and 6 for the rest
DRAWS = 46
MILD = 1  # folded into the key of the two further numbers of recipes with mild_prob
MODE_INDEX = tuple(range(len(MODES)))


class OrderDraw(NamedTuple):
    """One pass: a [21, 21] kernel and scalars. mode indexes resize.MODES.

    resize_at: position of the resize: 0 before the blur, 1 after it, 2 after the noise.
    """

    kernel: jax.Array
    factor: jax.Array
    mode: jax.Array
    noise: NoiseDraw
    quality: jax.Array
    resize_at: jax.Array | int = 1


class Draws(NamedTuple):
    """All random parameters of one sample.

    has_second: whether there is a second pass. sinc: the last kernel, [21, 21].
    last_mode: of the resize to the final size. jpeg_last: the second JPEG comes after
    that resize instead of before it.
    """

    first: OrderDraw
    second: OrderDraw
    has_second: jax.Array
    sinc: jax.Array
    last_mode: jax.Array
    jpeg_last: jax.Array


def sample(key: jax.Array, recipe: Recipe) -> Draws:
    """Draw the parameters of one sample from its key."""
    u = jax.random.uniform(key, (DRAWS,))
    first, second = recipe.orders
    draws = Draws(
        first=_order(u[0:20], first),
        second=_order(u[20:40], second),
        has_second=u[40] < recipe.second_prob,
        sinc=_last_sinc(u[41:44], recipe),
        last_mode=_choice(u[44], MODE_INDEX),
        jpeg_last=u[45] < recipe.jpeg_last_prob,
    )
    if recipe.mild_prob == 0:
        return draws
    is_mild, strength = jax.random.uniform(jax.random.fold_in(key, MILD), (2,))
    strength = jnp.where(is_mild < recipe.mild_prob, strength, 1.0)
    return draws._replace(
        first=milder(draws.first, strength),
        second=milder(draws.second, strength),
        sinc=_towards_identity(draws.sinc, strength),
    )


def milder(draw: OrderDraw, strength: jax.Array) -> OrderDraw:
    """The pass with a share ``strength`` of its blur, resize, noise and JPEG loss."""
    noise = draw.noise
    return draw._replace(
        kernel=_towards_identity(draw.kernel, strength),
        factor=(1.0 - strength) + strength * draw.factor,
        noise=noise._replace(
            gaussian_sigma=strength * noise.gaussian_sigma,
            poisson_scale=strength * noise.poisson_scale,
        ),
        quality=(1.0 - strength) * 100.0 + strength * draw.quality,
    )


def _towards_identity(kernel: jax.Array, strength: jax.Array) -> jax.Array:
    return (1.0 - strength) * kernels.identity_kernel() + strength * kernel


def random_kernel(u: jax.Array, blur: Blur) -> jax.Array:
    """A blur kernel of Real-ESRGAN's first two passes, [21, 21], sum 1.

    Args:
      u: nine uniform numbers in [0, 1).
    """
    size = _choice(u[0], blur.sizes)
    kind = _weighted(u[1], blur.kind_probs)
    shape = kind // 2
    sigma_x = _uniform(u[2], *blur.sigma)
    # odd kinds are anisotropic; for an isotropic kernel theta has no effect
    sigma_y = jnp.where(kind % 2 == 1, _uniform(u[3], *blur.sigma), sigma_x)
    theta = _uniform(u[4], -jnp.pi, jnp.pi)
    low, high = (
        jnp.where(shape == kernels.GENERALISED, a, b)
        for a, b in zip(blur.generalised_beta, blur.plateau_beta, strict=True)
    )
    below, above = _uniform(u[6], low, 1.0), _uniform(u[6], 1.0, high)
    beta = jnp.where(u[5] < 0.5, below, above)
    bell = kernels.blur_kernel(shape, size, sigma_x, sigma_y, theta, beta)
    omega = _uniform(u[7], jnp.where(size < 13, jnp.pi / 3, jnp.pi / 5), jnp.pi)
    return jnp.where(u[8] < blur.sinc_prob, kernels.sinc_kernel(size, omega), bell)


def _order(u: jax.Array, order: Order) -> OrderDraw:
    kernel = random_kernel(u[1:10], order.blur)
    resize_type = _weighted(u[10], order.resize_probs)
    smallest, largest = order.resize
    up, down = _uniform(u[11], 1.0, largest), _uniform(u[11], smallest, 1.0)
    return OrderDraw(
        kernel=jnp.where(u[0] < order.blur_prob, kernel, kernels.identity_kernel()),
        factor=jnp.where(resize_type == 0, up, jnp.where(resize_type == 1, down, 1.0)),
        mode=_choice(u[12], MODE_INDEX),
        noise=NoiseDraw(
            is_gaussian=u[13] < order.gaussian_prob,
            is_gray=u[14] < order.gray_prob,
            gaussian_sigma=_uniform(u[15], *order.gaussian) / 255.0,
            poisson_scale=_uniform(u[16], *order.poisson),
        ),
        quality=_quality(u[17], order),
        resize_at=_choice(u[18], (0, 1, 2)) if order.resize_anywhere else 1,
    )


def _quality(u: jax.Array, order: Order) -> jax.Array:
    low, high = order.jpeg
    if not order.integer_quality:
        return _uniform(u, low, high)
    return jnp.minimum(jnp.floor(_uniform(u, low, high + 1.0)), high)


def _last_sinc(u: jax.Array, recipe: Recipe) -> jax.Array:
    size = _choice(u[0], recipe.sinc_sizes)
    kernel = kernels.sinc_kernel(size, _uniform(u[1], jnp.pi / 3, jnp.pi))
    return jnp.where(u[2] < recipe.sinc_prob, kernel, kernels.identity_kernel())


def _uniform(
    u: jax.Array, low: jax.Array | float, high: jax.Array | float
) -> jax.Array:
    return low + (high - low) * u


def _choice(u: jax.Array, values: tuple[int, ...]) -> jax.Array:
    """One of the values, all equally likely."""
    index = jnp.floor(u * len(values)).astype(jnp.int32)
    return jnp.asarray(values)[jnp.minimum(index, len(values) - 1)]


def _weighted(u: jax.Array, probs: tuple[float, ...]) -> jax.Array:
    """The index of one of the probabilities."""
    bounds = np.cumsum(probs[:-1], dtype=np.float32)
    return jnp.sum(u >= bounds)
