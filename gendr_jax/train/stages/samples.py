"""Inputs of the networks from a batch of photographs, with per-sample random numbers.

Every draw is keyed by the sample's global index, so that values do not depend on
batch position, host count or mesh.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gendr_jax import losses
from gendr_jax.data.degrade import Recipe, degrade
from gendr_jax.diffusion import at_least_fp32
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.nets import Net, Params

Keys = dict[str, jax.Array]


def draws(key: jax.Array, index_b: jax.Array, names: tuple[str, ...]) -> Keys:
    """A key per name and sample: fold_in of the name's position, then of the index.

    vmap of fold_in, not split: the key of a sample is the same in any batch or shard.
    """
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    return {
        name: fold(jax.random.fold_in(key, i), index_b) for i, name in enumerate(names)
    }


def normal_like(keys_b: jax.Array, x_bhwc: jax.Array) -> jax.Array:
    """Standard normal noise of x's shape in float32."""
    # One normal() a sample: of the whole batch it would depend on the batch's size.
    draw = lambda k: jax.random.normal(k, x_bhwc.shape[1:], jnp.float32)  # noqa: E731
    return jax.vmap(draw)(keys_b)


def timesteps(keys_b: jax.Array, low: int, high: int) -> jax.Array:
    """t_b ~ U{low..high}, both included."""
    return jax.vmap(lambda k: jax.random.randint(k, (), low, high + 1))(keys_b)


def noise(
    keys: Keys, name: str, like_bhwc: jax.Array, low: int, high: int
) -> tuple[jax.Array, jax.Array]:
    """(t_b, eps_bhwc) of the draw called ``name``: t in low..high, eps normal."""
    t_b = timesteps(keys[f"t_{name}"], low, high)
    return t_b, normal_like(keys[f"eps_{name}"], like_bhwc)


def prompt(prompt_ld: jax.Array, batch: int) -> jax.Array:
    """The fixed prompt embedding for every sample: [B, L, D]."""
    return jnp.broadcast_to(prompt_ld[None], (batch, *prompt_ld.shape))


def drop_prompt(keys_b: jax.Array, embedding: Params, rate: float) -> jax.Array:
    """Context [B, L, D]: the positive prompt, or the negative one with ``rate``."""
    drop = jax.vmap(lambda k: jax.random.bernoulli(k, rate))(keys_b)
    positive, negative = embedding["positive"][None], embedding["negative"][None]
    return jnp.where(drop[:, None, None], negative, positive)


def tokens(feature_bhwc: jax.Array) -> jax.Array:
    """A feature map as row-major tokens [B, H W, C]."""
    b, h, w, c = feature_bhwc.shape
    return feature_bhwc.reshape(b, h * w, c)


def dino_tokens(dino, x_bhwc: jax.Array, grid_hw: tuple[int, int]) -> jax.Array:
    """DINOv2's patch tokens of an image in [-1, 1], on the grid; no gradient."""
    return jax.lax.stop_gradient(dino(losses.dino_input(x_bhwc, grid_hw)))


def interleave(a_b: jax.Array, b_b: jax.Array) -> jax.Array:
    """Two batches as one, sample by sample: [2B, ...].

    Concatenated, half of each device's rows would have to move to another device.
    """
    return jnp.stack([a_b, b_b], axis=1).reshape(2 * len(a_b), *a_b.shape[1:])


def apart(both_b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The inverse of ``interleave``."""
    pairs = both_b.reshape(len(both_b) // 2, 2, *both_b.shape[1:])
    return pairs[:, 0], pairs[:, 1]


def std(finite_b: jax.Array, x_bhwc: jax.Array) -> jax.Array:
    """The standard deviation over all elements of the samples that are finite."""

    def mean(values: jax.Array) -> jax.Array:
        means_b = losses.mark_nonfinite(finite_b, losses.sample_mean(values))
        return losses.finite_mean(means_b)

    return jnp.sqrt(mean(jnp.square(x_bhwc - mean(x_bhwc))))


def to_unit(x_bhwc: jax.Array) -> jax.Array:
    """[-1, 1] to [0, 1], clipped; for pictures."""
    return jnp.clip(x_bhwc * 0.5 + 0.5, 0.0, 1.0)


def enlarge(lq_bhwc: jax.Array, scale: int) -> jax.Array:
    """Bicubic enlargement (Keys a=-0.5) of images in [0, 1], clipped."""
    b, h, w, c = lq_bhwc.shape
    y = jax.image.resize(lq_bhwc, (b, h * scale, w * scale, c), "cubic")
    return jnp.clip(y, 0.0, 1.0)


def high_quality(batch: dict[str, jax.Array]) -> jax.Array:
    """The batch's photographs in [-1, 1], float32."""
    return batch["hq"].astype(jnp.float32) / 127.5 - 1.0


def encoder(vae: Net, config: VAEConfig) -> Callable[[Params, jax.Array], jax.Array]:
    """(params, x in [-1, 1]) -> latent for the diffusion model: the posterior mode."""

    def encode(params: Params, x_bhwc: jax.Array) -> jax.Array:
        model: VAE = vae.bind(params)
        mean, _ = model.encode(x_bhwc)
        return config.to_model(at_least_fp32(mean))

    return encode


def decoder(vae: Net, config: VAEConfig) -> Callable[[Params, jax.Array], jax.Array]:
    """(params, latent) -> image, about [-1, 1], float32 or better."""

    def decode(params: Params, z_bhwc: jax.Array) -> jax.Array:
        model: VAE = vae.bind(params)
        return at_least_fp32(model.decode(config.from_model(z_bhwc)))

    return decode


def low_quality(keys_b: jax.Array, batch, recipe: Recipe, scale: int) -> jax.Array:
    """The batch's photographs degraded and enlarged to their size, in [-1, 1]."""
    hq = batch["hq"].astype(jnp.float32) / 255.0
    return enlarge(degrade(keys_b, hq, recipe, scale), scale) * 2.0 - 1.0
