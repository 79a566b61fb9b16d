"""GenDR-Adc and GenDR-Pix: pixel-(un)shuffle in place of the autoencoder (eq. 31-35).

The teacher is GenDR with its autoencoder. Adc's student maps pixels to latents, Pix's
pixels to pixels; each learns from the teacher's output, and from a discriminator on the
features of the model before it: GenDR's UNet for Adc, Adc's for Pix.
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
from gendr_jax.losses import finite_gradient, finite_mean
from gendr_jax.models.pixel_shuffle import pixel_pass, pixel_unshuffle
from gendr_jax.nets import Net, Params
from gendr_jax.train import stage
from gendr_jax.train.settings import AdcSettings, PixSettings
from gendr_jax.train.stages import accumulate, optimisers, samples
from gendr_jax.train.stages.optimisers import Role, Scalars
from gendr_jax.train.stages.samples import Keys

Array = jax.Array
DRAWS = ("degrade", "pad")


@dataclasses.dataclass(frozen=True)
class PixelNets:
    """The networks without weights.

    ``student`` has pixels at its input (Adc) or at both ends (Pix). ``adapted`` is the
    UNet of the model before (the weights "features") with adapters; the discriminator
    is ``adapted`` and ``head``. ``lpips`` is None without the perceptual term.
    """

    vae: Net
    teacher: Net
    student: Net
    adapted: Net
    head: Net
    lpips: Net | None
    gather: Callable[[Params, str], Params]
    split: Callable[[jax.Array], jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PixelState:
    """generator.params: the student's UNet; disc.params: {"unet": adapters, "head"};
    ema: the student's UNet averaged."""

    step: Array
    generator: Role
    disc: Role
    ema: Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Carry:
    """Results of the first phase for the next ones, one row a sample.

    target_bhwc: the teacher's output, true_bhwc: the discriminator's real samples,
    student_bhwc: the student's output without gradient. Latents in Adc, pictures in
    [-1, 1] in Pix.
    """

    keys: Keys
    x_low_bhwc: Array
    target_bhwc: Array
    true_bhwc: Array
    student_bhwc: Array


