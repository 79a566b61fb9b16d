"""Gradient accumulation: a batch as microbatches in a scan, with the same results.

Microbatch i of n takes the rows i, i + n, i + 2n..., so that each device keeps the rows
that it holds. Losses are means over samples, so the mean over microbatches is the mean
of the batch; where samples that are not finite are left out, a microbatch is weighted
by its share of finite ones.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def rows_and_means(
    microbatches: int, fn: Callable[..., tuple[Any, Any]], *batched: Any
) -> Any:
    """fn(*batched) -> (rows, means), one microbatch at a time.

    Args:
        microbatches: their number, which must divide the batch; 1 calls `fn` directly.
        fn: trees with leading batch axes -> a tree whose leaves have the batch as their
            first axis, and a tree whose leaves are means over samples.
    """
    rows, means, _ = rows_and_finite_means(
        microbatches, lambda *microbatch: (*fn(*microbatch), jnp.float32(1)), *batched
    )
    return rows, means


def rows_and_finite_means(
    microbatches: int, fn: Callable[..., tuple[Any, Any, jax.Array]], *batched: Any
) -> tuple[Any, Any, jax.Array]:
    """(rows, means, share): as `rows_and_means`, with means over finite samples only.

    Args:
        fn: as for `rows_and_means`, and the share of samples that its means are of; a
            microbatch without any is left out, whatever its means are.
    """
    if microbatches == 1:
        return fn(*batched)
    stacked = _split(batched, microbatches)
    _, abstract_means, _ = jax.eval_shape(fn, *jax.tree.map(lambda x: x[0], stacked))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract_means)

    # Zeros where the share is 0: the means are NaN there, and 0 * NaN is NaN.
    def add(total: Any, microbatch: Any) -> tuple[Any, Any]:
        rows, means, share = fn(*microbatch)
        weighted = jax.tree.map(
            lambda x: jnp.where(share > 0, x * share.astype(x.dtype), 0), means
        )
        return jax.tree.map(jnp.add, total, (weighted, share)), rows

    (total, shares), rows = jax.lax.scan(add, (zero, jnp.float32(0)), stacked)
    means = jax.tree.map(lambda x: (x / shares).astype(x.dtype), total)
    return _join(rows), means, shares / microbatches


def mean(microbatches: int, fn: Callable[..., Any], *batched: Any) -> Any:
    """fn(*batched), where every output is a mean over samples."""
    return rows_and_means(
        microbatches, lambda *microbatch: ((), fn(*microbatch)), *batched
    )[1]


def mean_of_finite(
    microbatches: int, fn: Callable[..., tuple[Any, jax.Array]], *batched: Any
) -> tuple[Any, jax.Array]:
    """(means, share), where fn gives means over its finite samples, and their share."""
    with_rows = lambda *microbatch: ((), *fn(*microbatch))  # noqa: E731
    return rows_and_finite_means(microbatches, with_rows, *batched)[1:]


def rows(microbatches: int, fn: Callable[..., Any], *batched: Any) -> Any:
    """fn(*batched), where every output has the batch as its first axis, in order."""
    return rows_and_means(
        microbatches, lambda *microbatch: (fn(*microbatch), ()), *batched
    )[0]


def _split(batched: Any, microbatches: int) -> Any:
    def cut(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(-1, microbatches, *x.shape[1:]), 0, 1)

    return jax.tree.map(cut, batched)


def _join(stacked: Any) -> Any:
    """The inverse of `_cut`."""
    return jax.tree.map(
        lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), stacked
    )
