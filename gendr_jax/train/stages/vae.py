"""Stage 0: the autoencoder. L1 + KL, with a patch discriminator from a step on.

``latent_var`` is a running average of the latents' variance, from which the exported
scaling factor (1 / std) is computed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gendr_jax import losses
from gendr_jax.losses import finite_mean
from gendr_jax.nets import Net, Params
from gendr_jax.train.settings import VAESettings
from gendr_jax.train.stages import accumulate, optimisers, samples
from gendr_jax.train.stages.optimisers import Role

LATENT_MEMORY = 0.99  # decay of the running variance of the latents


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VAEState:
    """All that the stage trains; ``disc`` is None without the adversarial term."""

    step: jax.Array
    vae: Role
    disc: Role | None
    ema: Params
    latent_var: jax.Array


def make_init(
    settings: VAESettings,
    vae: Net,
    disc: Net,
) -> Callable[[jax.Array, Params], VAEState]:
    """(key, start) -> fresh state, from start["vae"] if given, else random."""

    def init(key: jax.Array, start: Params) -> VAEState:
        key_vae, key_disc = jax.random.split(key)
        params = start.get("vae") or vae.init(key_vae)
        role = optimisers.new_role(
            params, optimisers.adamw(settings.optim, steps=settings.steps)
        )
        tx_disc = optimisers.adamw(settings.optim_discriminator, steps=settings.steps)
        return VAEState(
            step=jnp.zeros((), jnp.int32),
            vae=role,
            disc=optimisers.new_role(disc.init(key_disc), tx_disc)
            if settings.adversarial
            else None,
            ema=jax.tree.map(jnp.array, params),
            latent_var=jnp.ones((), jnp.float32),
        )

    return init


def make_step(
    settings: VAESettings,
    vae: Net,
    disc: Net,
    gather: Callable[[Params, str], Params],
    split: Callable[[jax.Array], jax.Array],
) -> Callable[..., tuple[VAEState, dict[str, jax.Array]]]:
    """One update of the discriminator (if any), then of the autoencoder."""
    tx = optimisers.adamw(settings.optim, steps=settings.steps)
    tx_disc = optimisers.adamw(settings.optim_discriminator, steps=settings.steps)

    def reconstruct(params: Params, x: jax.Array, keys_b: jax.Array):
        model = vae.bind(gather(params, "vae/params"))
        mean, logvar = (a.astype(jnp.float32) for a in model.encode(x))
        z = mean + jnp.exp(0.5 * logvar) * samples.normal_like(keys_b, mean)
        return model.decode(z).astype(jnp.float32), mean, logvar

    def disc_loss(params: Params, real: jax.Array, fake: jax.Array):
        model = disc.bind(gather(params, "disc/params"))
        finite_b, real, fake = losses.replace_nonfinite(real, fake)
        loss_b = losses.discriminator_loss(model(real), model(fake))
        loss_b = losses.mark_nonfinite(finite_b, loss_b)
        loss = finite_mean(loss_b)
        return loss, {"loss": loss, "finite": losses.finite_share(loss_b)}

    def vae_loss(params: Params, disc_params: Params | None, step, x, keys_b):
        finite_b, x = losses.replace_nonfinite(x)
        y, mean, logvar = reconstruct(params, x, keys_b)

        def average(loss_b: jax.Array) -> jax.Array:
            return finite_mean(losses.mark_nonfinite(finite_b, loss_b))

        l1 = average(losses.l1(y, x))
        kl = average(losses.kl(mean, logvar))
        loss = l1 + settings.kl_weight * kl
        metrics = {"l1": l1, "kl": kl}
        if disc_params is not None:
            logits = disc.bind(gather(disc_params, "disc/params"))(y)
            adversarial = average(losses.generator_loss(logits))
            adversarial_on = step >= settings.adversarial_start
            loss = loss + settings.adversarial_weight * adversarial_on * adversarial
            metrics["adversarial"] = adversarial
        # Mean square, not variance: the factor maps the root mean square to one.
        square = jnp.square(mean - settings.vae.shift_factor) + jnp.exp(logvar)
        variance = average(losses.sample_mean(square))
        share = jnp.mean(finite_b.astype(jnp.float32))
        return loss, metrics | {"loss": loss, "latent_var": variance, "finite": share}

    def step(state: VAEState, frozen: Any, batch: Any, key: jax.Array):
        key = jax.random.fold_in(key, state.step)
        keys_b = samples.draws(key, batch["index"], ("posterior",))["posterior"]
        x, microbatches = split(samples.high_quality(batch)), settings.accumulate
        metrics: dict[str, jax.Array] = {}
        disc_role = state.disc
        # The discriminator first, on reconstructions by the weights before this step.
        if disc_role is not None:
            fake, _, _ = jax.lax.stop_gradient(
                accumulate.rows(
                    microbatches,
                    lambda *b: reconstruct(state.vae.params, *b),
                    x,
                    keys_b,
                )
            )
            disc_role, m = optimisers.update(
                disc_role, tx_disc, disc_loss, x, fake, microbatches=microbatches
            )
            metrics |= optimisers.named("disc", m)
        disc_params = None if disc_role is None else disc_role.params
        role, m = optimisers.update(
            state.vae,
            tx,
            lambda params, *b: vae_loss(params, disc_params, state.step, *b),
            x,
            keys_b,
            microbatches=microbatches,
        )
        variance = m.pop("latent_var")
        # A plain mean at first, then an exponential one.
        memory = jnp.minimum(LATENT_MEMORY, state.step / (state.step + 1.0))
        new_var = memory * state.latent_var + (1.0 - memory) * variance
        new_state = VAEState(
            step=state.step + 1,
            vae=role,
            disc=disc_role,
            ema=optimisers.ema(state.ema, role.params, settings.ema, state.step),
            latent_var=jnp.where(m["skipped"] > 0, state.latent_var, new_var),
        )
        m["latent_std"] = jnp.sqrt(new_state.latent_var)
        m["lr"] = optimisers.rate(settings.optim, steps=settings.steps)(state.step)
        return new_state, metrics | optimisers.named("vae", m)

    return step


def make_sample(
    vae: Net, gather: Callable[[Params, str], Params]
) -> Callable[..., dict[str, jax.Array]]:
    """Photograph and its reconstruction by the averaged weights."""

    def sample(state: VAEState, frozen: Any, batch: Any, key: jax.Array):
        x = samples.high_quality(batch)
        model = vae.bind(gather(state.ema, "ema"))
        y = model.decode(model.encode(x)[0]).astype(jnp.float32)
        return {"photograph": samples.to_unit(x), "reconstruction": samples.to_unit(y)}

    return sample


def scaling_factor(state: VAEState) -> float:
    """1 / root mean square of the latents, as measured during training."""
    return float(1.0 / jnp.sqrt(state.latent_var))
