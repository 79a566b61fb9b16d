"""A function of one sample over a batch: one at a time, on every device its own.

A loop over samples lets a sample branch for itself (`jax.vmap` would compute every
branch), and its cost a sample does not grow with the batch. XLA would gather a sharded
batch in front of a loop. So where a mesh is current (`jax.set_mesh`) the batch is split
over all of it; elsewhere a partitioning rule splits it as it comes, which needs a
backend that knows such rules (compiling for a TPU that is not there does not) and keeps
a program of several devices out of JAX's persistent cache.
"""

from collections.abc import Callable

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AxisType, NamedSharding, PartitionSpec

One = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

RULE = "b k, b h w c, b s -> b p q c"


def one_at_a_time(
    one: One, keys_b: jax.Array, hq_bhwc: jax.Array, sizes_b2: jax.Array
) -> jax.Array:
    """`one` of each sample's key, picture and size, in a loop."""
    kind = jax.random.key_impl(keys_b)

    def local(words_bk: jax.Array, hq_bhwc: jax.Array, sizes_b2: jax.Array):
        keys_b = jax.random.wrap_key_data(words_bk, impl=kind)
        inputs = keys_b, hq_bhwc, sizes_b2
        if keys_b.shape[0] == 1:
            return one(*(x[0] for x in inputs))[None]
        return jax.lax.map(lambda x: one(*x), inputs)

    inputs = jax.random.key_data(keys_b), hq_bhwc, sizes_b2
    mesh = jax.sharding.get_abstract_mesh()
    is_auto = all(kind == AxisType.Auto for kind in mesh.axis_types)
    if not mesh.empty and is_auto and keys_b.shape[0] % mesh.size == 0:
        rows = PartitionSpec(mesh.axis_names)
        return jax.shard_map(local, in_specs=rows, out_specs=rows)(*inputs)
    return _split_as_it_comes(local)(*inputs)


def _split_as_it_comes(local: One) -> One:
    """A function of a batch, run on each device for the samples that lie there."""
    split = custom_partitioning(jax.jit(local))

    def partition(mesh, inputs, result):
        del result
        batch = inputs[1].sharding.spec[:1]
        by_batch = NamedSharding(mesh, PartitionSpec(*batch))
        return mesh, jax.jit(local), by_batch, (by_batch,) * len(inputs)

    def infer(mesh, inputs, shape):
        del shape
        return NamedSharding(mesh, PartitionSpec(*inputs[1].sharding.spec[:1]))

    split.def_partition(
        partition=partition, infer_sharding_from_operands=infer, sharding_rule=RULE
    )
    return split


def all_at_once(
    one: One, keys_b: jax.Array, hq_bhwc: jax.Array, sizes_b2: jax.Array
) -> jax.Array:
    """`one` of each sample, vectorised: where branches cost more than arithmetic."""
    return jax.vmap(one)(keys_b, hq_bhwc, sizes_b2)
