"""A function of one sample over a batch: one at a time, on every device its own.

What lives here: the loop and how it is split. A loop over samples lets a sample
branch for itself (`jax.vmap` would compute every branch), and its cost a sample does
not grow with the batch. XLA would gather a sharded batch in front of a loop, hence
the partitioning rule: the batch axis is split as it comes, no other axis is.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

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
    return split(jax.random.key_data(keys_b), hq_bhwc, sizes_b2)


def all_at_once(
    one: One, keys_b: jax.Array, hq_bhwc: jax.Array, sizes_b2: jax.Array
) -> jax.Array:
    """`one` of each sample, vectorised: where branches cost more than arithmetic."""
    return jnp.asarray(jax.vmap(one)(keys_b, hq_bhwc, sizes_b2))
