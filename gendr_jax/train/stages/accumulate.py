"""A batch in parts: gradients and outputs as those of the whole, memory of a part.

Part i takes the rows i, i + parts, i + 2 parts... so that each device goes on with rows
that it holds already. Losses are means over samples, so the mean of the parts is the
mean of the batch; a sample that is left out because it is not finite gives its weight
to the rest of its part, not of the batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def both(parts: int, fn: Callable[..., tuple[Any, Any]], *batched: Any) -> Any:
    """fn(*batched) -> (rows, means), a part of the batch at a time.

    Args:
        parts: must divide the batch; 1 calls `fn` as it is.
        fn: trees with leading batch axes -> a tree whose leaves have the batch as their
            first axis, and a tree whose leaves are means over samples.
    """
    if parts == 1:
        return fn(*batched)
    pieces = _cut(batched, parts)
    _, like = jax.eval_shape(fn, *jax.tree.map(lambda x: x[0], pieces))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)

    def add(total: Any, piece: Any) -> tuple[Any, Any]:
        rows, means = fn(*piece)
        return jax.tree.map(jnp.add, total, means), rows

    total, rows = jax.lax.scan(add, zero, pieces)
    return _join(rows), jax.tree.map(lambda x: (x / parts).astype(x.dtype), total)


def mean(parts: int, fn: Callable[..., Any], *batched: Any) -> Any:
    """fn(*batched), where every output is a mean over samples."""
    return both(parts, lambda *piece: ((), fn(*piece)), *batched)[1]


def rows(parts: int, fn: Callable[..., Any], *batched: Any) -> Any:
    """fn(*batched), where every output has the batch as its first axis, in order."""
    return both(parts, lambda *piece: (fn(*piece), ()), *batched)[0]


def _cut(batched: Any, parts: int) -> Any:
    def cut(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1)

    return jax.tree.map(cut, batched)


def _join(pieces: Any) -> Any:
    """The inverse of `_cut`."""
    return jax.tree.map(
        lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), pieces
    )
