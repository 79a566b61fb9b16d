"""The pure pass: a batch of enlarged pictures in, restored pictures out."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gendr_jax import diffusion, nets
from gendr_jax.image_io import resize
from gendr_jax.models import shared_norms
from gendr_jax.models.shared_norms import Moments
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.weights.gendr_json import Prediction


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a pass does, apart from weights.

    Attributes:
        vae, unet: the networks.
        prediction: what the UNet's output means, "eps" or "v".
        t_star: the step it is called at.
        dtype: of computation, "float32" or "bfloat16".
    """

    vae: VAEConfig
    unet: UNetConfig
    prediction: Prediction
    t_star: int
    dtype: str

    @property
    def size_multiple(self) -> int:
        """Pixels that padded sides are multiples of: all maps are even."""
        halvings = len(self.unet.block_out_channels) - 1
        return max(resize.BUCKET, self.vae.factor * 2**halvings)


def make_pass(recipe: Recipe) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(params, up_bhwc, moments=None) -> (sr_bhwc, spread_b2).

    Encoder (posterior mode, scaled), one UNet call at `t_star` on the noise-free
    latent, the clean latent at alpha_bar = 1/2 exactly, decoder.

    params: {"vae", "unet", "prompt": {"positive": [L, D]}}. up_bhwc: bicubic
    enlargements in [0, 1], padded. moments: of the whole picture, from
    `make_statistics`, where the pass sees a part of it. sr_bhwc: [0, 1], float32, no
    colour fix. spread_b2: standard deviations of the input and of the networks'
    output, mean of the channels, padding included; not finite where any of the output
    is not.
    """

    def restore(params, up_bhwc, moments=None):
        vae, unet = _bind(recipe, params)
        if moments is not None:
            shared_norms.give(vae, moments["vae"])
            shared_norms.give(unet, moments["unet"])
        z_g = _denoise(recipe, unet, params, _encode(recipe, vae, up_bhwc))
        y = _decode(recipe, vae, z_g)
        spread = [jnp.std(x, axis=(1, 2)).mean(-1) for x in (up_bhwc, y)]
        return jnp.clip(y, 0, 1), jnp.stack(spread, axis=-1)

    return _exact(recipe, restore)


def make_statistics(recipe: Recipe) -> Callable[[Any, jax.Array], dict[str, Moments]]:
    """(params, up_bhwc) -> moments: of every norm, over samples of one picture.

    The samples go through the networks together and are normalised together, as if
    they were one picture.
    """

    def statistics(params, up_bhwc):
        vae, unet = _bind(recipe, params)
        shared_norms.pool(vae)
        shared_norms.pool(unet)
        z_g = _denoise(recipe, unet, params, _encode(recipe, vae, up_bhwc))
        _decode(recipe, vae, z_g)
        return {"vae": shared_norms.moments(vae), "unet": shared_norms.moments(unet)}

    return _exact(recipe, statistics)


def make_stages(recipe: Recipe) -> dict[str, Callable[[Any, jax.Array], jax.Array]]:
    """The pass in parts, to be timed: each (params, what the one before gave)."""

    def encoder(params, up_bhwc):
        return _encode(recipe, _bind(recipe, params)[0], up_bhwc)

    def unet(params, z_bhwc):
        return _denoise(recipe, _bind(recipe, params)[1], params, z_bhwc)

    def decoder(params, z_bhwc):
        return _decode(recipe, _bind(recipe, params)[0], z_bhwc)

    stages = {"encoder": encoder, "unet": unet, "decoder": decoder}
    return {name: _exact(recipe, stage) for name, stage in stages.items()}


def networks(recipe: Recipe) -> tuple[nets.Net, nets.Net]:
    """(vae, unet), declared."""
    build = functools.partial(nets.build, dtype=recipe.dtype)
    return build(VAE, recipe.vae), build(UNet, recipe.unet)


def _bind(recipe, params):
    vae, unet = networks(recipe)
    return vae.bind(params["vae"]), unet.bind(params["unet"])


def _encode(recipe, vae, up_bhwc):
    mean_bhwc, _ = vae.encode(up_bhwc * 2 - 1)
    return recipe.vae.to_model(mean_bhwc.astype(jnp.float32))


def _denoise(recipe, unet, params, z_bhwc):
    batch, prompt_ld = z_bhwc.shape[0], params["prompt"]["positive"]
    context = jnp.broadcast_to(prompt_ld[None], (batch, *prompt_ld.shape))
    out, _ = unet(z_bhwc, jnp.full((batch,), recipe.t_star, jnp.int32), context)
    return diffusion.one_step(z_bhwc, out, recipe.prediction)


def _decode(recipe, vae, z_bhwc):
    y_bhwc = vae.decode(recipe.vae.from_model(z_bhwc)).astype(jnp.float32)
    return y_bhwc / 2 + 0.5


def _exact(recipe, function):
    """float32 means float32 also where the hardware would round products."""
    precision = "highest" if recipe.dtype == "float32" else "default"

    def exact(*args):
        with jax.default_matmul_precision(precision):
            return function(*args)

    exact.__name__ = function.__name__  # what profiles and caches call it
    return exact
