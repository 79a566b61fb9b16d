"""Stage 2: one iteration of VSD, SiD, CiD or CiDA (docs/algorithm.md, eq. 25-28).

With kind="paired" the iteration is the regression that comes before them.

Roles (generator, fake score, real score, discriminator) are data over one graph: a
frozen base UNet and one adapter tree each; the generator may also be a full copy.
The generator's loss and its gradient are in ``generator_loss.py``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gendr_jax import diffusion, losses
from gendr_jax import nets as nets_lib
from gendr_jax.data.degrade import recipe
from gendr_jax.losses import finite_mean
from gendr_jax.nets import Params
from gendr_jax.train import stage
from gendr_jax.train.settings import Adam, DistillSettings
from gendr_jax.train.stages import accumulate, optimisers, samples
from gendr_jax.train.stages.generator_loss import GeneratorLoss
from gendr_jax.train.stages.optimisers import Role, Scalars
from gendr_jax.train.stages.roles import DistillNets, DistillState, Pair, Roles
from gendr_jax.train.stages.samples import Keys

Array = jax.Array
Loss = Callable[..., tuple[Array, Scalars]]  # (params, batched...) -> loss, metrics
ROLES = ("fake", "real", "discriminator", "score", "adversarial")
DRAWS = (
    "degrade",
    "prompt",
    *(f"t_{role}" for role in ROLES),
    *(f"eps_{role}" for role in ROLES),
)


def role_optimisers(
    settings: DistillSettings,
) -> dict[str, optax.GradientTransformation]:
    """{role: optimiser}, by the roles' names in the state."""
    return {
        name: optimisers.adamw(adam, steps=steps)
        for name, (adam, steps) in _optimised(settings).items()
    }


def rates(settings: DistillSettings, state: DistillState) -> Scalars:
    """{"lr_ROLE": learning rate of this step} of the roles that train."""
    step = {"generator": state.step - settings.generator_start}
    return {
        f"lr_{name}": optimisers.rate(adam, steps=steps)(step.get(name, state.step))
        for name, (adam, steps) in _optimised(settings).items()
        if getattr(state, name) is not None
    }


def _optimised(settings: DistillSettings) -> dict[str, tuple[Adam, int]]:
    """{role: (its settings, number of its updates)}; the generator begins late."""
    adam, steps = settings.optim, settings.steps
    return {
        "generator": (adam.generator, steps - settings.generator_start),
        "fake": (adam.fake, steps),
        "real": (adam.real, steps),
        "disc": (adam.discriminator, steps),
    }


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Carry:
    """Results of earlier phases of an iteration; rows of the batch, but ``loss``."""

    keys: Keys
    pair: Pair
    z_g_bhwc: Array
    grad_z_bhwc: Array | None = None
    loss: Array | None = None


