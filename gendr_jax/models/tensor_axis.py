"""The mesh axis `model` inside a transformer: which device has which part of it.

Between the products of attention and feed-forward each device has some of the tokens:
there it norms, adds, projects and looks at the prompt. Self-attention and feed-forward
need all tokens and give each device some of the heads, or of the hidden channels.

A sum over the parts and the return to tokens are one reduce-scatter; with the gather
before it, it sends as much as the all-reduce of a transformer whose tokens are whole
everywhere. Where a size does not divide, that split is left out. Without the axis, and
inside a shard_map over it, nothing here changes anything.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
from jax.sharding import PartitionSpec

# Names of mesh axes, should a mesh be current (sharding/mesh.py).
MODEL, SPACE = "model", "space"
_ANY = PartitionSpec.UNCONSTRAINED


_unused = contextvars.ContextVar("_unused", default=False)


@contextlib.contextmanager
def used(split: bool) -> Iterator[None]:
    """While tracing: whether `model` splits anything; it does where nobody says."""
    before = _unused.set(not split)
    try:
        yield
    finally:
        _unused.reset(before)


def parts() -> int:
    """Over how many devices `model` splits; 1 where there is nothing to do."""
    return 1 if _unused.get() else _size(MODEL)


def divides(count: int) -> bool:
    """Whether `model` splits so many things evenly."""
    return count % parts() == 0


def some_tokens(x_blc: jax.Array) -> jax.Array:
    """Tokens over `space` and `model`; where they do not divide, `all_tokens`."""
    if parts() == 1 or x_blc.shape[1] % (_size(SPACE) * parts()):
        return all_tokens(x_blc)
    tall = (SPACE, MODEL) if _size(SPACE) > 1 else MODEL
    return _constrained(x_blc, _ANY, tall, None)


def all_tokens(x_blc: jax.Array) -> jax.Array:
    """Tokens whole along `model`, and over `space` as the pictures are."""
    if parts() == 1:
        return x_blc
    tall = _size(SPACE) > 1 and x_blc.shape[1] % _size(SPACE) == 0
    return _constrained(x_blc, _ANY, SPACE if tall else None, None)


def gather_tokens(x_blc: jax.Array) -> jax.Array:
    """`all_tokens`, whose gradient comes back as `some_tokens`."""
    return x_blc if parts() == 1 else _gathered(x_blc)


def scatter_tokens(x_blc: jax.Array) -> jax.Array:
    """`some_tokens`, whose gradient comes back as `all_tokens`."""
    return x_blc if parts() == 1 else _scattered(x_blc)


# A constraint alone is its own transpose, and the partitioner would then move hidden
# channels and weights in the backward pass.
_gathered, _scattered = jax.custom_vjp(all_tokens), jax.custom_vjp(some_tokens)
_gathered.defvjp(lambda x: (all_tokens(x), None), lambda _, g: (some_tokens(g),))
_scattered.defvjp(lambda x: (some_tokens(x), None), lambda _, g: (all_tokens(g),))


def columns(kernel: jax.Array) -> jax.Array:
    """A kernel's outputs over `model`, its gradient whole again."""
    if parts() == 1 or not divides(kernel.shape[-1]):
        return kernel
    kernel = _constrained(kernel, *(None for _ in kernel.shape))
    return _constrained(kernel, *(None for _ in kernel.shape[1:]), MODEL)


def _size(name: str) -> int:
    mesh = jax.sharding.get_abstract_mesh()
    if name not in mesh.axis_names or name in mesh.manual_axes:
        return 1
    return mesh.shape[name]


def _constrained(x: jax.Array, *entries) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*entries))
