"""Where arrays live: the mesh, the rule that places weights, and the gather helper.

What lives here: two mesh axes, `data` and `fsdp`, and functions from trees to
shardings. What does not: models (they never import `jax.sharding`), the step, files.

One rule serves weights, gradients, optimizer moments and averages, because it looks
only at paths and shapes: leaves of equal shape are always placed alike.
"""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gendr_jax.errors import UsageError

DATA, FSDP = "data", "fsdp"
AXES = (DATA, FSDP)
# Restoring splits batches over `data` and the rows of each picture over `space`.
RESTORE_AXES = (DATA, "space")

# Below this many elements an array is replicated: a gather costs more than it saves.
MIN_SHARDED_SIZE = 4096

# (pattern searched in the path, spec), the first match decides; others fall to FSDP.
Rules = tuple[tuple[str, PartitionSpec], ...]
RULES: Rules = (
    # Read whole by every sample of the batch.
    (r"(^|/)prompt", PartitionSpec()),
)


def _axis_sizes(spec: str, axes: tuple[str, ...]) -> dict[str, int]:
    """`"data=2,fsdp=4"` -> {"data": 2, "fsdp": 4}; absent axes are left out."""
    sizes: dict[str, int] = {}
    for part in filter(None, (p.strip() for p in spec.split(","))):
        name, _, value = (s.strip() for s in part.partition("="))
        if name not in axes:
            raise UsageError(
                f"mesh {spec!r} names the axis {name!r}, the axes are "
                f"{' and '.join(axes)}. "
                f'Write it as "{axes[0]}=2,{axes[1]}=4".'
            )
        if name in sizes:
            raise UsageError(f"mesh {spec!r} gives {name} twice. Give it once.")
        if not re.fullmatch(r"-1|[1-9][0-9]*", value):
            raise UsageError(
                f"mesh {spec!r} gives {name} the size {value!r}. "
                "Give a positive number, or -1 for the devices that are left."
            )
        sizes[name] = int(value)
    return sizes


def make_mesh(
    spec: str = "",
    devices: list[Any] | None = None,
    *,
    axes: tuple[str, ...] = AXES,
) -> Mesh:
    """The mesh that `spec` describes, axes of type Auto.

    Args:
        spec: "data=2,fsdp=4"; an absent axis is 1; one size may be -1 (the devices
            that are left); "" puts all devices on `data`.
        devices: the devices to use, all of them; default `jax.devices()`.
        axes: names, `data` first: AXES for training, RESTORE_AXES for restoring.

    Raises:
        UsageError: unknown axis, bad size, or sizes that do not multiply to the number
            of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = dict.fromkeys(axes, 1) | (_axis_sizes(spec, axes) or {DATA: -1})
    open_axes = [name for name in axes if sizes[name] == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    count = len(devices)
    if len(open_axes) > 1:
        raise UsageError(
            f"mesh {spec!r} leaves two axes open. Give one of them a size."
        )
    if (count % fixed if open_axes else count - fixed) != 0:
        raise UsageError(
            f"mesh {spec!r} needs {'a multiple of ' if open_axes else ''}{fixed} "
            f"devices, {count} are visible. Give sizes that multiply to {count}, or "
            "data=-1 for the devices that are left."
        )
    if open_axes:
        sizes[open_axes[0]] = count // fixed
    shape = tuple(sizes[name] for name in axes)
    grid = mesh_utils.create_device_mesh(
        shape, devices=devices, allow_split_physical_axes=True
    )
    # Built by hand: the default axis type of jax.make_mesh changed once already.
    return Mesh(np.asarray(grid), axes, axis_types=(AxisType.Auto,) * len(axes))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis over all devices of the mesh."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def path_name(path: tuple[Any, ...]) -> str:
    """A key path of jax.tree_util as `student/params/conv_in/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _fsdp_spec(shape: tuple[int, ...], parts: int, min_size: int) -> PartitionSpec:
    """Split the largest axis that `parts` divides (the last of equals), or none."""
    if parts == 1 or math.prod(shape) < min_size:
        return PartitionSpec()
    fits = [(size, axis) for axis, size in enumerate(shape) if size % parts == 0]
    if not fits:
        return PartitionSpec()
    _, axis = max(fits)
    return PartitionSpec(*(None,) * axis, FSDP)


def tree_shardings(
    tree: Any,
    mesh: Mesh,
    *,
    rules: Rules = RULES,
    min_size: int = MIN_SHARDED_SIZE,
) -> Any:
    """A tree like `tree` whose leaves are the shardings of its arrays.

    A leaf takes the spec of the first rule whose pattern is found in its path. Without
    one, its largest axis divisible by the size of `fsdp` is split over `fsdp` when the
    array has at least `min_size` elements; all others are replicated. (The rule of
    big_vision, sharding.py.)

    Args:
        tree: arrays or ShapeDtypeStructs.
        mesh: from `make_mesh`.
        rules: ordered pairs of a regular expression and a PartitionSpec.
        min_size: in elements.
    """

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = path_name(path)
        for pattern, spec in rules:
            if re.search(pattern, name):
                return NamedSharding(mesh, spec)
        return NamedSharding(mesh, _fsdp_spec(leaf.shape, mesh.shape[FSDP], min_size))

    return jax.tree_util.tree_map_with_path(place, tree)


def gather(params: Any, shardings: Any, dtype: Any) -> Any:
    """Weights as the networks use them: in `dtype`, whole on every device.

    Called inside jit, at the top of a loss. The order matters: the cast is pinned to
    the weight's own shards before the constraint that makes it whole, so what travels
    between devices is `dtype` and not float32, and the partitioner never keeps a
    weight split and moves activations instead. The gradient comes back in the shards
    and the dtype of `params`.

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
        return jax.lax.with_sharding_constraint(x, replicated(sharding.mesh))

    return jax.tree.map(whole, params, shardings)


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
