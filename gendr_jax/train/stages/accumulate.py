"""A batch in parts: gradients and outputs as those of the whole, memory of a part.

Part i takes the rows i, i + parts, i + 2 parts... so that each device goes on with rows
that it holds already. Losses are means over samples, so the mean of the parts is the
mean of the batch; where samples are left out because they are not finite, a part counts
by the share of those that are not.
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
    found, means, _ = both_of_finite(
        parts, lambda *piece: (*fn(*piece), jnp.float32(1)), *batched
    )
    return found, means


def both_of_finite(
    parts: int, fn: Callable[..., tuple[Any, Any, jax.Array]], *batched: Any
) -> tuple[Any, Any, jax.Array]:
    """(rows, means, share): as `both`, of means over the finite samples alone.

    Args:
        fn: as for `both`, and the share of samples over which its means are taken; a
            part without any is left out, whatever its means are.
    """
    if parts == 1:
        return fn(*batched)
    pieces = _cut(batched, parts)
    _, like, _ = jax.eval_shape(fn, *jax.tree.map(lambda x: x[0], pieces))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)

    def add(total: Any, piece: Any) -> tuple[Any, Any]:
        rows, means, share = fn(*piece)
        kept = jax.tree.map(
            lambda x: jnp.where(share > 0, x * share.astype(x.dtype), 0), means
        )
        return jax.tree.map(jnp.add, total, (kept, share)), rows

    (total, shares), rows = jax.lax.scan(add, (zero, jnp.float32(0)), pieces)
    means = jax.tree.map(lambda x: (x / shares).astype(x.dtype), total)
    return _join(rows), means, shares / parts


def mean(parts: int, fn: Callable[..., Any], *batched: Any) -> Any:
    """fn(*batched), where every output is a mean over samples."""
    return both(parts, lambda *piece: ((), fn(*piece)), *batched)[1]


def mean_of_finite(
    parts: int, fn: Callable[..., tuple[Any, jax.Array]], *batched: Any
) -> tuple[Any, jax.Array]:
    """(means, share), where fn gives means over its finite samples, and their share."""
    with_rows = lambda *piece: ((), *fn(*piece))  # noqa: E731
    return both_of_finite(parts, with_rows, *batched)[1:]


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
