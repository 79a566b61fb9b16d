"""Map a function of one sample over a batch, each device over its own samples.

A loop over samples lets each take its own branch (`jax.vmap` would compute every
branch), and its cost a sample does not grow with the batch. But XLA would all-gather a
sharded batch before a loop. So under `jax.set_mesh` the batch is split over the mesh by
`shard_map`; elsewhere `custom_partitioning` keeps the sharding of the operands. That
needs a backend that runs partitioning callbacks (ahead-of-time compilation for an
absent TPU does not) and excludes programs of several devices from JAX's persistent
compilation cache.
"""

from collections.abc import Callable

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AxisType, NamedSharding, PartitionSpec

SampleFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

RULE = "b k, b h w c, b s -> b p q c"


def loop_over_samples(
    sample_fn: SampleFn, keys_b: jax.Array, hq_bhwc: jax.Array, sizes_b2: jax.Array
) -> jax.Array:
    """`sample_fn` of each sample's key, picture and size, in a loop."""
    key_impl = jax.random.key_impl(keys_b)

    def local(words_bk: jax.Array, hq_bhwc: jax.Array, sizes_b2: jax.Array):
        keys_b = jax.random.wrap_key_data(words_bk, impl=key_impl)
        inputs = keys_b, hq_bhwc, sizes_b2
        if keys_b.shape[0] == 1:
            return sample_fn(*(x[0] for x in inputs))[None]
        return jax.lax.map(lambda x: sample_fn(*x), inputs)

    inputs = jax.random.key_data(keys_b), hq_bhwc, sizes_b2
    mesh = jax.sharding.get_abstract_mesh()
    is_auto = all(axis == AxisType.Auto for axis in mesh.axis_types)
    if not mesh.empty and is_auto and keys_b.shape[0] % mesh.size == 0:
        rows = PartitionSpec(mesh.axis_names)
        return jax.shard_map(local, in_specs=rows, out_specs=rows)(*inputs)
    return _split_by_operands(local)(*inputs)


def _split_by_operands(local: SampleFn) -> SampleFn:
    """`local` on each device for its own samples, by the sharding of the operands."""
    partitioned = custom_partitioning(jax.jit(local))

    def partition(mesh, operands, result):
        del result
        batch = operands[1].sharding.spec[:1]
        by_batch = NamedSharding(mesh, PartitionSpec(*batch))
        return mesh, jax.jit(local), by_batch, (by_batch,) * len(operands)

    def infer(mesh, operands, shape):
        del shape
        return NamedSharding(mesh, PartitionSpec(*operands[1].sharding.spec[:1]))

    partitioned.def_partition(
        partition=partition, infer_sharding_from_operands=infer, sharding_rule=RULE
    )
    return partitioned


def vmap_samples(
    sample_fn: SampleFn, keys_b: jax.Array, hq_bhwc: jax.Array, sizes_b2: jax.Array
) -> jax.Array:
    """`sample_fn` by `jax.vmap`, where branches cost more than arithmetic.

    In the caller's `shard_map` in a loop: jax 0.10.2 does not batch jitted stages whose
    operands differ between devices.
    """
    if AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types:
        inputs = keys_b, hq_bhwc, sizes_b2
        return jax.lax.map(lambda sample: sample_fn(*sample), inputs)
    return jax.vmap(sample_fn)(keys_b, hq_bhwc, sizes_b2)