class Pixel:
    """Pure functions over settings and networks; holds no weights and no state."""

    def __init__(self, settings: AdcSettings | PixSettings, nets: PixelNets):
        self.settings, self.nets = settings, nets
        self.to_pixels = isinstance(settings, PixSettings)
        self.recipe = recipe(settings.data.preset)
        self.encode = samples.encoder(nets.vae, settings.vae)
        self.decode = samples.decoder(nets.vae, settings.vae)
        self.tx = role_optimisers(settings)

    def step(
        self, state: PixelState, frozen: Any, batch: Any, key: Array
    ) -> tuple[PixelState, Scalars]:
        """All phases in sequence, as one function."""
        return stage.composed(self.phases)(state, frozen, batch, key)

    @property
    def phases(self) -> tuple[stage.Phase, ...]:
        """Outputs of teacher and student; then the discriminator, then the student."""
        return (
            stage.Phase("pair", self.generate_pair),
            stage.Phase("disc", self.update_disc),
            stage.Phase("generator", self.update_generator),
        )

    def generate_pair(
        self, state: PixelState, carry: Any, frozen: Any, batch: Any, key: Array
    ) -> tuple[PixelState, Carry, Scalars]:
        """x_l = degrade(x_h), enlarged; the outputs of teacher and student."""
        key = jax.random.fold_in(key, state.step)
        keys = samples.draws(key, batch["index"], DRAWS)

        # Split by rows only after the degradation, which needs all rows of a picture.
        def pairs(batch: Any, keys: Keys) -> tuple[Array, Array, Array, Array]:
            x_high = self.nets.split(samples.high_quality(batch))
            scale = self.settings.data.scale
            x_low = samples.low_quality(keys["degrade"], batch, self.recipe, scale)
            x_low = self.nets.split(x_low)
            target = self.teach(frozen, x_low)
            true = x_high if self.to_pixels else self.latent(frozen, x_high)
            student = self.generate(frozen, state.generator.params, x_low)
            return x_low, target, true, student

        rows = accumulate.rows(self.settings.accumulate, pairs, batch, keys)
        x_low, target, true, student = jax.lax.stop_gradient(rows)
        return state, Carry(keys, x_low, target, true, student), {}

    def update_disc(
        self, state: PixelState, carry: Carry, frozen: Any, *_: Any
    ) -> tuple[PixelState, Carry, Scalars]:
        """The discriminator tells true samples from the student's, eq. 16."""

        def loss(params: Params, true: Array, student: Array, keys: Keys):
            finite_b, true, student = losses.replace_nonfinite(true, student)
            # True and generated samples in one pass of the discriminator.
            interleaved = samples.interleave(*self.padded((true, student), keys))
            real, fake = samples.apart(self.logits(frozen, params, interleaved))
            loss_b = losses.mark_nonfinite(
                finite_b, losses.discriminator_loss(real, fake)
            )
            value = finite_mean(loss_b)
            margin_b = losses.sample_mean(real) - losses.sample_mean(fake)
            margin = finite_mean(losses.mark_nonfinite(finite_b, margin_b))
            metrics = {"loss": value, "logit_margin": margin}
            return value, metrics | {"finite": losses.finite_share(loss_b)}

        role, metrics = optimisers.update(
            state.disc,
            self.tx["disc"],
            loss,
            carry.true_bhwc,
            carry.student_bhwc,
            carry.keys,
            microbatches=self.settings.accumulate,
        )
        new_state = dataclasses.replace(state, disc=role)
        return new_state, carry, optimisers.named("disc", metrics)

    def update_generator(
        self, state: PixelState, carry: Carry, frozen: Any, *_: Any
    ) -> tuple[PixelState, None, Scalars]:
        """The student, eq. 34 (Adc) or 35 (Pix)."""
        role, metrics = optimisers.update(
            state.generator,
            self.tx["generator"],
            lambda params, *rows: self.generator_loss(params, state, frozen, *rows),
            carry.x_low_bhwc,
            carry.target_bhwc,
            carry.keys,
            microbatches=self.settings.accumulate,
            enabled=state.step >= self.settings.warmup_steps,
        )
        metrics = optimisers.named("generator", metrics)
        ema = optimisers.ema(state.ema, role.params, self.settings.ema, state.step)
        new_state = dataclasses.replace(
            state, step=state.step + 1, generator=role, ema=ema
        )
        return new_state, None, metrics

    def generator_loss(
        self,
        params: Params,
        state: PixelState,
        frozen: Any,
        x_low: Array,
        target: Array,
        keys: Keys,
    ) -> tuple[Array, Scalars]:
        """L1 to the teacher, adversarial; in Pix also perceptual and Fourier terms."""
        weights = self.settings.weights
        finite_b, x_low, target = losses.replace_nonfinite(x_low, target)
        # The cotangent of a broken output is set to 0 before it meets the weights.
        y = finite_gradient(self.generate(frozen, params, x_low))

        def mean(loss_b: Array) -> Array:
            return finite_mean(losses.mark_nonfinite(finite_b, loss_b))

        metrics = {"l1": mean(losses.l1(y, target))}
        loss = metrics["l1"]
        if weights.adversarial > 0:
            (padded,) = self.padded((y,), keys)
            logits = self.logits(frozen, state.disc.params, padded)
            metrics["adversarial"] = mean(losses.generator_loss(logits))
            adversarial_on = (state.step >= self.settings.adversarial_start).astype(
                jnp.float32
            )
            loss = loss + weights.adversarial * adversarial_on * metrics["adversarial"]
        if isinstance(self.settings, PixSettings) and weights.fourier > 0:
            loss_b = losses.masked_fourier(
                y,
                target,
                factor=self.settings.factor,
                radius=self.settings.mask_radius,
            )
            metrics["fourier"] = mean(loss_b)
            loss = loss + weights.fourier * metrics["fourier"]
        if self.nets.lpips is not None:
            lpips = self.nets.gather(frozen["lpips"], "frozen/lpips")
            metrics["perceptual"] = mean(self.nets.lpips.bind(lpips)(y, target))
            loss = loss + weights.perceptual * metrics["perceptual"]
        metrics = {f"loss_{name}": value for name, value in metrics.items()}
        share = jnp.mean(finite_b.astype(jnp.float32))
        return loss, metrics | {"loss": loss, "finite": share}

    def generate(self, frozen: Any, params: Params, x_low_bhwc: Array) -> Array:
        """The student's output: a latent, or the enlarged picture plus its residual."""
        unet = self.nets.student.bind(self.nets.gather(params, "generator/params"))
        return student_pass(
            unet,
            x_low_bhwc,
            frozen["prompt"]["positive"],
            self.settings.factor,
            self.to_pixels,
        )

    def teach(self, frozen: Any, x_low_bhwc: Array) -> Array:
        """GenDR's output (eq. 8): its latent, decoded in Pix."""
        z_low = self.latent(frozen, x_low_bhwc)
        unet = self.nets.teacher.bind(self.nets.gather(frozen["unet"], "frozen/unet"))
        t = jnp.full((len(z_low),), diffusion.T_STAR)
        out, _ = unet(z_low, t, self.context(frozen, len(z_low)))
        z = diffusion.one_step(z_low, out, self.settings.prediction)
        if not self.to_pixels:
            return z
        vae = self.nets.gather(frozen["vae"], "frozen/vae")
        return jnp.clip(self.decode(vae, z), -1.0, 1.0)

    def logits(self, frozen: Any, disc: Params, samples_bhwc: Array) -> Array:
        """The discriminator on latents (Adc), or on pictures (Pix)."""
        if self.to_pixels:
            samples_bhwc = pixel_unshuffle(samples_bhwc, self.settings.factor)
        base = self.nets.gather(frozen["features"], "frozen/features")
        adapters = self.nets.gather(disc["unet"], "disc/params/unet")
        unet = self.nets.adapted.bind(nets_lib.overlay(base, adapters))
        t = jnp.full((len(samples_bhwc),), diffusion.T_STAR)
        features = unet.encode(samples_bhwc, t, self.context(frozen, len(t)))
        head = self.nets.head.bind(self.nets.gather(disc["head"], "disc/params/head"))
        return diffusion.at_least_fp32(head(features["mid"]))

    def padded(self, arrays: tuple[Array, ...], keys: Keys) -> tuple[Array, ...]:
        """RandPad (eq. 32) of pictures, one draw for all; latents unchanged."""
        if not self.to_pixels:
            return arrays
        factor = self.settings.factor
        offsets = losses.random_offsets(keys["pad"], factor)
        return tuple(losses.random_pad(x, offsets, factor) for x in arrays)

    def latent(self, frozen: Any, x_bhwc: Array) -> Array:
        """s E(x), posterior mode."""
        return self.encode(self.nets.gather(frozen["vae"], "frozen/vae"), x_bhwc)

    def context(self, frozen: Any, batch: int) -> Array:
        return samples.prompt(frozen["prompt"]["positive"], batch)

    def sample(
        self, state: PixelState, frozen: Any, batch: Any, key: Array
    ) -> dict[str, Array]:
        """Columns: degraded, the teacher, the averaged student, the photograph."""
        keys = samples.draws(key, batch["index"], DRAWS)
        scale = self.settings.data.scale
        x_low = samples.low_quality(keys["degrade"], batch, self.recipe, scale)
        student = self.generate(frozen, state.ema, x_low)
        teacher = self.teach(frozen, x_low)
        if not self.to_pixels:
            vae = self.nets.gather(frozen["vae"], "frozen/vae")
            student, teacher = self.decode(vae, student), self.decode(vae, teacher)
        return {
            "low quality, bicubic": samples.to_unit(x_low),
            "GenDR": samples.to_unit(teacher),
            title(self.settings): samples.to_unit(student),
            "photograph": samples.to_unit(samples.high_quality(batch)),
        }


