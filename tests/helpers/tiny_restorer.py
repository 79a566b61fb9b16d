"""The smallest restorer, for tests of what surrounds the networks; random weights."""

import dataclasses

import jax
import numpy as np

from gendr_jax import nets
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.restore.forward import Recipe
from gendr_jax.weights.folder import Weights

# Without attention in the VAE, whose maps are large when its levels are few.
VAE_CONFIG = VAEConfig(
    latent_channels=4,
    block_out_channels=(4, 8, 8),
    layers_per_block=1,
    norm_groups=2,
    mid_attention=False,
)
UNET_CONFIG = UNetConfig(
    in_channels=4,
    out_channels=4,
    block_out_channels=(8, 8),
    layers_per_block=1,
    heads=(2, 2),
    attention=(False, True),
    cross_attention_dim=6,
    norm_groups=2,
)
RECIPE = Recipe(VAE_CONFIG, UNET_CONFIG, "v", 123, "float32")


def _draw(model, config, seed):
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if leaf.ndim == 1:  # biases small, gains about one
            return (0.1 * rng.standard_normal(leaf.shape)).astype(np.float32)
        fan = leaf.size // leaf.shape[-1]
        kernel = rng.standard_normal(leaf.shape) / fan**0.5
        if leaf.shape[:2] == (3, 3):
            # Trained filters lean on their middle; else the zeros beyond the edges of
            # a picture would be most of what these networks see.
            middle = 2 * kernel[1, 1]
            kernel *= 0.25
            kernel[1, 1] = middle
        return kernel.astype(np.float32)

    flat = nets.flatten(jax.tree.map(draw, nets.build(model, config).abstract))
    for path, value in flat.items():
        if path[-1] == "scale":
            flat[path] = value + 1
        elif path[-1] == "kernel" and {"conv2", "proj_out", "to_out"} & set(path):
            # As training leaves them, residual branches add less than they pass by.
            flat[path] = value / 4
    return nets.unflatten(flat)


def weights(vae: VAEConfig = VAE_CONFIG) -> Weights:
    rng = np.random.default_rng(0)
    return Weights(
        kind="restorer",
        configs={"unet": UNET_CONFIG, "vae": vae},
        params={"unet": _draw(UNet, UNET_CONFIG, 1), "vae": _draw(VAE, vae, 2)},
        prompt={"positive": rng.standard_normal((5, 6)).astype(np.float32)},
        prediction="v",
        t_star=123,
    )


def pixel_weights(kind: str, factor: int = 4) -> Weights:
    """The same of kind "adc" or "pix": pixels at one end of the UNet, or at both."""
    rng, channels = np.random.default_rng(3), 3 * factor**2
    out = channels if kind == "pix" else VAE_CONFIG.latent_channels
    config = dataclasses.replace(UNET_CONFIG, in_channels=channels, out_channels=out)
    configs, params = {"unet": config}, {"unet": _draw(UNet, config, 4)}
    if kind == "adc":
        configs["vae"], params["vae"] = VAE_CONFIG, _draw(VAE, VAE_CONFIG, 2)
    prompts = rng.standard_normal((2, 5, 6)).astype(np.float32)
    return Weights(
        kind=kind,
        configs=configs,
        params=params,
        prompt={"positive": prompts[0], "negative": prompts[1]},
        t_star=123,
    )


def pictures(side: int) -> dict[str, np.ndarray]:
    """Low-quality inputs of [side, side, 3] in [0, 1]: what shows seams best."""
    rng = np.random.default_rng(1)
    ramp = np.linspace(0, 1, side, dtype=np.float32)
    noise = rng.random((side, side, 3), np.float32)
    half = np.where(np.arange(side)[None, :, None] < side // 2, np.float32(0.6), noise)
    # Like a photograph: power falls with the square of frequency, a horizon.
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    spectrum = np.fft.rfft2(rng.standard_normal((3, side, side)), axes=(1, 2))
    fractal = np.fft.irfft2(spectrum / np.maximum(radius, 1 / side), (side, side))
    fractal = np.moveaxis(fractal, 0, -1)
    photo = 0.35 + 0.1 * fractal / fractal.std()
    photo[: side // 3] = 0.75 + 0.1 * ramp[: side // 3, None, None]
    return {
        "flat": np.full((side, side, 3), [0.3, 0.5, 0.7], np.float32),
        "gradient": np.stack(np.broadcast_arrays(ramp[:, None], ramp, 0.5), -1).astype(
            np.float32
        ),
        "noise": noise,
        "half noise": half.astype(np.float32),
        "photo": np.clip(photo, 0, 1).astype(np.float32),
    }
