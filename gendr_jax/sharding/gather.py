"""Moving arrays: weights made whole inside the step, pictures cut, hosts to devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gendr_jax.sharding.mesh import BATCH_AXES, MODEL, SPACE


def gather(params: Any, shardings: Any, dtype: Any) -> Any:
    """Weights as the networks use them: in `dtype`, whole but for the axis `model`.

    Called inside jit, at the top of a loss. The order matters: the cast is pinned to
    the weight's own shards before the constraint that makes it whole, so what travels
    between devices is `dtype` and not float32, and the partitioner never keeps a
    weight split and moves activations instead. What is split over `model` stays so: the
    products with it are split. The gradient comes back in the shards and the dtype of
    `params`.

    Args:
        params: tree of arrays; integer leaves keep their dtype.
        shardings: tree of NamedSharding, from `tree_shardings` of the same tree.
        dtype: dtype of computation.
    """
    dtype = jnp.dtype(dtype)

    def whole(x: jax.Array, sharding: NamedSharding) -> jax.Array:
        if jnp.issubdtype(x.dtype, jnp.floating):
            x = x.astype(dtype)
        if sharding.is_fully_replicated:
            return x
        x = jax.lax.with_sharding_constraint(x, sharding)
        used = NamedSharding(sharding.mesh, _kept(sharding.spec))
        return jax.lax.with_sharding_constraint(x, used)

    return jax.tree.map(whole, params, shardings)


def _kept(spec: PartitionSpec) -> PartitionSpec:
    """Of a weight's split what stays while it is used."""
    entries = [entry if isinstance(entry, tuple) else (entry,) for entry in spec]
    # Inside other axes, `model` would mean other rows or columns than alone.
    return PartitionSpec(*(MODEL if e[:1] == (MODEL,) else None for e in entries))


def split_rows(x_bhwc: jax.Array, mesh: Mesh) -> jax.Array:
    """Pictures with their height over `space`; as they are where that axis is 1.

    Called inside jit. What is computed from them stays cut: convolutions fetch the
    rows they need beyond the edge from the neighbour, norms sum over all parts.
    """
    if mesh.shape.get(SPACE, 1) == 1 or x_bhwc.shape[1] % mesh.shape[SPACE]:
        return x_bhwc
    axes = tuple(name for name in BATCH_AXES if name in mesh.axis_names)
    spec = NamedSharding(mesh, PartitionSpec(axes, SPACE))
    return jax.lax.with_sharding_constraint(x_bhwc, spec)


def place(tree: Any, shardings: Any) -> Any:
    """Host arrays, the same on every process, as global arrays.

    Args:
        tree: arrays, whole on each process.
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
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda i: host[i])

    return jax.tree.map(spread, tree, shardings)
