"""Tensor and sequence parallelism of transformers over the mesh axis `model`.

Norms, residuals, projections and cross-attention are split by tokens. Self-attention
and feed-forward gather all tokens and are split by heads, or by hidden channels.

The sum over devices and the split by tokens are one reduce-scatter; with the all-gather
before it, it sends as much as the all-reduce of tensor parallelism without a split by
tokens. A split whose size does not divide is left out. Without the axis, and inside a
shard_map over it, these functions change nothing.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator

import jax
from jax.sharding import PartitionSpec

# Names of mesh axes (sharding/mesh.py), used if a mesh is current.
MODEL, SPACE = "model", "space"
_ANY = PartitionSpec.UNCONSTRAINED


_unused = contextvars.ContextVar("_unused", default=False)


@contextlib.contextmanager
def used(split: bool) -> Iterator[None]:
    """While tracing the block: whether `model` splits transformers (default: yes)."""
    token = _unused.set(not split)
    try:
        yield
    finally:
        _unused.reset(token)


def axis_size() -> int:
    """Number of devices over which `model` splits; 1: nothing is split."""
    return 1 if _unused.get() else _size(MODEL)


def divides(count: int) -> bool:
    """Whether the size of `model` divides `count`."""
    return count % axis_size() == 0


def some_tokens(x_blc: jax.Array) -> jax.Array:
    """Split tokens over `space` and `model`; if they do not divide, `all_tokens`."""
    if axis_size() == 1 or x_blc.shape[1] % (_size(SPACE) * axis_size()):
        return all_tokens(x_blc)
    token_axes = (SPACE, MODEL) if _size(SPACE) > 1 else MODEL
    return _constrained(x_blc, _ANY, token_axes, None)


def all_tokens(x_blc: jax.Array) -> jax.Array:
    """Replicate tokens over `model`; over `space` they are split as pictures are."""
    if axis_size() == 1:
        return x_blc
    is_split = _size(SPACE) > 1 and x_blc.shape[1] % _size(SPACE) == 0
    return _constrained(x_blc, _ANY, SPACE if is_split else None, None)


def gather_tokens(x_blc: jax.Array) -> jax.Array:
    """`all_tokens`, whose gradient is `some_tokens`."""
    return x_blc if axis_size() == 1 else _gathered(x_blc)


def scatter_tokens(x_blc: jax.Array) -> jax.Array:
    """`some_tokens`, whose gradient is `all_tokens`."""
    return x_blc if axis_size() == 1 else _scattered(x_blc)


# A sharding constraint is its own transpose, so the partitioner would communicate
# hidden channels and weights in the backward pass.
_gathered, _scattered = jax.custom_vjp(all_tokens), jax.custom_vjp(some_tokens)
_gathered.defvjp(lambda x: (all_tokens(x), None), lambda _, g: (some_tokens(g),))
_scattered.defvjp(lambda x: (some_tokens(x), None), lambda _, g: (all_tokens(g),))


def columns(kernel: jax.Array) -> jax.Array:
    """Split a kernel's outputs over `model`; its gradient is replicated again."""
    if axis_size() == 1 or not divides(kernel.shape[-1]):
        return kernel
    kernel = _constrained(kernel, *(None for _ in kernel.shape))
    return _constrained(kernel, *(None for _ in kernel.shape[1:]), MODEL)


def rows_once(convolve: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A convolution whose kernel gradient is right where `space` splits rows.

    With rows split over `space` and repeated over `model`, XLA's partitioner (0.10.2)
    sums the kernel's gradient over `model` too, and it is that many times too large.
    The gradient is therefore computed with the rows split over both, or over none.
    """
    if _size(SPACE) == 1 or _size(MODEL) == 1:
        return convolve
    return functools.partial(_rows_once, convolve)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rows_once(convolve, x_bhwc: jax.Array, kernel: jax.Array) -> jax.Array:
    return convolve(x_bhwc, kernel)


def _rows_once_forward(convolve, x_bhwc: jax.Array, kernel: jax.Array):
    return convolve(x_bhwc, kernel), (x_bhwc, kernel)


def _rows_once_backward(convolve, residuals, g_bhwc: jax.Array):
    x, kernel = residuals
    _, pull_x = jax.vjp(lambda x: convolve(x, kernel), x)
    both = _size(SPACE) * _size(MODEL)
    divide = x.shape[1] % both == g_bhwc.shape[1] % both == 0
    row_axes = (SPACE, MODEL) if divide else None
    x, g = (_constrained(a, _ANY, row_axes, None, None) for a in (x, g_bhwc))
    _, pull_kernel = jax.vjp(lambda kernel: convolve(x, kernel), kernel)
    return *pull_x(g_bhwc), *pull_kernel(g)


_rows_once.defvjp(_rows_once_forward, _rows_once_backward)


def _size(name: str) -> int:
    mesh = jax.sharding.get_abstract_mesh()
    if name not in mesh.axis_names or name in mesh.manual_axes:
        return 1
    return mesh.shape[name]


def _constrained(x: jax.Array, *entries) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*entries))
