"""Means per sample and over a batch, without samples that are not finite.

Every function of `gendr_jax.losses` returns loss_b; the train step averages samples.
"""

import jax
import jax.numpy as jnp


def sample_mean(x: jax.Array) -> jax.Array:
    """Mean over every axis but the first: [B, ...] -> [B]."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def per_sample(x_b: jax.Array, ndim: int) -> jax.Array:
    """[B] -> [B, 1, ..., 1] with `ndim` axes."""
    return x_b.reshape(x_b.shape + (1,) * (ndim - 1))


def finite_weights(loss_b: jax.Array) -> jax.Array:
    """Weights of `finite_mean`: 1 / (number of finite samples), 0 for the others."""
    finite_b = jnp.isfinite(loss_b)
    count = jnp.maximum(jnp.sum(finite_b), 1)
    return finite_b.astype(loss_b.dtype) / count.astype(loss_b.dtype)


def finite_mean(loss_b: jax.Array) -> jax.Array:
    """Mean over the finite samples, NaN if there are none; no gradient to the others.

    A zero cotangent becomes NaN at a NaN in the backward pass (0 * NaN): a trained
    network must not get a broken sample at all (`replace_nonfinite`), and between it
    and the loss `finite_gradient` is needed.
    """
    finite_b = jnp.isfinite(loss_b)
    masked_b = jnp.where(finite_b, loss_b, jnp.zeros_like(loss_b))
    mean = jnp.sum(masked_b * jax.lax.stop_gradient(finite_weights(loss_b)))
    return jnp.where(jnp.any(finite_b), mean, jnp.nan)


def replace_nonfinite(*xs: jax.Array) -> tuple[jax.Array, ...]:
    """(finite_b, arrays): samples that are not finite in one array are 0 in all.

    For inputs, which need no gradient; `mark_nonfinite` then excludes these samples
    from the loss.
    """
    finite = [jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim))) for x in xs]
    finite_b = jnp.all(jnp.stack(finite), axis=0)
    cleaned = (jnp.where(per_sample(finite_b, x.ndim), x, 0) for x in xs)
    return finite_b, *(
        x.astype(original.dtype) for x, original in zip(cleaned, xs, strict=True)
    )


def mark_nonfinite(finite_b: jax.Array, loss_b: jax.Array) -> jax.Array:
    """loss_b, NaN where `replace_nonfinite` set 0, which `finite_mean` leaves out."""
    return jnp.where(finite_b, loss_b, jnp.nan)


def finite_share(loss_b: jax.Array) -> jax.Array:
    """The share of samples that `finite_mean` averages."""
    return jnp.mean(jnp.isfinite(loss_b).astype(jnp.float32))


def zero_nonfinite(x: jax.Array) -> jax.Array:
    """x with every sample (first axis) that has a NaN or infinity set to zero."""
    finite_b = jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim)))
    return jnp.where(per_sample(finite_b, x.ndim), x, jnp.zeros_like(x))


@jax.custom_vjp
def finite_gradient(x: jax.Array) -> jax.Array:
    """Identity; its gradient is dropped for samples where it is not finite.

    Applied to z_g, a generator step survives a NaN of a score network or a target in
    one sample. A NaN inside the generator itself makes the weights' gradient NaN, and
    the train step must skip the update.
    """
    return x


def _finite_gradient_fwd(x: jax.Array) -> tuple[jax.Array, None]:
    return x, None


def _finite_gradient_bwd(_: None, cotangent: jax.Array) -> tuple[jax.Array]:
    return (zero_nonfinite(cotangent),)


finite_gradient.defvjp(_finite_gradient_fwd, _finite_gradient_bwd)
