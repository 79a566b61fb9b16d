"""Moving arrays: weights gathered in the step, picture rows split, host to devices."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gendr_jax.sharding.mesh import BATCH_AXES, MODEL, SPACE


def gather(params: Any, shardings: Any, dtype: Any) -> Any:
    """All-gather weights for use: in `dtype`, replicated but for the axis `model`.

    Called inside jit, at the top of a loss. What is split over `model` stays split: so
    are the products with it. The gradient comes back in the shards and the dtype of
    `params`: reduced over `data`, scattered over the shards' axes.

    Args:
        params: tree of arrays; integer leaves keep their dtype.
        shardings: tree of NamedSharding, from `tree_shardings` of the same tree.
        dtype: dtype of computation.
    """
    dtype = jnp.dtype(dtype)

    def gathered(x: jax.Array, sharding: NamedSharding) -> jax.Array:
        if jnp.issubdtype(x.dtype, jnp.floating):
            x = x.astype(dtype)
        if sharding.is_fully_replicated:
            return x
        # Cast on the shards first, so that the all-gather moves `dtype`, not float32.
        return _all_gather(x, sharding)

    return jax.tree.map(gathered, params, shardings)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _all_gather(x: jax.Array, sharding: NamedSharding) -> jax.Array:
    # Without the second constraint the partitioner may keep the weight split and move
    # activations instead.
    x = jax.lax.with_sharding_constraint(x, sharding)
    return jax.lax.with_sharding_constraint(x, _in_use(sharding))


def _all_gather_forward(
    x: jax.Array, sharding: NamedSharding
) -> tuple[jax.Array, None]:
    return _all_gather(x, sharding), None


def _reduce_scatter(
    sharding: NamedSharding, _: None, gradient: jax.Array
) -> tuple[jax.Array]:
    # The transpose of the second constraint would give every device the complete
    # gradient: an all-reduce over all of the mesh, then a slice. To the shards at once
    # is a reduce-scatter over `fsdp` and an all-reduce of the shards over `data`.
    # Where `model` splits layers, a gradient is put together from pieces, and pieces in
    # shards would need an all-to-all: there it stays the transpose.
    if sharding.mesh.shape.get(MODEL, 1) > 1:
        gradient = jax.lax.with_sharding_constraint(gradient, _in_use(sharding))
    return (jax.lax.with_sharding_constraint(gradient, sharding),)


_all_gather.defvjp(_all_gather_forward, _reduce_scatter)


def _in_use(sharding: NamedSharding) -> NamedSharding:
    """The sharding of a weight in use: its `model` entries, all else replicated."""
    parts = sharding.spec
    entries = [entry if isinstance(entry, tuple) else (entry,) for entry in parts]
    # Only where `model` is the major axis of an entry: behind another axis its shards
    # are other rows or columns than when it stands alone.
    spec = PartitionSpec(*(MODEL if e[:1] == (MODEL,) else None for e in entries))
    return NamedSharding(sharding.mesh, spec)


def split_rows(x_bhwc: jax.Array, mesh: Mesh) -> jax.Array:
    """Constrain pictures to be split by rows over `space`; no change where it is 1.

    Called inside jit. What is computed from them stays split: the partitioner makes
    convolutions exchange halo rows with neighbours, and norms reduce over `space`.
    """
    if mesh.shape.get(SPACE, 1) == 1 or x_bhwc.shape[1] % mesh.shape[SPACE]:
        return x_bhwc
    axes = tuple(name for name in BATCH_AXES if name in mesh.axis_names)
    spec = NamedSharding(mesh, PartitionSpec(axes, SPACE))
    return jax.lax.with_sharding_constraint(x_bhwc, spec)


def place(tree: Any, shardings: Any) -> Any:
    """Host arrays, the same on every process, as global arrays.

    Args:
        tree: full arrays, equal on each process.
        shardings: tree of NamedSharding like `tree`, or one for all leaves.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)

    def spread(x: Any, sharding: NamedSharding) -> jax.Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = spread(jax.random.key_data(x), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        # device_put to devices of other processes would compare values across hosts.
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda i: host[i])

    return jax.tree.map(spread, tree, shardings)
