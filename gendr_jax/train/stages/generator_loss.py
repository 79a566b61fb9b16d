"""The generator's loss and its gradient: score, adversarial, alignment, paired terms.

Every term is differentiated with respect to z_g (or the alignment tokens) alone; the
sum goes through the generator once.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gendr_jax import diffusion, losses
from gendr_jax.losses import finite_mean
from gendr_jax.losses.reduction import zero_nonfinite
from gendr_jax.nets import Params
from gendr_jax.train.settings import DistillSettings
from gendr_jax.train.stages import samples
from gendr_jax.train.stages.optimisers import Scalars
from gendr_jax.train.stages.roles import DistillNets, DistillState, Pair, Roles
from gendr_jax.train.stages.samples import Keys

Array = jax.Array
Distance = Callable[[Array, Array], Array]  # pictures [B, H, W, 3] twice -> [B]
Term = Callable[[Array], tuple[Array, Scalars]]  # z_g -> weighted loss, metrics


class GeneratorLoss:
    """Pure functions over settings and networks; holds no weights and no state."""

    def __init__(self, settings: DistillSettings, nets: DistillNets, roles: Roles):
        self.settings, self.nets, self.roles = settings, nets, roles
        self.decode = samples.decoder(nets.vae, settings.vae)

    def on_latent(
        self, state: DistillState, frozen: Any, pair: Pair, z_g: Array, keys: Keys
    ) -> tuple[Array, tuple[Array, Scalars], Array]:
        """Eq. 28 without its alignment term: (gradient w.r.t. z_g, (loss, metrics),
        share of samples that the loss is a mean of).

        Every term is differentiated with respect to z_g alone, one after the other, so
        that one network's activations are alive at a time.
        """
        loss, grad_z, metrics = self.score_term(state, frozen, pair, z_g, keys)
        finite_b, clean_g, clean_h = losses.replace_nonfinite(z_g, pair.z_high_bhwc)
        metrics["z_bias"] = _mean(finite_b, clean_g - clean_h)
        metrics["z_std_ratio"] = samples.std(finite_b, clean_g) / samples.std(
            finite_b, clean_h
        )
        weight = self.settings.weights.score
        loss, grad_z = weight * loss, weight * grad_z
        # Norms of the latent gradients tell how strong each term pulls at z_g.
        score_norm = optax.global_norm(zero_nonfinite(grad_z))
        for name, term in self.other_terms(state, frozen, pair, keys).items():
            (value, values), g_z = jax.value_and_grad(term, has_aux=True)(z_g)
            loss, grad_z, metrics = loss + value, grad_z + g_z, metrics | values
            if name == "adversarial":
                norm = optax.global_norm(zero_nonfinite(g_z))
                metrics["adversarial_to_score"] = norm / (score_norm + 1e-12)
        return grad_z, (loss, metrics), metrics.pop("finite")

    def on_weights(
        self, state: DistillState, frozen: Any, pair: Pair, grad_z: Array
    ) -> tuple[tuple[Params, Array, Scalars], Array]:
        """Eq. 28 w.r.t. theta: ((gradient, loss of the alignment term, metrics), share
        of samples that it is a mean of).

        The sum of the latent's gradients goes through the generator once, together
        with the alignment term l3 L_repa on the generator's own features. With
        ``on_latent`` equal to autodiff of the complete loss.
        """

        # Broken samples are set to 0 in inputs and cotangents before they meet the
        # weights: a mask on the gradient would be too late, since 0 * NaN is NaN.
        finite_b, z_low, grad_z = losses.replace_nonfinite(pair.z_low_bhwc, grad_z)

        def forward(params: Params):
            z_g, down0 = self.roles.generate(frozen, params, z_low)
            if not self.settings.aligned:
                return z_g, jnp.zeros((len(z_g), 0, 0), z_g.dtype)
            return z_g, self.roles.project(params, down0)

        (_, tokens), pull = jax.vjp(forward, state.generator.params)
        loss, metrics = jnp.zeros((), jnp.float32), {}
        grad_tokens = jnp.zeros_like(tokens)
        if self.settings.aligned:
            grid = self.roles.token_grid(pair.z_high_bhwc)
            dino = self.roles.dino(frozen)
            target = samples.dino_tokens(dino, pair.x_high_bhwc, grid)
            target_finite_b, target = losses.replace_nonfinite(target)
            value, grad_tokens = jax.value_and_grad(
                lambda tokens: finite_mean(
                    losses.mark_nonfinite(
                        finite_b & target_finite_b, losses.repa(tokens, target)
                    )
                )
            )(tokens)
            weight = self.settings.weights.repa
            loss, grad_tokens = weight * value, weight * grad_tokens
            metrics["loss_repa"] = value
        (grads,) = pull((grad_z, grad_tokens))
        # With no sample left the loss is NaN, so that the update is skipped.
        loss = jnp.where(jnp.any(finite_b), loss, jnp.nan)
        return (grads, loss, metrics), jnp.mean(finite_b.astype(jnp.float32))

    def score_term(
        self, state: DistillState, frozen: Any, pair: Pair, z_g: Array, keys: Keys
    ) -> tuple[Array, Array, Scalars]:
        """L_vsd, L_sid or L_cid with its gradient w.r.t. z_g (eq. 10-15)."""
        s = self.settings.score
        kind = "cid" if self.settings.kind == "cida" else self.settings.kind
        t, eps = samples.noise(keys, "score", z_g, s.t_min, s.t_max)
        a, sigma = diffusion.alpha_sigma(t, z_g.ndim)
        real = None if state.real is None else state.real.params
        assert state.fake is not None and kind != "paired"  # which has no scores
        chosen = losses.ScoreSettings(kind, s.alpha, s.xi, s.rho, s.literal)
        fake = state.fake.params

        def predict_p(z_t):
            return self.roles.x0(frozen, real, z_t, t, s.kappa, "real/params")

        def predict_q(z_t):
            return self.roles.x0(frozen, fake, z_t, t, 1.0, "fake/params")

        if s.sequential:
            loss_b, grad, aux = losses.score_gradient(
                chosen,
                predict_p,
                predict_q,
                z_g,
                pair.z_high_bhwc,
                a=a,
                sigma=sigma,
                eps_bhwc=eps,
            )
            metrics = {
                name.removesuffix("_b"): finite_mean(v) for name, v in aux.items()
            }
        else:

            def total(z_g):
                z_t = a * z_g + sigma * eps
                p, q = predict_p(z_t), predict_q(z_t)
                loss_b = losses.score_loss(chosen, p, q, z_g, pair.z_high_bhwc)
                return jnp.sum(loss_b), loss_b

            grad, loss_b = jax.grad(total, has_aux=True)(z_g)
            metrics = {}
        grad = grad * losses.finite_weights(loss_b)[:, None, None, None]
        loss = finite_mean(loss_b)
        metrics["finite"] = losses.finite_share(loss_b)
        return loss, grad, metrics | {f"loss_{kind}": loss}

    def other_terms(
        self, state: DistillState, frozen: Any, pair: Pair, keys: Keys
    ) -> dict[str, Term]:
        """The terms that are switched on, by name."""
        weights, terms = self.settings.weights, {}
        if self.settings.adversarial:
            assert state.disc is not None
            disc = state.disc.params
            s = self.settings.score
            t, eps = samples.noise(
                keys, "adversarial", pair.z_high_bhwc, s.t_min, s.t_max
            )

            def adversarial(z_g):
                z_t = diffusion.add_noise(z_g, eps, t)
                logits = self.roles.logits(frozen, disc, z_t, t)
                value = finite_mean(losses.generator_loss(logits))
                rate = weights.adversarial * adversarial_on
                return rate * value, {"loss_adversarial": value}

            adversarial_on = (state.step >= self.settings.adversarial_start).astype(
                jnp.float32
            )
            terms["adversarial"] = adversarial
        finite_b, pair = pair.without_broken()
        return terms | self.paired_terms(frozen, pair, finite_b)

    def paired_terms(
        self,
        frozen: Any,
        pair: Pair,
        finite_b: Array,
        decoder: Params | None = None,
    ) -> dict[str, Term]:
        """The terms that compare with the truth: of latents, and of pictures.

        All terms of pictures are one, so that z_g is decoded once.

        Args:
            finite_b: the samples of ``pair`` that the terms are means of.
            decoder: weights of a decoder that is trained; None: the frozen one.
        """
        weights, terms = self.settings.weights, {}

        def mean(loss_b: Array) -> Array:
            return finite_mean(losses.mark_nonfinite(finite_b, loss_b))

        def latent(z_g: Array) -> tuple[Array, Scalars]:
            value = mean(losses.l2(z_g, pair.z_high_bhwc))
            return weights.latent * value, {"loss_latent": value}

        def pictures(z_g: Array) -> tuple[Array, Scalars]:
            y = self.decode(self.roles.vae_params(frozen, decoder), z_g)
            total, metrics = jnp.zeros((), jnp.float32), {}
            for name, (weight, distance) in self._distances(frozen).items():
                value = mean(distance(y, pair.x_high_bhwc))
                total, metrics[f"loss_{name}"] = total + weight * value, value
            return total, metrics

        if weights.latent > 0:
            terms["latent"] = latent
        if weights.on_pictures:
            terms["pictures"] = pictures
        return terms

    def _distances(self, frozen: Any) -> dict[str, tuple[float, Distance]]:
        """{name: (weight, distance of two pictures)} of those that have a weight."""
        weights, distances = self.settings.weights, {}
        if weights.pixel > 0:
            distances["pixel"] = weights.pixel, losses.l1
        if self.nets.lpips is not None:
            lpips = self.nets.gather(frozen["lpips"], "frozen/lpips")
            distances["perceptual"] = weights.perceptual, self.nets.lpips.bind(lpips)
        if weights.fourier > 0:
            factor = self.settings.vae.factor
            fourier = functools.partial(losses.masked_fourier, factor=factor)
            distances["fourier"] = weights.fourier, fourier
        if weights.grid > 0:
            grid = functools.partial(losses.block_grid, factor=self.settings.vae.factor)
            distances["grid"] = weights.grid, grid
        return distances


def _mean(finite_b: Array, x: Array) -> Array:
    """The mean over samples that are finite."""
    return finite_mean(losses.mark_nonfinite(finite_b, losses.sample_mean(x)))
