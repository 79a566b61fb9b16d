"""The forward pass as a pure function: enlarged pictures to restored pictures."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp

from gendr_jax import diffusion, nets
from gendr_jax.image_io import resize
from gendr_jax.models import shared_norms
from gendr_jax.models.pixel_shuffle import pixel_pass
from gendr_jax.models.shared_norms import Moments
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.weights.gendr_json import Prediction, Weights

Kind = Literal["restorer", "adc", "pix"]
RESTORERS = get_args(Kind)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Configuration of a pass: networks, prediction type, timestep, dtype.

    Attributes:
        vae, unet: the networks; "pix" has no VAE.
        prediction: type of the UNet's output, "eps" or "v"; for "restorer" only.
        t_star: the timestep that the UNet is called with.
        dtype: of computation, "float32" or "bfloat16".
        kind: "restorer" is GenDR, "adc" has no encoder, "pix" no autoencoder.
        pad_cfg: w of PadCFG, eq. 36, for "pix" only; 1 is one pass without guidance.
    """

    vae: VAEConfig | None
    unet: UNetConfig
    prediction: Prediction
    t_star: int
    dtype: str
    kind: Kind = "restorer"
    pad_cfg: float = 1.0

    @property
    def autoencoder(self) -> VAEConfig:
        """The VAE config; raises for kind "pix"."""
        if self.vae is None:
            raise ValueError(f"a recipe of kind {self.kind} has no VAE.")
        return self.vae

    @property
    def factor(self) -> int:
        """Pixels a side of each position of the UNet's input."""
        if self.kind == "restorer":
            return self.autoencoder.factor
        return math.isqrt(self.unet.in_channels // 3)

    @property
    def size_multiple(self) -> int:
        """Padded sides are multiples of this, so that all feature maps are even."""
        halvings = len(self.unet.block_out_channels) - 1
        return max(resize.BUCKET, self.factor * 2**halvings)

    @property
    def stages(self) -> tuple[str, ...]:
        """The networks that a pass runs, in order."""
        stages = {
            "restorer": ("encoder", "unet", "decoder"),
            "adc": ("unet", "decoder"),
        }
        return stages.get(self.kind, ("unet",))


def recipe_of(weights: Weights, dtype: str, pad_cfg: float = 1.0) -> Recipe:
    """The recipe of these weights, whose kind is one of `RESTORERS`."""
    return Recipe(
        vae=weights.configs.get("vae"),
        unet=weights.configs["unet"],
        prediction=weights.prediction,
        t_star=weights.t_star,
        dtype=dtype,
        kind=cast(Kind, weights.kind),
        pad_cfg=pad_cfg,
    )


def make_pass(recipe: Recipe) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(params, up_bhwc, moments=None) -> (sr_bhwc, spread_b2).

    Encoder (posterior mode, scaled), one UNet call at `t_star` on the noise-free
    latent, the clean latent at alpha_bar = 1/2 exactly, decoder; "adc" has no encoder,
    "pix" no VAE.

    params: {"vae", "unet", "prompt": {"positive": [L, D]}}, with PadCFG "negative" too.
    up_bhwc: bicubic enlargements in [0, 1], padded. moments: norm statistics of the
    full picture, from `make_statistics`, if the pass is over a tile. sr_bhwc: [0, 1],
    float32, without colour fix. spread_b2: standard deviations of the input and of the
    networks' output, mean over channels, padding included; not finite if any output is
    not finite.
    """

    def restore(params, up_bhwc, moments=None):
        modules = _bind(recipe, params)
        for name, module in modules.items():
            if moments is not None:
                shared_norms.set_moments(module, moments[name])
        y = _restored(recipe, modules, params, up_bhwc)
        spread = [jnp.std(x, axis=(1, 2)).mean(-1) for x in (up_bhwc, y)]
        return jnp.clip(y, 0, 1), jnp.stack(spread, axis=-1)

    return _exact(recipe, restore)


def make_statistics(recipe: Recipe) -> Callable[[Any, jax.Array], dict[str, Moments]]:
    """(params, up_bhwc) -> moments: of every norm, over samples of one picture.

    The samples are one batch whose norms pool over all of it, as if it were one
    picture. Both passes of PadCFG use the moments of a pass without its padding.
    """
    plain = dataclasses.replace(recipe, pad_cfg=1.0)

    def statistics(params, up_bhwc):
        modules = _bind(plain, params)
        for module in modules.values():
            shared_norms.pool(module)
        _restored(plain, modules, params, up_bhwc)
        return {name: shared_norms.moments(m) for name, m in modules.items()}

    return _exact(recipe, statistics)


def make_stages(recipe: Recipe) -> dict[str, Callable[[Any, jax.Array], jax.Array]]:
    """The stages of the pass, for timing: each (params, output of the one before)."""

    def encoder(params, up_bhwc):
        return _encode(recipe, _bind(recipe, params)["vae"], up_bhwc)

    def unet(params, x_bhwc):
        module = _bind(recipe, params)["unet"]
        if recipe.kind == "restorer":
            return _denoise(recipe, module, params, x_bhwc)
        return _from_pixels(recipe, module, params, x_bhwc)

    def decoder(params, z_bhwc):
        return _decode(recipe, _bind(recipe, params)["vae"], z_bhwc)

    stages = {"encoder": encoder, "unet": unet, "decoder": decoder}
    return {name: _exact(recipe, stages[name]) for name in recipe.stages}


def networks(recipe: Recipe) -> dict[str, nets.Net]:
    """The networks by name, without weights."""
    build = functools.partial(nets.build, dtype=recipe.dtype)
    networks_by_name = {"unet": build(UNet, recipe.unet)}
    return (
        networks_by_name
        if recipe.vae is None
        else {"vae": build(VAE, recipe.vae)} | networks_by_name
    )


def _bind(recipe, params):
    return {name: net.bind(params[name]) for name, net in networks(recipe).items()}


def _restored(recipe, modules, params, up_bhwc):
    if recipe.kind == "restorer":
        z_l = _encode(recipe, modules["vae"], up_bhwc)
        output = _denoise(recipe, modules["unet"], params, z_l)
    else:
        output = _from_pixels(recipe, modules["unet"], params, up_bhwc)
    return output if recipe.kind == "pix" else _decode(recipe, modules["vae"], output)


def _from_pixels(recipe, unet, params, up_bhwc):
    """Adc's latent, or Pix's picture in [0, 1] and beyond."""
    to_pixels = recipe.kind == "pix"

    def predict(x_bhwc, prompt_ld):
        batch = len(x_bhwc)
        t_b = jnp.full((batch,), recipe.t_star, jnp.int32)
        context = jnp.broadcast_to(prompt_ld[None], (batch, *prompt_ld.shape))
        options = {"factor": recipe.factor, "to_pixels": to_pixels}
        return pixel_pass(unet, x_bhwc, t_b, context, **options)

    x, prompt = up_bhwc * 2 - 1, params["prompt"]
    if not to_pixels or recipe.pad_cfg == 1:
        y = predict(x, prompt["positive"])
        return y / 2 + 0.5 if to_pixels else y
    # Eq. 36: y = w G(pad(x, f/2, f/2), c+) + (1 - w) G(pad(x, f/2 - 1, f/2 + 1), c-),
    # each cropped by its own padding, so that block artefacts of the two do not align.
    half, w = recipe.factor // 2, recipe.pad_cfg
    guided = []
    for before, name in ((half, "positive"), (half - 1, "negative")):
        sides = (before, recipe.factor - before)
        y = predict(jnp.pad(x, ((0, 0), sides, sides, (0, 0)), "reflect"), prompt[name])
        guided.append(y[:, before : before + x.shape[1], before : before + x.shape[2]])
    return (w * guided[0] + (1 - w) * guided[1]) / 2 + 0.5


def _encode(recipe, vae, up_bhwc):
    mean_bhwc, _ = vae.encode(up_bhwc * 2 - 1)
    return recipe.autoencoder.to_model(mean_bhwc.astype(jnp.float32))


def _denoise(recipe, unet, params, z_bhwc):
    batch, prompt_ld = z_bhwc.shape[0], params["prompt"]["positive"]
    context = jnp.broadcast_to(prompt_ld[None], (batch, *prompt_ld.shape))
    out, _ = unet(z_bhwc, jnp.full((batch,), recipe.t_star, jnp.int32), context)
    return diffusion.one_step(z_bhwc, out, recipe.prediction)


def _decode(recipe, vae, z_bhwc):
    y_bhwc = vae.decode(recipe.autoencoder.from_model(z_bhwc)).astype(jnp.float32)
    return y_bhwc / 2 + 0.5


def _exact(recipe, function):
    """Full float32 products, which TPUs and GPUs otherwise round, for dtype float32."""
    precision = "highest" if recipe.dtype == "float32" else "default"

    def exact(*args):
        with jax.default_matmul_precision(precision):
            return function(*args)

    exact.__name__ = function.__name__  # the name in profiles and caches
    return exact
