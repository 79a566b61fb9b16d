"""Optimisers, learning-rate schedules, EMA, and the guarded update of every role."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gendr_jax.nets import Params
from gendr_jax.train.settings import Adam
from gendr_jax.train.stages import accumulate

Scalars = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Role:
    """Trainable parameters (float32) with their optimiser state."""

    params: Params
    opt: optax.OptState


def rate(settings: Adam, *, steps: int, hold: int = 0) -> Callable[[Any], jax.Array]:
    """The learning rate of each update, counted from 0; 0 for the first ``hold``.

    ``steps``: number of updates in the run, ``hold`` included. A decaying schedule
    reaches 0 one update after the last, so that the last one still learns.
    """
    warmup_steps = max(settings.warmup, 1)
    active_steps = max(steps - hold, 1)
    if settings.schedule == "cosine":
        shape = optax.cosine_decay_schedule(
            settings.lr, max(active_steps - warmup_steps, 1)
        )
    elif settings.schedule == "wsd":
        decay = min(settings.decay, active_steps)
        decay_start = max(active_steps - warmup_steps - decay, 0)
        shape = optax.linear_schedule(settings.lr, 0.0, max(decay, 1), decay_start)
    else:
        shape = optax.constant_schedule(settings.lr)

    def schedule(count: Any) -> jax.Array:
        step = jnp.asarray(count - hold, jnp.float32)
        after_warmup = jnp.maximum(step - warmup_steps, 0)  # updates since the peak
        peak = jnp.asarray(shape(after_warmup))
        return peak * jnp.clip((step + 1) / warmup_steps, 0.0, 1.0) * (step >= 0)

    return schedule


def adamw(settings: Adam, *, steps: int, hold: int = 0) -> optax.GradientTransformation:
    """Clip, then AdamW at the learning rate of ``rate``."""
    return optax.chain(
        optax.clip_by_global_norm(settings.clip),
        optax.adamw(
            rate(settings, steps=steps, hold=hold),
            b1=settings.b1,
            b2=settings.b2,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        ),
    )


def new_role(params: Params, tx: optax.GradientTransformation) -> Role:
    """A role with fresh buffers: two roles never share one, so a step may donate."""
    params = jax.tree.map(jnp.array, params)
    return Role(params, tx.init(params))


def update(
    role: Role,
    tx: optax.GradientTransformation,
    loss_fn: Callable[..., tuple[jax.Array, Scalars]],
    *batched: Any,
    microbatches: int = 1,
    enabled: jax.Array | bool = True,
) -> tuple[Role, Scalars]:
    """One step of ``loss_fn(params, *batched) -> (scalar loss, metrics)``.

    A metric ``finite`` is the share of samples that the loss is a mean of; it is
    returned as ``broken``, the number of samples that are left out.

    ``microbatches``: of gradient accumulation (``accumulate.py``).
    ``enabled``: see ``apply``.
    """

    def gradient(*microbatch: Any) -> tuple[Any, jax.Array]:
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            role.params, *microbatch
        )
        share = metrics.get("finite", jnp.float32(1))
        return (loss, metrics, grads), share

    means, share = accumulate.mean_of_finite(microbatches, gradient, *batched)
    loss, metrics, grads = means
    role, guard = apply(role, tx, grads, loss, enabled)
    if "finite" in metrics:
        del metrics["finite"]
        guard["broken"] = broken(share, len(jax.tree.leaves(batched)[0]))
    return role, metrics | guard


def broken(share: jax.Array, size: int) -> jax.Array:
    """The number of samples out of ``size`` that are not finite."""
    return jnp.round((1.0 - share) * size)


def apply(
    role: Role,
    tx: optax.GradientTransformation,
    grads: Params,
    loss: jax.Array,
    enabled: jax.Array | bool = True,
) -> tuple[Role, Scalars]:
    """Apply gradients unless they, or the loss, are not finite.

    ``enabled`` False leaves the role unchanged without counting as skipped (warm-up of
    the other roles). Returns metrics ``grad_norm`` and ``skipped``.
    """
    norm = optax.global_norm(grads)
    finite = jnp.isfinite(norm) & jnp.isfinite(loss)

    role = Role(role.params, _on_device(role.opt))
    updates, opt = tx.update(grads, role.opt, role.params)
    new_params: Any = optax.apply_updates(role.params, updates)  # of the tree of params
    new_role = Role(new_params, opt)
    # A select fuses into the update and runs in the donated buffers; a lax.cond would
    # need a copy of the role.
    take_update = finite & jnp.asarray(enabled)
    role = jax.tree.map(
        lambda new, old: jnp.where(take_update, new, old), new_role, role
    )
    skipped = (~finite & jnp.asarray(enabled)).astype(jnp.float32)
    return role, {"grad_norm": norm, "skipped": skipped}


def _on_device(opt: optax.OptState) -> optax.OptState:
    """Optimiser state with moments in host memory copied to the device."""
    device, host = jax.memory.Space.Device, jax.memory.Space.Host

    def fetch(x: jax.Array) -> jax.Array:
        return jax.device_put(x, device) if jax.typeof(x).memory_space == host else x

    return jax.tree.map(fetch, opt)


def ema(average: Params, params: Params, decay: float, step: jax.Array) -> Params:
    """Exponential moving average; the decay of early steps is (1 + t) / (10 + t)."""
    # Otherwise the random start would stay in the average for 1 / (1 - decay) steps.
    step = step.astype(jnp.float32)
    rate = 1.0 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: a + rate * (p - a), average, params)


def named(prefix: str, metrics: Scalars) -> Scalars:
    """Metrics of one role: ``skipped_fake``, ``grad_norm_fake``, ``loss_fake``..."""
    return {f"{name}_{prefix}": value for name, value in metrics.items()}
