"""Hashes of arrays that do not depend on how the arrays are spread over devices.

What lives here: one digest per array, computed where the array lives, and one hash
over all of them. What does not: files, checkpoints.

The digest of an array is two sums, modulo 2^32, of its words times odd multipliers
drawn from the position of each word. Sums do not depend on order, so neither mesh nor
sharding shows; an odd multiplier has an inverse, so a change of one word always does.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from gendr_jax.sharding import path_name, replicated

_SEEDS = (0x9E3779B9, 0x85EBCA6B)


def _words(x: jax.Array) -> jax.Array:
    """The bits of `x` as uint32; one word an element (two for 8-byte dtypes)."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    bits = jnp.dtype(x.dtype).itemsize * 8
    unsigned = jnp.dtype(f"uint{min(bits, 32)}")
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    """The finalizer of MurmurHash3: every bit of the result depends on all of `x`."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _digest(x: jax.Array) -> jax.Array:
    """[hash, hash, number of values that are not finite] as uint32."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    strange = jnp.uint32(0)
    if jnp.issubdtype(x.dtype, jnp.inexact):
        strange = jnp.sum(~jnp.isfinite(x), dtype=jnp.uint32)
    words = _words(x)
    # The linear index by its axes: a reshape would gather a sharded array.
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        index = index * jnp.uint32(size) + place
    sums = [
        jnp.sum(words * (_mix(index ^ jnp.uint32(seed)) | 1), dtype=jnp.uint32)
        for seed in _SEEDS
    ]
    return jnp.stack([*sums, strange])


@lru_cache(maxsize=8)
def _compiled(mesh: jax.sharding.Mesh | None) -> Any:
    # Every process reads the result, so it must be whole on each.
    return jax.jit(_digest, out_shardings=None if mesh is None else replicated(mesh))


def digests(tree: Any) -> dict[str, tuple[str, int]]:
    """{path: (16 hexadecimal digits, number of values that are not finite)}.

    One compilation a distinct shape, one transfer for the whole tree. Equal for equal
    values and dtypes whatever the mesh; dtype and shape themselves are not hashed.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    found = {}
    for path, leaf in leaves:
        placed = getattr(leaf, "sharding", None)
        mesh = placed.mesh if isinstance(placed, NamedSharding) else None
        found[path_name(path)] = _compiled(mesh)(leaf)
    return {
        name: (f"{int(words[0]):08x}{int(words[1]):08x}", int(words[2]))
        for name, words in jax.device_get(found).items()
    }


def describe_arrays(tree: Any) -> dict[str, list[Any]]:
    """{path: [shape, dtype]} of arrays or ShapeDtypeStructs, in plain JSON types."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        path_name(path): [list(np.shape(leaf)), str(leaf.dtype)]
        for path, leaf in leaves
    }


def combine(entries: Mapping[str, Any]) -> str:
    """One hash (32 hexadecimal digits) over named entries, whatever their order."""
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def fingerprint(tree: Any) -> str:
    """One hash over the path, shape, dtype and value of every array of `tree`."""
    hashes = digests(tree)
    kinds = describe_arrays(tree)
    return combine({name: [*kinds[name], hashes[name][0]] for name in kinds})