class Distill:
    """Pure functions over settings and networks; holds no weights and no state."""

    def __init__(self, settings: DistillSettings, nets: DistillNets):
        self.settings, self.nets = settings, nets
        self.roles = Roles(
            nets,
            settings.generator,
            settings.prediction,
            settings.adapters,
            settings.lora.scale,
        )
        self.generator_loss = GeneratorLoss(settings, nets, self.roles)
        self.recipe = recipe(settings.data.preset)
        self.encode = samples.encoder(nets.vae, settings.vae)
        self.decode = samples.decoder(nets.vae, settings.vae)
        self.tx = role_optimisers(settings)

    def step(
        self, state: DistillState, frozen: Any, batch: Any, key: Array
    ) -> tuple[DistillState, Scalars]:
        """Algorithm 1: all phases in sequence, as one function."""
        return stage.composed(self.phases)(state, frozen, batch, key)

    @property
    def phases(self) -> tuple[stage.Phase, ...]:
        """Algorithm 1: scores and discriminator on z_g, then the generator.

        Each may be compiled as a program of its own. What one hands to the next,
        besides the state, has the batch as its first axis or is a scalar.
        """
        settings = self.settings
        if not settings.scored:
            return (stage.Phase("generator", self.regress),)
        phases = [stage.Phase("pair", self.generate_pair)]
        phases.append(stage.Phase("fake", self.update_fake))
        if settings.trains_real:
            phases.append(stage.Phase("real", self.update_real))
        if settings.adversarial:
            phases.append(stage.Phase("disc", self.update_disc))
        phases.append(stage.Phase("score", self.latent_gradient))
        phases.append(stage.Phase("generator", self.update_generator))
        return tuple(phases)

    def generate_pair(
        self, state: DistillState, carry: Any, frozen: Any, batch: Any, key: Array
    ):
        """Lines 1-2: a pair of latents, and the generator's answer without gradient."""
        key = jax.random.fold_in(key, state.step)
        keys = samples.draws(key, batch["index"], DRAWS)

        def pair_and_answer(batch: Any, keys: Keys) -> tuple[Pair, Array]:
            pair, params = self.pair(frozen, batch, keys), state.generator.params
            return pair, self.roles.generate(frozen, params, pair.z_low_bhwc)[0]

        microbatches = self.settings.accumulate
        pair, z_g = accumulate.rows(microbatches, pair_and_answer, batch, keys)
        return state, Carry(keys, pair, jax.lax.stop_gradient(z_g)), {}

    def update_fake(self, state: DistillState, carry: "Carry", frozen: Any, *_: Any):
        """Line 3: fake score psi learns z_g."""
        assert state.fake is not None  # a phase of kinds that train it
        role, metrics = self.update("fake", state.fake, frozen, carry, carry.z_g_bhwc)
        return dataclasses.replace(state, fake=role), carry, metrics

    def update_real(self, state: DistillState, carry: "Carry", frozen: Any, *_: Any):
        """Line 4: real score phi learns z_h."""
        z_high = carry.pair.z_high_bhwc
        assert state.real is not None  # a phase of kinds that train it
        role, metrics = self.update("real", state.real, frozen, carry, z_high)
        return dataclasses.replace(state, real=role), carry, metrics

    def update_disc(self, state: DistillState, carry: "Carry", frozen: Any, *_: Any):
        """Line 5: discriminator D tells z_h from z_g."""
        # Both without gradient: z_g comes from an earlier phase.
        latents = carry.pair.z_high_bhwc, carry.z_g_bhwc
        assert state.disc is not None  # a phase of kinds that train it
        role, metrics = self.update("disc", state.disc, frozen, carry, *latents)
        return dataclasses.replace(state, disc=role), carry, metrics

    def latent_gradient(
        self, state: DistillState, carry: "Carry", frozen: Any, *_: Any
    ):
        """Line 6: the gradient with respect to z_g, by the updated scores and D."""
        grad_z, (loss, metrics), share = accumulate.rows_and_finite_means(
            self.settings.accumulate,
            lambda *b: self.generator_loss.on_latent(state, frozen, *b),
            carry.pair,
            carry.z_g_bhwc,
            carry.keys,
        )
        metrics["broken_score"] = optimisers.broken(share, len(carry.z_g_bhwc))
        return state, dataclasses.replace(carry, grad_z_bhwc=grad_z, loss=loss), metrics

    def update_generator(
        self, state: DistillState, carry: "Carry", frozen: Any, *_: Any
    ):
        """Line 7: generator theta."""
        (grads, loss_repa, metrics), share = accumulate.mean_of_finite(
            self.settings.accumulate,
            lambda *b: self.generator_loss.on_weights(state, frozen, *b),
            carry.pair,
            carry.grad_z_bhwc,
        )
        # Logged, and checked for being finite; its gradient is `grads`.
        loss = carry.loss + loss_repa
        role, guard = optimisers.apply(
            state.generator,
            self.tx["generator"],
            grads,
            loss,
            enabled=state.step >= self.settings.generator_start,
        )
        guard["broken"] = optimisers.broken(share, len(carry.z_g_bhwc))
        metrics |= optimisers.named("generator", guard | {"loss": loss})
        return self.finish(state, role, metrics)

    def regress(
        self, state: DistillState, carry: Any, frozen: Any, batch: Any, key: Array
    ):
        """Lines 1 and 7 of kind "paired": theta learns z_h from z_l."""
        key = jax.random.fold_in(key, state.step)
        keys = samples.draws(key, batch["index"], DRAWS)

        def loss(params: Params, batch: Any, keys: Keys) -> tuple[Array, Scalars]:
            finite_b, pair = self.pair(frozen, batch, keys).without_broken()
            z_g, _ = self.roles.generate(frozen, params, pair.z_low_bhwc)
            z_g = losses.finite_gradient(z_g)
            decoder = params.get("decoder")
            terms = self.generator_loss.paired_terms(frozen, pair, finite_b, decoder)
            total, metrics = jnp.zeros((), jnp.float32), {}
            for term in terms.values():
                value, values = term(z_g)
                total, metrics = total + value, metrics | values
            share = jnp.mean(finite_b.astype(jnp.float32))
            return total, metrics | {"loss": total, "finite": share}

        role, metrics = optimisers.update(
            state.generator,
            self.tx["generator"],
            loss,
            batch,
            keys,
            microbatches=self.settings.accumulate,
        )
        return self.finish(state, role, optimisers.named("generator", metrics))

    def finish(self, state: DistillState, generator: Role, metrics: Scalars):
        """The end of an iteration: EMA of the generator, next step number."""
        params = generator.params

        def averaged(ema: Params, params: Params) -> Params:
            return optimisers.ema(ema, params, self.settings.ema, state.step)

        decoder_ema = state.decoder_ema
        if decoder_ema is not None:
            decoder_ema = averaged(decoder_ema, params["decoder"])
        new_state = dataclasses.replace(
            state,
            step=state.step + 1,
            generator=generator,
            ema=averaged(state.ema, params["unet"]),
            decoder_ema=decoder_ema,
        )
        return new_state, None, metrics | rates(self.settings, state)

    def update(
        self, name: str, role: Role, frozen: Any, carry: "Carry", *latents: Array
    ) -> tuple[Role, Scalars]:
        """One step of a role that is not the generator."""
        loss = {
            "fake": self.fake_loss,
            "real": self.real_loss,
            "disc": self.disc_loss,
        }[name](frozen)
        role, metrics = optimisers.update(
            role,
            self.tx[name],
            loss,
            *latents,
            carry.keys,
            microbatches=self.settings.accumulate,
        )
        return role, optimisers.named(name, metrics)

    def pair(self, frozen: Any, batch: Any, keys: Keys) -> Pair:
        """Line 1: x_l = degrade(x_h), enlarged; z = s E(x), posterior mode."""
        x_high = samples.high_quality(batch)
        scale = self.settings.data.scale
        x_low = samples.low_quality(keys["degrade"], batch, self.recipe, scale)
        vae = self.nets.gather(frozen["vae"], "frozen/vae")
        # One pass of the encoder over both; interleaved, so that rows stay on a device.
        x_high, x_low = self.nets.split(x_high), self.nets.split(x_low)
        z_high, z_low = samples.apart(
            self.encode(vae, samples.interleave(x_high, x_low))
        )
        return Pair(x_high, z_high, z_low)

    def fake_loss(self, frozen: Any) -> Loss:
        """Eq. 25: denoising of generated latents, positive prompt."""

        def loss(adapters: Params, z_g: Array, keys: Keys):
            context = samples.prompt(frozen["prompt"]["positive"], len(z_g))
            return self._denoising(adapters, frozen, z_g, context, keys, "fake")

        return loss

    def real_loss(self, frozen: Any) -> Loss:
        """Eq. 26: denoising of true latents, the prompt dropped at random."""

        def loss(adapters: Params, z_high: Array, keys: Keys):
            rate = self.settings.prompt_dropout
            context = samples.drop_prompt(keys["prompt"], frozen["prompt"], rate)
            return self._denoising(adapters, frozen, z_high, context, keys, "real")

        return loss

    def disc_loss(self, frozen: Any) -> Loss:
        """Eq. 27: true against generated latents under one noise per sample."""

        def loss(params: Params, z_high: Array, z_g: Array, keys: Keys):
            s = self.settings.score
            finite_b, z_high, z_g = losses.replace_nonfinite(z_high, z_g)
            t, eps = samples.noise(keys, "discriminator", z_high, s.t_min, s.t_max)
            z_t = samples.interleave(
                diffusion.add_noise(z_high, eps, t), diffusion.add_noise(z_g, eps, t)
            )
            logits = self.roles.logits(frozen, params, z_t, samples.interleave(t, t))
            real, fake = samples.apart(logits)
            loss_b = losses.mark_nonfinite(
                finite_b, losses.discriminator_loss(real, fake)
            )
            value = finite_mean(loss_b)
            margin_b = losses.sample_mean(real) - losses.sample_mean(fake)
            margin = finite_mean(losses.mark_nonfinite(finite_b, margin_b))
            metrics = {"loss": value, "logit_margin": margin}
            return value, metrics | {"finite": losses.finite_share(loss_b)}

        return loss

    def sample(
        self, state: DistillState, frozen: Any, batch: Any, key: Array
    ) -> dict[str, Array]:
        """Columns: degraded, restored by the EMA, re-encoded photograph, photograph."""
        keys = samples.draws(key, batch["index"], DRAWS)
        scale = self.settings.data.scale
        x_low = samples.low_quality(keys["degrade"], batch, self.recipe, scale)
        x_high = samples.high_quality(batch)
        vae = self.roles.vae_params(frozen, state.decoder_ema)
        params = state.generator.params | {"unet": state.ema}
        z_g, _ = self.roles.generate(frozen, params, self.encode(vae, x_low))
        recoded = self.decode(vae, self.encode(vae, x_high))
        return {
            "low quality, bicubic": samples.to_unit(x_low),
            "GenDR": samples.to_unit(self.decode(vae, z_g)),
            "autoencoder": samples.to_unit(recoded),
            "photograph": samples.to_unit(x_high),
        }

    def _denoising(self, adapters, frozen, z, context, keys, name):
        last = diffusion.NUM_TIMESTEPS - 1
        finite_b, z = losses.replace_nonfinite(z)
        t, eps = samples.noise(keys, name, z, 0, last)
        z_t = diffusion.add_noise(z, eps, t)
        out, _ = self.roles.unet(frozen, adapters, f"{name}/params")(z_t, t, context)
        prediction = self.settings.prediction
        target = diffusion.prediction_target(z, eps, t, prediction)
        loss_b = losses.mark_nonfinite(finite_b, losses.denoising(out, target))
        loss = finite_mean(loss_b)
        return loss, {"loss": loss, "finite": losses.finite_share(loss_b)}


