"""The manifest of a checkpoint: what it holds, said in plain JSON.

What lives here: how a manifest is made, summed up, and compared with a state. What
does not: reading and writing it (`checkpoint.py`), digests (`fingerprint.py`).
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gendr_jax.errors import UsageError
from gendr_jax.weights.fingerprint import combine, describe_arrays, digests

_SHOWN = 8  # names in a message before "and N more"

Meta = Mapping[str, Any]


def make(step: int, state: Any, clock: Meta, meta: Meta) -> dict[str, Any]:
    """The manifest of `state`: arrays {path: [shape, dtype, digest]} and the rest.

    Raises:
        FloatingPointError: some array is not finite.
    """
    hashes, kinds = digests(state), describe_arrays(state)
    strange = [name for name, (_, count) in hashes.items() if count]
    if strange:
        raise FloatingPointError(f"not finite: {some(strange)}")
    arrays = {name: [*kinds[name], hashes[name][0]] for name in kinds}
    return {
        "step": step,
        "arrays": arrays,
        "clock": dict(clock),
        "meta": dict(meta),
        "fingerprint": whole(arrays, clock),
    }


def whole(arrays: Meta, clock: Meta) -> str:
    """The fingerprint: one hash over every array and what decides how to go on."""
    return combine({"arrays": arrays, "clock": clock})


def wrong(arrays: Meta, tree: Any) -> list[str]:
    """The paths whose value in `tree` is not the one of the manifest."""
    found = digests(tree)
    return [name for name in arrays if found.get(name, ("",))[0] != arrays[name][2]]


def abstract_arrays(arrays: Meta) -> dict[str, jax.ShapeDtypeStruct]:
    """{path: what to read it as}, whole on one device: needs no class, no mesh."""
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    key = jax.eval_shape(lambda: jax.random.key(0)).dtype
    return {
        name: jax.ShapeDtypeStruct(
            tuple(shape), key if dtype == str(key) else np.dtype(dtype), sharding=one
        )
        for name, (shape, dtype, _) in arrays.items()
    }


def summary(manifest: Meta) -> dict[str, Any]:
    """What `gendr inspect` shows; a role is a first part of a path."""
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
    """Raise UsageError with every name, shape and dtype in which they differ."""
    saved = {name: entry[:2] for name, entry in arrays.items()}
    wanted = describe_arrays(abstract)
    parts = []
    for title, names in (
        ("missing", sorted(wanted.keys() - saved.keys())),
        ("unexpected", sorted(saved.keys() - wanted.keys())),
    ):
        if names:
            parts.append(f"{title} {some(names)}")
    differ = [
        f"{name} is {_kind(saved[name])}, now {_kind(wanted[name])}"
        for name in sorted(saved.keys() & wanted.keys())
        if saved[name] != wanted[name]
    ]
    if differ:
        parts.append(some(differ))
    if parts:
        raise UsageError(
            f"checkpoint {step} does not fit this configuration: {'; '.join(parts)}. "
            "Give the configuration that made it, or an empty --workdir."
        )


def some(names: list[str]) -> str:
    """The first few names of a list that may be long."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _kind(entry: list[Any]) -> str:
    shape, dtype = entry
    return f"{dtype}{shape}"
