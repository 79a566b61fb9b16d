"""Collectives of a compiled program: kind, mesh axes, dtype, count and bytes.

Bytes are those of a collective's result on one device (tuples summed), times the trips
of the loops around it. `roofline.py` turns them into times.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gendr_jax.plan import hlo
from gendr_jax.plan.hlo import Computation, Instruction, Module, Runs

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
    "ragged-all-to-all",
    "collective-broadcast",
)
BETWEEN_SLICES = "dcn-"


@dataclass(frozen=True)
class Collective:
    """All collectives of one kind over the same axes in one dtype.

    `axes` are the mesh axes along which devices of one group differ, in mesh order;
    `group` is the number of devices in a group (pairs for a permute), `slices` the
    number of slices that a group spans.
    """

    kind: str
    axes: tuple[str, ...]
    group: int
    slices: int
    dtype: str
    count: float
    bytes: float


def find(
    module: Module,
    runs: Runs,
    axes: Mapping[str, int],
    slices: Sequence[int] | None = None,
) -> list[Collective]:
    """Every collective of a program, largest first.

    Args:
        module: from `hlo.parse`.
        runs: from `hlo.runs`.
        axes: sizes of the mesh axes, in the order of the mesh.
        slices: the slice of every device of the mesh, in its order; None is one.
    """
    # By default all devices are in slice 0.
    slice_of_device = np.zeros(int(np.prod(list(axes.values()))), int)
    if slices is not None:
        slice_of_device = np.asarray(slices)
    total: dict[tuple, list[float]] = {}
    for name, computation in module.computations.items():
        runs_of = runs.times[name]
        for instruction in computation.instructions.values() if runs_of else ():
            kind = _kind(instruction, name)
            if not kind:
                continue
            if kind.startswith(BETWEEN_SLICES):
                # A megascale transfer names no groups: it spans all slices.
                count = len(set(slice_of_device.tolist()))
                key = (kind, ("dcn",), count, count)
                result = _tuple_members(instruction.type)[0]
            else:
                groups = _groups(instruction, slice_of_device.size)
                if groups.shape[1] == 1:
                    continue  # a group of one device sends nothing
                members = slice_of_device[groups].tolist()
                spans = max((len(set(row)) for row in members), default=1)
                key = (kind, _varying(groups, axes), groups.shape[1], spans)
                result = _result_type(computation, instruction)
            count_and_bytes = total.setdefault((*key, _dtypes(result)), [0.0, 0.0])
            count_and_bytes[0] += runs_of
            count_and_bytes[1] += runs_of * hlo.size_bytes(result)
    collectives = [
        Collective(*key, *count_and_bytes) for key, count_and_bytes in total.items()
    ]
    return sorted(collectives, key=lambda c: (-c.bytes, c.kind, c.axes, c.dtype))


def by_kind(collectives: list[Collective]) -> dict[str, dict[str, float]]:
    """{kind: {"count", "bytes"}}: `collectives` of `gendr plan --json`."""
    table: dict[str, dict[str, float]] = {}
    for collective in collectives:
        row = table.setdefault(collective.kind, {"count": 0, "bytes": 0})
        row["count"] += collective.count
        row["bytes"] += collective.bytes
    return table


def _kind(instruction: Instruction, computation_name: str) -> str:
    """One of `KINDS`, "all-reduce-scatter", "dcn-..." or "" for what sends nothing.

    The TPU writes a reduce-scatter as a fusion of an all-reduce and a slice: its bytes
    are then those before the slice, hence another name. What goes to other slices it
    hands to the host; the collectives around that stay inside a slice.
    """
    if instruction.op == "send":
        transfer = re.search(
            r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes
        )
        return (
            BETWEEN_SLICES + transfer[1].lower().replace("_", "-") if transfer else ""
        )
    kind = instruction.op.removesuffix("-start")
    if kind == "all-reduce" and "all-reduce-scatter" in computation_name:
        return "all-reduce-scatter"
    return kind if kind in KINDS else ""


def _dtypes(hlo_type: str) -> str:
    """The dtypes of the arrays in a type; scalars count where there is nothing else."""
    arrays = hlo.shapes(hlo_type)
    dtypes = {d for d, s in arrays if s} or {d for d, _ in arrays}
    return "+".join(sorted(dtypes))


def _result_type(computation: Computation, instruction: Instruction) -> str:
    """The type of what arrives. A -start also returns its operands and flags."""
    # all-reduce-start is the one whose type is the result alone.
    if not instruction.op.endswith("-start") or instruction.op == "all-reduce-start":
        return instruction.type
    for other in computation.instructions.values():
        if other.op.endswith("-done") and instruction.name in other.operands:
            return other.type
    members = _tuple_members(instruction.type)
    return members[1] if len(members) > 1 else instruction.type


def _tuple_members(hlo_type: str) -> list[str]:
    """The members of a tuple type."""
    # Split at the commas of the outer parentheses: shapes and layouts have their own.
    members, depth, start = [], 0, 1
    for i, c in enumerate(hlo_type):
        depth += (c in "([{") - (c in ")]}")
        if (c == "," and depth == 1) or (c == ")" and depth == 0):
            members.append(hlo_type[start:i])
            start = i + 1
    return members


def _groups(instruction: Instruction, devices: int) -> np.ndarray:
    """Groups of devices, one a row; pairs that differ for a permute."""
    pairs = re.search(
        r"source_target_pairs=\{(.*?)\}\}?,? ", instruction.attributes + " "
    )
    if not pairs:
        return replica_groups(instruction.attributes, devices)
    # A device that sends to itself sends nothing.
    numbers = [int(n) for n in re.findall(r"\d+", pairs[1])]
    pair_ends = np.array(numbers, int).reshape(-1, 2)
    return pair_ends[pair_ends[:, 0] != pair_ends[:, 1]]


def _varying(groups: np.ndarray, axes: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the devices of a group differ."""
    coordinates = np.unravel_index(groups, tuple(axes.values()))
    varies = [np.any(coordinate != coordinate[:, :1]) for coordinate in coordinates]
    return tuple(n for n, v in zip(axes, varies, strict=True) if v)


