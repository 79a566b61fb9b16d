"""The device mesh: its axes, the text form of their sizes, and the batch's sharding.

    dcn    slices of a multi-slice job, joined by the data-centre network: batch only
    data   the batch
    fsdp   the batch, and the weights with their gradients and moments
    space  the height of pictures and maps; the partitioner exchanges their edges
    model  the heads, tokens and hidden channels of transformers (tensor parallelism)

An axis of size 1 costs nothing, so every mesh has all five. Text gives one size for
`fsdp`; above 64 it becomes two axes, `fsdp_outer` and `fsdp`, because few weights of
these networks have an axis that divides by more, and most have two that divide.
"""

import math
import re
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from gendr_jax.errors import UsageError

DCN, DATA, FSDP, SPACE, MODEL = "dcn", "data", "fsdp", "space", "model"
SPEC_AXES = (DCN, DATA, FSDP, SPACE, MODEL)  # the names in `config.mesh`
FSDP_OUTER = "fsdp_outer"
# Major to minor: the last axes are laid over neighbouring devices, which communicate
# fastest.
AXES = (
    DCN,
    DATA,
    FSDP_OUTER,
    FSDP,
    SPACE,
    MODEL,
)
BATCH_AXES = (DCN, DATA, FSDP_OUTER, FSDP)
MAX_FSDP = 64  # 320 = 5 * 64 is the narrowest width
EXAMPLE = 'Write it as "data=2,fsdp=4".'


def make_mesh(spec: str = "", devices: list[Any] | None = None) -> Mesh:
    """The mesh that `spec` describes, axes of type Auto.

    Args:
        spec: "data=2,fsdp=4"; an absent axis is 1, but for `dcn`, which is the number
            of slices; one size may be -1 (all remaining devices); "" puts all devices
            of a slice on `data`.
        devices: the devices to use, all of them; default `jax.devices()`.

    Raises:
        UsageError: unknown axis, bad size, or sizes that do not multiply to the number
            of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    sizes = mesh_sizes(spec, len(devices), slices)
    # Built by hand: the default axis type of jax.make_mesh changed once already.
    grid = _grid(tuple(sizes.values()), devices, slices)
    return Mesh(np.asarray(grid), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_sizes(spec: str, count: int, slices: int = 1) -> dict[str, int]:
    """The size of each of `AXES` that `spec` means for so many devices.

    Raises:
        UsageError: as `make_mesh`.
    """
    explicit = _axis_sizes(spec)
    if not explicit.keys() - {DCN}:
        explicit[DATA] = -1
    sizes = dict.fromkeys(SPEC_AXES, 1) | {DCN: slices} | explicit
    _fill(sizes, spec, count)
    if slices > 1 and sizes[DCN] % slices:
        raise UsageError(
            f"mesh {spec!r} has dcn={sizes[DCN]}, the devices are {slices} slices. "
            f"Leave dcn out, or give a multiple of {slices}."
        )
    # The inner axis is the largest power of two up to 64 that divides the size.
    inner = math.gcd(sizes[FSDP], MAX_FSDP)
    if sizes[FSDP] > MAX_FSDP:
        sizes |= {FSDP_OUTER: sizes[FSDP] // inner, FSDP: inner}
    return {name: sizes.get(name, 1) for name in AXES}


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is replicated on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis over all axes but space and model.

    Devices along those hold the same samples; pictures are split along `space` inside
    the step (`split_rows`), after the degradation, which needs all rows.
    """
    axes = tuple(name for name in BATCH_AXES if name in mesh.axis_names)
    return NamedSharding(mesh, PartitionSpec(axes))


def row_shards(mesh: Mesh | AbstractMesh) -> int:
    """Into how many shards a batch is split; its size must be a multiple."""
    return math.prod(mesh.shape[name] for name in BATCH_AXES if name in mesh.shape)


def data_share(mesh: Mesh) -> tuple[int, int]:
    """(index, count): which share of each global batch this process reads.

    Processes that hold the same rows (a `space` or `model` axis across hosts) read the
    same share.

    Raises:
        UsageError: the rows of two processes overlap without being equal.
    """
    axes = [mesh.axis_names.index(name) for name in AXES]
    grid = np.transpose(mesh.devices, axes).reshape(row_shards(mesh), -1)
    rows_of_process: dict[int, set[int]] = {}
    for row, devices in enumerate(grid):
        for device in devices:
            rows_of_process.setdefault(device.process_index, set()).add(row)
    # Processes with the same rows share one entry; different ones must not overlap.
    shares = sorted({tuple(sorted(rows)) for rows in rows_of_process.values()})
    if sum(map(len, shares)) != len(grid) or len({len(s) for s in shares}) > 1:
        raise UsageError(
            f"the mesh {dict(mesh.shape)} gives {len(rows_of_process)} processes "
            "overlapping rows of the batch. Let space x model divide the devices of a "
            "process, or be a multiple of them."
        )
    return shares.index(tuple(sorted(rows_of_process[jax.process_index()]))), len(
        shares
    )


def _axis_sizes(spec: str) -> dict[str, int]:
    """`"data=2,fsdp=4"` -> {"data": 2, "fsdp": 4}; absent axes are left out."""
    sizes: dict[str, int] = {}
    for entry in filter(None, (entry.strip() for entry in spec.split(","))):
        name, _, value = (s.strip() for s in entry.partition("="))
        if name not in SPEC_AXES:
            raise UsageError(
                f"mesh {spec!r} names the axis {name!r}, the axes are "
                f"{', '.join(SPEC_AXES[:-1])} and {SPEC_AXES[-1]}. {EXAMPLE}"
            )
        if name in sizes:
            raise UsageError(f"mesh {spec!r} gives {name} twice. Give it once.")
        if not re.fullmatch(r"-1|[1-9][0-9]*", value):
            raise UsageError(
                f"mesh {spec!r} gives {name} the size {value!r}. "
                "Give a positive number, or -1 for all remaining devices."
            )
        sizes[name] = int(value)
    return sizes


def _fill(sizes: dict[str, int], spec: str, count: int) -> None:
    """Replace a size of -1, and refuse sizes that do not multiply to `count`."""
    open_axes = [name for name in SPEC_AXES if sizes[name] == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(open_axes) > 1:
        raise UsageError(
            f"mesh {spec!r} gives {open_axes[0]} and {open_axes[1]} the size -1. Give "
            "one of them a number."
        )
    if (count % fixed if open_axes else count - fixed) != 0:
        raise UsageError(
            f"mesh {spec!r} needs {'a multiple of ' if open_axes else ''}{fixed} "
            f"devices, {count} are visible. Give sizes that multiply to {count}, or "
            "data=-1 for all remaining devices."
        )
    if open_axes:
        sizes[open_axes[0]] = count // fixed


def _grid(shape: tuple[int, ...], devices: list[Any], slices: int) -> np.ndarray:
    """Devices in the order that maps mesh axes to the network's topology."""
    if slices == 1:
        return mesh_utils.create_device_mesh(
            shape, devices=devices, allow_split_physical_axes=True
        )
    in_slice = (shape[0] // slices, *shape[1:])
    return mesh_utils.create_hybrid_device_mesh(
        in_slice,
        (slices, *(1 for _ in shape[1:])),
        devices=devices,
        allow_split_physical_axes=True,
    )