def title(settings: AdcSettings | PixSettings) -> str:
    """The title of the student's column in sample sheets."""
    return "GenDR-Pix" if isinstance(settings, PixSettings) else "GenDR-Adc"


def student_pass(
    unet: Any, x_bhwc: Array, prompt_ld: Array, factor: int, to_pixels: bool
) -> Array:
    """Pixels in [-1, 1] to the student's output, float32 or better."""
    t_b = jnp.full((len(x_bhwc),), diffusion.T_STAR)
    context = samples.prompt(prompt_ld, len(x_bhwc))
    return pixel_pass(unet, x_bhwc, t_b, context, factor=factor, to_pixels=to_pixels)


def role_optimisers(
    settings: AdcSettings | PixSettings,
) -> dict[str, optax.GradientTransformation]:
    """{role: optimiser}, by the roles' names in the state."""
    adam = settings.optim
    return {
        "generator": optimisers.adamw(adam.generator, steps=settings.steps),
        "disc": optimisers.adamw(adam.discriminator, steps=settings.steps),
    }


def make_init(
    settings: AdcSettings | PixSettings, nets: PixelNets
) -> Callable[[Array, Params], PixelState]:
    """(key, start) -> fresh state; the student begins as start["student"]."""

    def init(key: Array, start: Params) -> PixelState:
        tx = role_optimisers(settings)
        key_unet, key_head = jax.random.split(key)
        student = nets_lib.cast(start["student"], jnp.float32)
        disc = {
            "unet": nets.adapted.init_adapters(key_unet),
            "head": nets.head.init(key_head),
        }
        return PixelState(
            step=jnp.zeros((), jnp.int32),
            generator=optimisers.new_role(student, tx["generator"]),
            disc=optimisers.new_role(disc, tx["disc"]),
            ema=jax.tree.map(jnp.array, student),
        )

    return init
