"""The manifest of a checkpoint: shape, dtype and hash of every array, as JSON."""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from gendr_jax.errors import UsageError
from gendr_jax.sharding import path_name, replicated

_SHOWN = 8  # names in a message before "and N more"

Meta = Mapping[str, Any]


def make(step: int, state: Any, clock: Meta, meta: Meta) -> dict[str, Any]:
    """The manifest of `state`: arrays {path: [shape, dtype, digest]} and the rest.

    Raises:
        FloatingPointError: some array is not finite.
    """
    hashes, shapes = digests(state), describe_arrays(state)
    not_finite = [name for name, (_, count) in hashes.items() if count]
    if not_finite:
        raise FloatingPointError(f"not finite: {first_few(not_finite)}")
    arrays = {name: [*shapes[name], hashes[name][0]] for name in shapes}
    return {
        "step": step,
        "arrays": arrays,
        "clock": dict(clock),
        "meta": dict(meta),
        "fingerprint": fingerprint_of(arrays, clock),
    }


def fingerprint_of(arrays: Meta, clock: Meta) -> str:
    """The fingerprint: one hash over every array and the clock of the run."""
    return combine({"arrays": arrays, "clock": clock})


def wrong(arrays: Meta, tree: Any) -> list[str]:
    """The paths whose value in `tree` is not the one of the manifest."""
    actual = digests(tree)
    return [name for name in arrays if actual.get(name, ("",))[0] != arrays[name][2]]


def abstract_arrays(arrays: Meta) -> dict[str, jax.ShapeDtypeStruct]:
    """{path: abstract array on one device}, to read without state classes or mesh."""
    one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    key = jax.eval_shape(lambda: jax.random.key(0)).dtype
    return {
        name: jax.ShapeDtypeStruct(
            tuple(shape),
            key if dtype == str(key) else np.dtype(dtype),
            sharding=one_device,
        )
        for name, (shape, dtype, _) in arrays.items()
    }


def summary(manifest: Meta) -> dict[str, Any]:
    """What `gendr inspect` shows; a role is the first component of a path."""
    roles: dict[str, dict[str, int]] = {}
    total = 0
    for name, (shape, _, _) in manifest["arrays"].items():
        size = int(np.prod(shape))
        total += size
        role, inside, _ = name.partition("/")
        if inside:
            counts = roles.setdefault(role, {"arrays": 0, "elements": 0})
            counts["arrays"] += 1
            counts["elements"] += size
    return {
        "step": manifest["step"],
        "roles": roles,
        "parameters": total,
        "dtypes": sorted({dtype for _, dtype, _ in manifest["arrays"].values()}),
        "fingerprint": manifest["fingerprint"],
        "config": manifest["meta"].get("config", {}),
    }


def check_like(arrays: Mapping[str, Any], abstract: Any, step: int) -> None:
    """Raise UsageError with every name, shape and dtype that differs."""
    saved = {name: entry[:2] for name, entry in arrays.items()}
    expected = describe_arrays(abstract)
    problems = []
    for title, names in (
        ("missing", sorted(expected.keys() - saved.keys())),
        ("unexpected", sorted(saved.keys() - expected.keys())),
    ):
        if names:
            problems.append(f"{title} {first_few(names)}")
    differing = [
        f"{name} is {_entry(saved[name])}, now {_entry(expected[name])}"
        for name in sorted(saved.keys() & expected.keys())
        if saved[name] != expected[name]
    ]
    if differing:
        problems.append(first_few(differing))
    if problems:
        raise UsageError(
            f"checkpoint {step} does not fit this configuration: "
            f"{'; '.join(problems)}. Give the configuration that made it, or an empty "
            "--workdir."
        )


def first_few(names: list[str]) -> str:
    """The first few names of a list that may be long."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _entry(shape_and_dtype: list[Any]) -> str:
    shape, dtype = shape_and_dtype
    return f"{dtype}{shape}"


_SEEDS = (0x9E3779B9, 0x85EBCA6B)


def _words(x: jax.Array) -> jax.Array:
    """The bits of `x` as uint32; one word an element (two for 8-byte dtypes)."""
    if x.dtype == jnp.bool_:  # which bitcast_convert_type does not take
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
    not_finite = jnp.uint32(0)
    if jnp.issubdtype(x.dtype, jnp.inexact):
        not_finite = jnp.sum(~jnp.isfinite(x), dtype=jnp.uint32)
    words = _words(x)
    # A weight by position, so that swapped values change the hash; the sum is of
    # integers, so it is the same in any order and on any mesh. The linear index is made
    # axis by axis: a reshape would gather a sharded array.
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        position = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        index = index * jnp.uint32(size) + position
    sums = [
        jnp.sum(words * (_mix(index ^ jnp.uint32(seed)) | 1), dtype=jnp.uint32)
        for seed in _SEEDS
    ]
    return jnp.stack([*sums, not_finite])


@lru_cache(maxsize=8)
def _compiled(mesh: jax.sharding.Mesh | None) -> Any:
    # Every process reads the result, so it must be replicated.
    return jax.jit(_digest, out_shardings=None if mesh is None else replicated(mesh))


def digests(tree: Any) -> dict[str, tuple[str, int]]:
    """{path: (16 hexadecimal digits, number of values that are not finite)}.

    One compilation a distinct shape, one transfer for the whole tree. Equal for equal
    values and dtypes whatever the mesh; dtype and shape themselves are not hashed.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    hashes = {}
    for path, leaf in leaves:
        array_sharding = getattr(leaf, "sharding", None)
        mesh = (
            array_sharding.mesh if isinstance(array_sharding, NamedSharding) else None
        )
        hashes[path_name(path)] = digest = _compiled(mesh)(leaf)
        # CPU devices share a pool of threads: with many programs in flight, all of them
        # may wait in collectives for devices that no thread is left to run.
        if mesh is not None and mesh.devices.flat[0].platform == "cpu":
            digest.block_until_ready()
    return {
        name: (f"{int(words[0]):08x}{int(words[1]):08x}", int(words[2]))
        for name, words in jax.device_get(hashes).items()
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
    shapes = describe_arrays(tree)
    return combine({name: [*shapes[name], hashes[name][0]] for name in shapes})
