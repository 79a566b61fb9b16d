"""Stage 2: one iteration of VSD, SiD, CiD or CiDA (docs/algorithm.md, eq. 25-28).

Roles (generator, fake score, real score, discriminator) are data over one graph: a
frozen base UNet and one adapter tree each; the generator may also be a full copy.
How a role is evaluated is in ``roles.py``, the generator's loss and its gradient in
``generator_loss.py``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gendr_jax import diffusion, losses
from gendr_jax import nets as nets_lib
from gendr_jax.data.degrade import recipe
from gendr_jax.losses import finite_mean
from gendr_jax.nets import Params
from gendr_jax.train import accumulate, images, optim
from gendr_jax.train.generator_loss import GeneratorLoss
from gendr_jax.train.images import Keys
from gendr_jax.train.optim import Scalars
from gendr_jax.train.roles import DistillNets, DistillState, Pair, Roles
from gendr_jax.train.settings import DistillSettings

Array = jax.Array
Loss = Callable[..., tuple[Array, Scalars]]  # (params, batched...) -> loss, metrics
ROLES = ("fake", "real", "discriminator", "score", "adversarial")
DRAWS = (
    "degrade",
    "prompt",
    *(f"t_{role}" for role in ROLES),
    *(f"eps_{role}" for role in ROLES),
)


class Distill:
    """Pure functions over settings and networks; holds no weights and no state."""

    def __init__(self, settings: DistillSettings, nets: DistillNets):
        self.settings, self.nets = settings, nets
        self.roles = Roles(nets, settings.generator, settings.prediction)
        self.generator_loss = GeneratorLoss(settings, nets, self.roles)
        self.recipe = recipe(settings.data.preset)
        self.encode = images.encoder(nets.vae, settings.vae)
        self.decode = images.decoder(nets.vae, settings.vae)
        self.tx = {
            name: optim.adamw(getattr(settings.optim, name))
            for name in ("generator", "fake", "real", "discriminator")
        }

    def step(
        self, state: DistillState, frozen: Any, batch: Any, key: Array
    ) -> tuple[DistillState, Scalars]:
        """Algorithm 1: scores and discriminator on z_g, then the generator."""
        key = jax.random.fold_in(key, state.step)
        keys = images.draws(key, batch["index"], DRAWS)
        parts, tx = self.settings.accumulate, self.tx
        # Line 1-2: a pair of latents, and the generator's answer without gradient.
        pair, z_g = accumulate.rows(
            parts, lambda *b: self.answer(state, frozen, *b), batch, keys
        )
        # Line 3: fake score psi learns z_g. Line 4: real score phi learns z_h.
        fake, m_fake = optim.update(
            state.fake, tx["fake"], self.fake_loss(frozen), z_g, keys, parts=parts
        )
        z_h = pair.z_high_bhwc
        real, disc, m_real, m_disc = state.real, state.disc, {}, {}
        if real is not None:
            real, m_real = optim.update(
                real, tx["real"], self.real_loss(frozen), z_h, keys, parts=parts
            )
        # Line 5: discriminator D tells z_h from z_g.
        if disc is not None:
            loss, rule = self.disc_loss(frozen), tx["discriminator"]
            disc, m_disc = optim.update(disc, rule, loss, z_h, z_g, keys, parts=parts)
        # Line 6-7: generator theta, against the scores just updated.
        trained = dataclasses.replace(state, fake=fake, real=real, disc=disc)
        grads, loss, m_gen = accumulate.mean(
            parts,
            lambda *b: self.generator_loss.gradient(trained, frozen, *b),
            pair,
            keys,
        )
        role, guard = optim.apply(
            state.generator,
            self.tx["generator"],
            grads,
            loss,
            enabled=state.step >= self.settings.warmup_steps,
        )
        metrics = optim.named("fake", m_fake) | optim.named("real", m_real)
        metrics |= optim.named("disc", m_disc) | m_gen
        metrics |= optim.named("generator", guard)
        ema = optim.ema(state.ema, role.params["unet"], self.settings.ema, state.step)
        new_state = dataclasses.replace(
            trained, step=state.step + 1, generator=role, ema=ema
        )
        return new_state, metrics

    def answer(
        self, state: DistillState, frozen: Any, batch: Any, keys: Keys
    ) -> tuple[Pair, Array]:
        """Lines 1-2: the pair, and z_g without gradient."""
        pair = self.pair(frozen, batch, keys)
        z_g, _ = self.roles.generate(frozen, state.generator.params, pair.z_low_bhwc)
        return pair, jax.lax.stop_gradient(z_g)

    def pair(self, frozen: Any, batch: Any, keys: Keys) -> Pair:
        """Line 1: x_l = degrade(x_h), enlarged; z = s E(x), posterior mode."""
        x_high = images.high_quality(batch)
        scale = self.settings.data.scale
        x_low = images.low_quality(keys["degrade"], batch, self.recipe, scale)
        vae = self.nets.gather(frozen["vae"], "frozen/vae")
        x_high, x_low = self.nets.split(x_high), self.nets.split(x_low)
        z_high, z_low = images.apart(self.encode(vae, images.interleave(x_high, x_low)))
        return Pair(x_high, z_high, z_low)

    def fake_loss(self, frozen: Any) -> Loss:
        """Eq. 25: denoising of generated latents, positive prompt."""

        def loss(adapters: Params, z_g: Array, keys: Keys):
            context = images.prompt(frozen["prompt"]["positive"], len(z_g))
            return self._denoising(adapters, frozen, z_g, context, keys, "fake")

        return loss

    def real_loss(self, frozen: Any) -> Loss:
        """Eq. 26: denoising of true latents, the prompt dropped now and then."""

        def loss(adapters: Params, z_high: Array, keys: Keys):
            rate = self.settings.prompt_dropout
            context = images.drop_prompt(keys["prompt"], frozen["prompt"], rate)
            return self._denoising(adapters, frozen, z_high, context, keys, "real")

        return loss

    def disc_loss(self, frozen: Any) -> Loss:
        """Eq. 27: true against generated latents under one noise per sample."""

        def loss(params: Params, z_high: Array, z_g: Array, keys: Keys):
            s = self.settings.score
            t, eps = images.noise(keys, "discriminator", z_high, s.t_min, s.t_max)
            z_t = images.interleave(
                diffusion.add_noise(z_high, eps, t), diffusion.add_noise(z_g, eps, t)
            )
            logits = self.roles.logits(frozen, params, z_t, images.interleave(t, t))
            real, fake = images.apart(logits)
            value = finite_mean(losses.discriminator_loss(real, fake))
            margin = jnp.mean(real) - jnp.mean(fake)
            return value, {"loss": value, "logit_margin": margin}

        return loss

    def sample(
        self, state: DistillState, frozen: Any, batch: Any, key: Array
    ) -> dict[str, Array]:
        """Degraded, restored by the averaged generator, autoencoder's bound, truth."""
        keys = images.draws(key, batch["index"], DRAWS)
        scale = self.settings.data.scale
        x_low = images.low_quality(keys["degrade"], batch, self.recipe, scale)
        x_high = images.high_quality(batch)
        vae = self.nets.gather(frozen["vae"], "frozen/vae")
        params = state.generator.params | {"unet": state.ema}
        z_g, _ = self.roles.generate(frozen, params, self.encode(vae, x_low))
        recoded = self.decode(vae, self.encode(vae, x_high))
        return {
            "low quality, bicubic": images.to_unit(x_low),
            "GenDR": images.to_unit(self.decode(vae, z_g)),
            "autoencoder": images.to_unit(recoded),
            "photograph": images.to_unit(x_high),
        }

    def _denoising(self, adapters, frozen, z, context, keys, name):
        last = diffusion.NUM_TIMESTEPS - 1
        t, eps = images.noise(keys, name, z, 0, last)
        z_t = diffusion.add_noise(z, eps, t)
        out, _ = self.roles.unet(frozen, adapters, f"{name}/params")(z_t, t, context)
        prediction = self.settings.prediction
        target = diffusion.prediction_target(z, eps, t, prediction)
        loss = finite_mean(losses.denoising(out, target))
        return loss, {"loss": loss}


