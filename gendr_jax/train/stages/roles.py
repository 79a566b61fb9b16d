"""The roles of the distillation: their state, and how each evaluates the shared UNet.

A role is base weights plus adapters: the one-step generator, the guided scores, the
discriminator's logits.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gendr_jax import diffusion, losses
from gendr_jax.nets import Net, Params, merge_lora, overlay
from gendr_jax.train.settings import Adapters
from gendr_jax.train.stages import samples
from gendr_jax.train.stages.optimisers import Role


@dataclasses.dataclass(frozen=True)
class DistillNets:
    """The networks without weights. ``adapted`` is ``unet`` with adapter paths.

    ``gather`` all-gathers weights in the compute dtype (``sharding.gather``); its
    second argument is their path in state or frozen, which the sharding rules match.
    ``split`` splits pictures by rows where the mesh has a ``space`` axis. ``lpips`` is
    None without the perceptual term.
    """

    vae: Net
    unet: Net
    adapted: Net
    projector: Net
    dino: Net
    head: Net
    gather: Callable[[Params, str], Params]
    split: Callable[[jax.Array], jax.Array]
    lpips: Net | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DistillState:
    """Trained roles; all but the generator are None for kinds that do not train them.

    generator.params: {"unet": full or adapters, "projector"}; fake, real: adapters;
    disc.params: {"unet": adapters, "head"}; ema: the generator's unet averaged. With
    decoder="trained" generator.params also has "decoder", the decoder's part of the
    autoencoder's weights, and decoder_ema is its average; else that is None.
    """

    step: jax.Array
    generator: Role
    fake: Role | None
    real: Role | None
    disc: Role | None
    ema: Params
    decoder_ema: Params | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pair:
    """A photograph and its degraded twin: images in [-1, 1] and their latents."""

    x_high_bhwc: jax.Array
    z_high_bhwc: jax.Array
    z_low_bhwc: jax.Array

    def without_broken(self) -> tuple[jax.Array, "Pair"]:
        """(finite_b, pairs): those that are not finite in one array are 0 in all."""
        finite_b, x_high, z_high, z_low = losses.replace_nonfinite(
            self.x_high_bhwc, self.z_high_bhwc, self.z_low_bhwc
        )
        return finite_b, Pair(x_high, z_high, z_low)


@dataclasses.dataclass(frozen=True)
class Roles:
    """Evaluation of roles; ``frozen`` holds "unet" and "prompt".

    ``adapters`` is that of the settings, ``scale`` of B(A(x)). Unless they are side
    paths of every layer, adapters are added to the base before it is gathered; with
    "side-gradient" ``nets.adapted`` has its adapters in its kernels.
    """

    nets: DistillNets
    generator: str
    prediction: diffusion.PredictionType
    adapters: Adapters = "side"
    scale: float = 1.0

    def unet(self, frozen: Any, adapters: Params | None, path: str):
        """The UNet of a role; ``path`` is that of its adapters, None gives the base."""
        base = frozen["unet"]
        if adapters is not None and self.adapters != "side":
            # On the shards and in the base's dtype: one set of weights is gathered.
            if self.adapters == "merged":
                base, adapters = merge_lora(base, adapters, self.scale), None
            else:
                constant = jax.lax.stop_gradient(adapters)
                base = merge_lora(base, constant, self.scale)
        base = self.nets.gather(base, "frozen/unet")
        if adapters is None:
            return self.nets.unet.bind(base)
        return self.nets.adapted.bind(overlay(base, self.nets.gather(adapters, path)))

    def generate(
        self, frozen: Any, params: Params, z_low_bhwc: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """z_g in one step from z_l (eq. 8), and the map after the first down block."""
        if self.generator == "full":
            unet = self.nets.unet.bind(
                self.nets.gather(params["unet"], "generator/params/unet")
            )
        else:
            unet = self.unet(frozen, params["unet"], "generator/params/unet")
        batch = len(z_low_bhwc)
        context = samples.prompt(frozen["prompt"]["positive"], batch)
        out, features = unet(z_low_bhwc, jnp.full((batch,), diffusion.T_STAR), context)
        z_g = diffusion.one_step(z_low_bhwc, out, self.prediction)
        return z_g, features["down0"]

    def x0(
        self,
        frozen: Any,
        adapters: Params | None,
        z_t_bhwc: jax.Array,
        t_b: jax.Array,
        kappa: float,
        path: str,
    ) -> jax.Array:
        """f(z_t): the role's x0 prediction, guided by ``kappa`` (eq. 7); 1 is plain."""
        unet = self.unet(frozen, adapters, path)
        batch = len(z_t_bhwc)
        positive = samples.prompt(frozen["prompt"]["positive"], batch)
        if kappa == 1.0:
            out, _ = unet(z_t_bhwc, t_b, positive)
        else:
            negative = samples.prompt(frozen["prompt"]["negative"], batch)
            # Guidance in one pass over [negative, positive] of every sample.
            twice = lambda x: samples.interleave(x, x)  # noqa: E731
            context = samples.interleave(negative, positive)
            guided_pair, _ = unet(twice(z_t_bhwc), twice(t_b), context)
            out = diffusion.cfg(*samples.apart(guided_pair), kappa)
        return diffusion.to_x0(out, z_t_bhwc, t_b, self.prediction)

    def logits(
        self, frozen: Any, disc: Params, z_t_bhwc: jax.Array, t_b: jax.Array
    ) -> jax.Array:
        """Discriminator: the base's encoder with adapters, then the head (5.1)."""
        context = samples.prompt(frozen["prompt"]["positive"], len(z_t_bhwc))
        unet = self.unet(frozen, disc["unet"], "disc/params/unet")
        features = unet.encode(z_t_bhwc, t_b, context)
        head = self.nets.head.bind(self.nets.gather(disc["head"], "disc/params/head"))
        return diffusion.at_least_fp32(head(features["mid"]))

    def vae_params(self, frozen: Any, decoder: Params | None) -> Params:
        """The autoencoder's weights, with the decoder that is trained, if any."""
        vae = self.nets.gather(frozen["vae"], "frozen/vae")
        if decoder is None:
            return vae
        return overlay(vae, self.nets.gather(decoder, "generator/params/decoder"))

    def project(self, params: Params, down0_bhwc: jax.Array) -> jax.Array:
        """The alignment tokens of the generator's own pass."""
        projector = self.nets.projector.bind(
            self.nets.gather(params["projector"], "generator/params/projector")
        )
        return diffusion.at_least_fp32(projector(samples.tokens(down0_bhwc)))

    def dino(self, frozen: Any):
        """The frozen DINOv2."""
        return self.nets.dino.bind(self.nets.gather(frozen["dino"], "frozen/dino"))

    def token_grid(self, z_bhwc: jax.Array) -> tuple[int, int]:
        """Height and width of the map after the first down block."""
        return -(-z_bhwc.shape[1] // 2), -(-z_bhwc.shape[2] // 2)