# The spellings of replica_groups: {{0,1},{2,3}}; [2,2]<=[4]T(1,0), an iota that is
# reshaped and transposed; mesh['a'=2,'b'=4] {'a'}, axes of a mesh.
_LIST = re.compile(r"replica_groups=(\{\{.*?\}\}|\{\})")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?\]?(?:T\([\d,]*\))?)\))? "
    r"\{(.*?)\}"
)
_SUB_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")


def replica_groups(attributes: str, devices: int) -> np.ndarray:
    """Groups of partition numbers, one a row, from any of XLA's three spellings.

    `{{0,1},{2,3}}`, `[2,2]<=[4]T(1,0)`, or axes of a mesh of its own.

    Raises:
        ValueError: none of them.
    """
    if match := _LIST.search(attributes):
        rows = re.findall(r"\{([\d,]+)\}", match[1])
        if not rows:
            return np.arange(devices)[None]
        return np.array([[int(n) for n in row.split(",")] for row in rows])
    if match := _IOTA.search(attributes):
        return _iota(match[2], match[3]).reshape(_numbers(match[1]))
    if match := _MESH.search(attributes):
        return _mesh_groups(*match.groups())
    raise ValueError(f"no replica groups in {attributes[:200]!r}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text))


def _iota(sizes: str, order: str | None) -> np.ndarray:
    ids = np.arange(np.prod(_numbers(sizes))).reshape(_numbers(sizes))
    return ids.transpose(_numbers(order)) if order else ids


def _mesh_groups(mesh: str, ids: str | None, names: str) -> np.ndarray:
    """Groups of XLA's mesh spelling.

    `mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a','b':(1)2}` groups by axis `a` and
    by a sub-axis of `b`: of size 2, with a factor of 1 of `b` outside of it.
    """
    sizes = {n: int(s) for n, s in re.findall(r"'([^']+)'=(\d+)", mesh)}
    if ids is None:
        order = np.arange(np.prod(list(sizes.values())))
    else:
        id_shape, _, permutation = ids.partition("T")
        order = _iota(id_shape, permutation or None)
    in_group = {n: (int(p or 1), int(s or 0)) for n, p, s in _SUB_AXIS.findall(names)}
    shape: list[int] = []
    group_axes: list[int] = []
    for name, size in sizes.items():
        outer, size_in_group = in_group.get(name, (size, 1))
        size_in_group = size_in_group or size
        shape += [outer, size_in_group, size // (outer * size_in_group)]
        if name in in_group:
            group_axes.append(len(shape) - 2)
    # Each axis as (outer, in the group, inner); the middle ones go last: a group a row.
    order = order.reshape(shape)
    other_axes = [axis for axis in range(len(shape)) if axis not in group_axes]
    groups = order.transpose(*other_axes, *group_axes)
    return groups.reshape(-1, int(np.prod([shape[axis] for axis in group_axes])))
