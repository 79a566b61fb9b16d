"""Stage 1: the UNet learns to denoise 16-channel latents, aligned with DINOv2.

After channel surgery the new layers train alone first. Equations are numbered in
docs/algorithm.md.
"""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gendr_jax import diffusion, losses
from gendr_jax.losses import finite_mean
from gendr_jax.nets import Net, Params
from gendr_jax.train.settings import BaseSettings
from gendr_jax.train.stages import optimisers, samples
from gendr_jax.train.stages.optimisers import Role


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BaseState:
    """``base.params`` is {"unet": ..., "projector": ...}."""

    step: jax.Array
    base: Role
    ema: Params


@dataclasses.dataclass(frozen=True)
class BaseNets:
    """The networks of the stage without weights; the rest as in ``DistillNets``."""

    vae: Net
    unet: Net
    projector: Net
    dino: Net
    gather: Callable[[Params, str], Params]
    split: Callable[[jax.Array], jax.Array]


def optimiser(settings: BaseSettings) -> optax.GradientTransformation:
    """Two groups: new layers (conv_in, conv_out, projector), faster and from step 0,
    and the rest, held for ``surgery_steps``. Clipping is by each group's own norm.
    """

    def labels(params: Params) -> Params:
        def label(path, _):
            names = [str(entry.key) for entry in path]
            is_new = names[0] == "projector" or names[1] in ("conv_in", "conv_out")
            return "new" if is_new else "rest"

        return jax.tree_util.tree_map_with_path(label, params)

    held_steps = steps_held(settings)
    groups: dict[Hashable, optax.GradientTransformation] = {
        "new": optimisers.adamw(settings.optim_new, steps=settings.steps),
        "rest": optimisers.adamw(settings.optim, steps=settings.steps, hold=held_steps),
    }
    return optax.partition(groups, labels)


def steps_held(settings: BaseSettings) -> int:
    """Steps in which the new layers of a widened UNet learn alone."""
    return settings.surgery_steps if settings.surgery else 0


def make_init(
    settings: BaseSettings, nets: BaseNets
) -> Callable[[jax.Array, Params], BaseState]:
    """(key, start) -> fresh state, from start["unet"] if given, else random."""

    def init(key: jax.Array, start: Params) -> BaseState:
        key_unet, key_projector = jax.random.split(key)
        params = {
            "unet": start.get("unet") or nets.unet.init(key_unet),
            "projector": start.get("projector") or nets.projector.init(key_projector),
        }
        return BaseState(
            step=jnp.zeros((), jnp.int32),
            base=optimisers.new_role(params, optimiser(settings)),
            ema=jax.tree.map(jnp.array, params),
        )

    return init


def make_step(
    settings: BaseSettings, nets: BaseNets
) -> Callable[..., tuple[BaseState, dict[str, jax.Array]]]:
    """Denoising plus representation alignment, one update of everything trained."""
    tx = optimiser(settings)
    encode = samples.encoder(nets.vae, settings.vae)

    def base_loss(params: Params, frozen: Any, batch, keys):
        x = nets.split(samples.high_quality(batch))
        vae = nets.gather(frozen["vae"], "frozen/vae")
        finite_b, z = losses.replace_nonfinite(jax.lax.stop_gradient(encode(vae, x)))
        t = samples.timesteps(keys["t"], 0, diffusion.NUM_TIMESTEPS - 1)
        eps = samples.normal_like(keys["eps"], z)
        context = samples.drop_prompt(
            keys["prompt"], frozen["prompt"], settings.prompt_dropout
        )
        z_t = diffusion.add_noise(z, eps, t)
        unet = nets.unet.bind(nets.gather(params["unet"], "base/params/unet"))
        out, features = unet(z_t, t, context)
        target = diffusion.prediction_target(z, eps, t, settings.prediction)
        loss_b = losses.mark_nonfinite(finite_b, losses.denoising(out, target))
        metrics = {
            "denoising": finite_mean(loss_b),
            "latent_std": samples.std(finite_b, z),
        }
        if settings.repa_weight > 0:
            down0 = features["down0"]
            projector = nets.projector.bind(
                nets.gather(params["projector"], "base/params/projector")
            )
            dino = nets.dino.bind(nets.gather(frozen["dino"], "frozen/dino"))
            tokens = projector(samples.tokens(down0))
            # A picture that is finite can still overflow in DINOv2.
            dino_finite_b, target_tokens = losses.replace_nonfinite(
                samples.dino_tokens(dino, x, down0.shape[1:3])
            )
            repa_b = losses.mark_nonfinite(
                finite_b & dino_finite_b, losses.repa(tokens, target_tokens)
            )
            metrics["repa"] = finite_mean(repa_b)
            loss_b = loss_b + settings.repa_weight * repa_b
        loss = finite_mean(loss_b)
        return loss, metrics | {"loss": loss, "finite": losses.finite_share(loss_b)}

    def step(state: BaseState, frozen: Any, batch: Any, key: jax.Array):
        # By the step, then by the sample's index: no key is stored, none is reused.
        key = jax.random.fold_in(key, state.step)
        keys = samples.draws(key, batch["index"], ("t", "eps", "prompt"))
        role, m = optimisers.update(
            state.base,
            tx,
            lambda params, *b: base_loss(params, frozen, *b),
            batch,
            keys,
            microbatches=settings.accumulate,
        )
        rate = optimisers.rate(
            settings.optim, steps=settings.steps, hold=steps_held(settings)
        )
        m["lr"] = rate(state.step)
        ema = optimisers.ema(state.ema, role.params, settings.ema, state.step)
        return BaseState(state.step + 1, role, ema), optimisers.named("base", m)

    return step


def make_sample(
    settings: BaseSettings, nets: BaseNets
) -> Callable[..., dict[str, jax.Array]]:
    """Pictures drawn from noise, and photographs restored from t = 354 in one step."""
    encode = samples.encoder(nets.vae, settings.vae)
    decode = samples.decoder(nets.vae, settings.vae)

    def sample(state: BaseState, frozen: Any, batch: Any, key: jax.Array):
        x = nets.split(samples.high_quality(batch))
        vae = nets.gather(frozen["vae"], "frozen/vae")
        unet = nets.unet.bind(nets.gather(state.ema["unet"], "ema/unet"))
        context = samples.prompt(frozen["prompt"]["positive"], len(x))
        z = encode(vae, x)
        noise = samples.normal_like(
            samples.draws(key, batch["index"], ("noise",))["noise"], z
        )
        drawn = diffusion.ddim(
            lambda z_t, t_b: unet(z_t, t_b, context)[0],
            noise,
            settings.sample_steps,
            settings.prediction,
        )
        t = jnp.full((len(x),), diffusion.T_STAR)
        z_t = diffusion.add_noise(z, noise, t)
        out, _ = unet(z_t, t, context)
        denoised = diffusion.to_x0(out, z_t, t, settings.prediction)
        return {
            "photograph": samples.to_unit(x),
            "autoencoder": samples.to_unit(decode(vae, z)),
            "noised t=354": samples.to_unit(decode(vae, z_t)),
            "denoised": samples.to_unit(decode(vae, denoised)),
            "drawn from noise": samples.to_unit(decode(vae, drawn)),
        }

    return sample
