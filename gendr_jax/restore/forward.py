"""The pure pass: a batch of enlarged pictures in, restored pictures out.

What lives here: the mathematics of GenDR's inference on arrays (method.md 1), to be
jitted, sharded or lifted out. What does not: sizes and kinds of pictures, placement.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gendr_jax import diffusion, nets
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.restore import color, resize


def size_multiple(vae: VAEConfig, unet: UNetConfig) -> int:
    """Pixels that padded sides are multiples of: all maps of both networks are even."""
    halvings = len(unet.block_out_channels) - 1
    return max(resize.BUCKET, vae.factor * 2**halvings)


def make_pass(
    vae_config: VAEConfig,
    unet_config: UNetConfig,
    *,
    prediction: str,
    t_star: int,
    dtype: str,
    color_fix: str,
) -> Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """(params, up_bhwc, hw_b2) -> (sr_bhwc, finite_b).

    Encoder (posterior mode, scaled), one UNet call at `t_star` on the noise-free
    latent, the clean latent at alpha_bar = 1/2 exactly, decoder, colour fix.

    params: {"vae", "unet", "prompt": {"positive": [L, D]}}. up_bhwc: bicubic
    enlargements in [0, 1], padded. hw_b2: their heights and widths before padding,
    which alone count for the colour fix. sr_bhwc: [0, 1], float32. finite_b: False
    where the networks' output, padding included, has an infinity or NaN.
    """
    vae_net = nets.build(VAE, vae_config, dtype=dtype)
    unet_net = nets.build(UNet, unet_config, dtype=dtype)

    def restore(params, up_bhwc, hw_b2):
        vae, unet = vae_net.bind(params["vae"]), unet_net.bind(params["unet"])
        batch, height, width, _ = up_bhwc.shape
        mean_bhwc, _ = vae.encode(up_bhwc * 2 - 1)
        z_l = vae_config.to_model(mean_bhwc.astype(jnp.float32))
        prompt_ld = params["prompt"]["positive"]
        context = jnp.broadcast_to(prompt_ld[None], (batch, *prompt_ld.shape))
        out, _ = unet(z_l, jnp.full((batch,), t_star, jnp.int32), context)
        z_g = diffusion.one_step(z_l, out, prediction)
        y = vae.decode(vae_config.from_model(z_g)).astype(jnp.float32)
        finite_b = jnp.all(jnp.isfinite(y), axis=(1, 2, 3))
        sr = jnp.clip(y / 2 + 0.5, 0, 1)
        if color_fix == "adain":
            rows = jnp.arange(height)[None, :, None] < hw_b2[:, 0, None, None]
            columns = jnp.arange(width)[None, None, :] < hw_b2[:, 1, None, None]
            sr = jnp.clip(color.adain(sr, up_bhwc, rows & columns), 0, 1)
        return sr, finite_b

    def exact(params, up_bhwc, hw_b2):
        # float32 means float32 also where the hardware would round products.
        precision = "highest" if dtype == "float32" else "default"
        with jax.default_matmul_precision(precision):
            return restore(params, up_bhwc, hw_b2)

    return exact
