"""A batch in parts: gradients and outputs as those of the whole, memory of a part.

What lives here: cutting, averaging and joining. What does not: losses, updates.

Part i takes the rows i, i + parts, i + 2 parts... so that each device goes on with rows
that it holds already. Losses are means over samples, so the mean of the parts is the
mean of the batch; a sample that is left out because it is not finite gives its weight
to the rest of its part, not of the batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def mean(parts: int, fn: Callable[..., Any], *batched: Any) -> Any:
    """fn(*batched), where every output is a mean over samples.

    Args:
        parts: must divide the batch; 1 calls `fn` as it is.
        fn: trees of arrays with leading batch axes -> tree of arrays.
    """
    if parts == 1:
        return fn(*batched)
    pieces = _cut(batched, parts)
    like = jax.eval_shape(fn, *jax.tree.map(lambda x: x[0], pieces))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)

    def add(total: Any, piece: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, fn(*piece)), None

    total, _ = jax.lax.scan(add, zero, pieces)
    return jax.tree.map(lambda x: (x / parts).astype(x.dtype), total)


def rows(parts: int, fn: Callable[..., Any], *batched: Any) -> Any:
    """fn(*batched), where every output has the batch as its first axis, in order."""
    if parts == 1:
        return fn(*batched)
    outputs = jax.lax.map(lambda piece: fn(*piece), _cut(batched, parts))
    return jax.tree.map(
        lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), outputs
    )


def _cut(batched: Any, parts: int) -> Any:
    def cut(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1)

    return jax.tree.map(cut, batched)