def make_init(
    settings: DistillSettings, nets: DistillNets
) -> Callable[[Array, Params], DistillState]:
    """(key, start) -> fresh state: every role starts as start["unet"]."""

    def init(key: Array, start: Params) -> DistillState:
        tx = Distill(settings, nets).tx
        keys = jax.random.split(key, 6)

        full = settings.generator == "full"
        unet = start["unet"] if full else nets.adapted.init_adapters(keys[0])
        generator = {
            "unet": nets_lib.cast(unet, jnp.float32),
            "projector": start.get("projector") or nets.projector.init(keys[1]),
        }
        disc = {
            "unet": nets.adapted.init_adapters(keys[4]),
            "head": nets.head.init(keys[5]),
        }
        return DistillState(
            step=jnp.zeros((), jnp.int32),
            generator=optim.new_role(generator, tx["generator"]),
            fake=optim.new_role(nets.adapted.init_adapters(keys[2]), tx["fake"]),
            real=optim.new_role(nets.adapted.init_adapters(keys[3]), tx["real"])
            if settings.trains_real
            else None,
            disc=optim.new_role(disc, tx["discriminator"])
            if settings.adversarial
            else None,
            ema=jax.tree.map(jnp.array, generator["unet"]),
        )

    return init


def restorer_weights(settings: DistillSettings, state: DistillState, base: Params):
    """The averaged generator as plain UNet weights, adapters merged."""
    if settings.generator == "full":
        return state.ema
    return nets_lib.merge_lora(base, state.ema, settings.lora.scale)
