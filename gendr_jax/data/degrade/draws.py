"""Every random number of one sample's degradation, except its noise fields.

A sample's draws are a function of its key and of nothing else: one vector of uniform
numbers, each place of which has one use, so that a new use at a new place changes no
other. Real-ESRGAN draws some of these once a batch and shuffles pairs in a queue to
make up for it; draws by sample need no queue.
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
MODE_INDEX = tuple(range(len(MODES)))


class OrderDraw(NamedTuple):
    """One pass: a [21, 21] kernel and scalars. mode indexes resize.MODES.

    place: of the resize, 0 before the blur, 1 after it, 2 after the noise.
    """

    kernel: jax.Array
    factor: jax.Array
    mode: jax.Array
    noise: NoiseDraw
    quality: jax.Array
    place: jax.Array | int = 1


class Draws(NamedTuple):
    """The whole chain.

    has_second: the second pass is done. sinc: the last kernel, [21, 21]. last_mode:
    of the resize to the final size. jpeg_last: the second JPEG comes after that
    resize instead of before it.
    """

    first: OrderDraw
    second: OrderDraw
    has_second: jax.Array
    sinc: jax.Array
    last_mode: jax.Array
    jpeg_last: jax.Array


def sample(key: jax.Array, recipe: Recipe) -> Draws:
    """Draw the parameters of one sample from its key."""
    part = jax.random.uniform(key, (DRAWS,))
    first, second = recipe.orders
    return Draws(
        first=_order(part[0:20], first),
        second=_order(part[20:40], second),
        has_second=part[40] < recipe.second_prob,
        sinc=_last_sinc(part[41:44], recipe),
        last_mode=_choice(part[44], MODE_INDEX),
        jpeg_last=part[45] < recipe.jpeg_last_prob,
    )


def random_kernel(part: jax.Array, blur: Blur) -> jax.Array:
    """A blur kernel of Real-ESRGAN's first two passes, [21, 21], sum 1.

    Args:
      part: nine uniform numbers in [0, 1).
    """
    size = _choice(part[0], blur.sizes)
    kind = _weighted(part[1], blur.kind_probs)
    shape = kind // 2
    sigma_x = _uniform(part[2], *blur.sigma)
    # odd kinds are the anisotropic ones; an isotropic kernel has no angle to see
    sigma_y = jnp.where(kind % 2 == 1, _uniform(part[3], *blur.sigma), sigma_x)
    theta = _uniform(part[4], -jnp.pi, jnp.pi)
    low, high = (
        jnp.where(shape == kernels.GENERALISED, a, b)
        for a, b in zip(blur.generalised_beta, blur.plateau_beta, strict=True)
    )
    below, above = _uniform(part[6], low, 1.0), _uniform(part[6], 1.0, high)
    beta = jnp.where(part[5] < 0.5, below, above)
    bell = kernels.blur_kernel(shape, size, sigma_x, sigma_y, theta, beta)
    omega = _uniform(part[7], jnp.where(size < 13, jnp.pi / 3, jnp.pi / 5), jnp.pi)
    return jnp.where(part[8] < blur.sinc_prob, kernels.sinc_kernel(size, omega), bell)


def _order(part: jax.Array, order: Order) -> OrderDraw:
    kernel = random_kernel(part[1:10], order.blur)
    way = _weighted(part[10], order.resize_probs)
    smallest, largest = order.resize
    up, down = _uniform(part[11], 1.0, largest), _uniform(part[11], smallest, 1.0)
    return OrderDraw(
        kernel=jnp.where(part[0] < order.blur_prob, kernel, kernels.identity_kernel()),
        factor=jnp.where(way == 0, up, jnp.where(way == 1, down, 1.0)),
        mode=_choice(part[12], MODE_INDEX),
        noise=NoiseDraw(
            is_gaussian=part[13] < order.gaussian_prob,
            is_gray=part[14] < order.gray_prob,
            gaussian_sigma=_uniform(part[15], *order.gaussian) / 255.0,
            poisson_scale=_uniform(part[16], *order.poisson),
        ),
        quality=_quality(part[17], order),
        place=_choice(part[18], (0, 1, 2)) if order.resize_anywhere else 1,
    )


def _quality(part: jax.Array, order: Order) -> jax.Array:
    low, high = order.jpeg
    if not order.whole_quality:
        return _uniform(part, low, high)
    return jnp.minimum(jnp.floor(_uniform(part, low, high + 1.0)), high)


def _last_sinc(part: jax.Array, recipe: Recipe) -> jax.Array:
    size = _choice(part[0], recipe.sinc_sizes)
    kernel = kernels.sinc_kernel(size, _uniform(part[1], jnp.pi / 3, jnp.pi))
    return jnp.where(part[2] < recipe.sinc_prob, kernel, kernels.identity_kernel())


def _uniform(
    part: jax.Array, low: jax.Array | float, high: jax.Array | float
) -> jax.Array:
    return low + (high - low) * part


def _choice(part: jax.Array, values: tuple[int, ...]) -> jax.Array:
    """One of the values, all equally likely."""
    index = jnp.floor(part * len(values)).astype(jnp.int32)
    return jnp.asarray(values)[jnp.minimum(index, len(values) - 1)]


def _weighted(part: jax.Array, probs: tuple[float, ...]) -> jax.Array:
    """The index of one of the probabilities."""
    bounds = np.cumsum(probs[:-1], dtype=np.float32)
    return jnp.sum(part >= bounds)