def make_init(
    settings: DistillSettings, nets: DistillNets
) -> Callable[[Array, Params], DistillState]:
    """(key, start) -> fresh state: every role starts as start["unet"]."""

    def init(key: Array, start: Params) -> DistillState:
        tx = role_optimisers(settings)
        keys = jax.random.split(key, 6)

        full = settings.generator == "full"
        unet = start["unet"] if full else nets.adapted.init_adapters(keys[0])
        generator = {
            "unet": nets_lib.cast(unet, jnp.float32),
            "projector": start.get("projector") or nets.projector.init(keys[1]),
        }
        decoder_ema = None
        if settings.decoder == "trained":
            generator["decoder"] = nets_lib.cast(start["decoder"], jnp.float32)
            decoder_ema = jax.tree.map(jnp.array, generator["decoder"])
        disc = {
            "unet": nets.adapted.init_adapters(keys[4]),
            "head": nets.head.init(keys[5]),
        }
        return DistillState(
            step=jnp.zeros((), jnp.int32),
            generator=optimisers.new_role(generator, tx["generator"]),
            fake=optimisers.new_role(nets.adapted.init_adapters(keys[2]), tx["fake"])
            if settings.scored
            else None,
            real=optimisers.new_role(nets.adapted.init_adapters(keys[3]), tx["real"])
            if settings.trains_real
            else None,
            disc=optimisers.new_role(disc, tx["disc"])
            if settings.adversarial
            else None,
            ema=jax.tree.map(jnp.array, generator["unet"]),
            decoder_ema=decoder_ema,
        )

    return init


def restorer_weights(settings: DistillSettings, state: DistillState, base: Params):
    """The averaged generator as plain UNet weights, adapters merged."""
    if settings.generator == "full":
        return state.ema
    return nets_lib.merge_lora(base, state.ema, settings.lora.scale)


def autoencoder_weights(state: DistillState, vae: Params) -> Params:
    """The autoencoder, with the averaged decoder where that is trained."""
    return nets_lib.overlay(vae, state.decoder_ema)
