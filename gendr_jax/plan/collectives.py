"""What devices send each other: kind, mesh axes, dtype, count and bytes.

Bytes are those of a collective's result on one device (tuples summed), times the trips
of the loops around it. How long they take is in `roofline.py`.
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
    belongs = np.zeros(int(np.prod(list(axes.values()))), int)
    if slices is not None:
        belongs = np.asarray(slices)
    total: dict[tuple, list[float]] = {}
    for name, computation in module.computations.items():
        times = runs.times[name]
        for one in computation.instructions.values() if times else ():
            kind = _kind(one, name)
            if not kind:
                continue
            if kind.startswith(BETWEEN_SLICES):
                count = len(set(belongs.tolist()))
                key, result = (kind, ("dcn",), count, count), _parts(one.type)[0]
            else:
                groups = _groups(one, belongs.size)
                if groups.shape[1] == 1:
                    continue  # with itself
                members = belongs[groups].tolist()
                spans = max((len(set(row)) for row in members), default=1)
                key = (kind, _varying(groups, axes), groups.shape[1], spans)
                result = _result(computation, one)
            seen = total.setdefault((*key, _dtypes(result)), [0.0, 0.0])
            seen[0] += times
            seen[1] += times * hlo.size_bytes(result)
    found = [Collective(*key, *seen) for key, seen in total.items()]
    return sorted(found, key=lambda c: (-c.bytes, c.kind, c.axes, c.dtype))


def by_kind(found: list[Collective]) -> dict[str, dict[str, float]]:
    """{kind: {"count", "bytes"}}, as the contract has it."""
    table: dict[str, dict[str, float]] = {}
    for one in found:
        row = table.setdefault(one.kind, {"count": 0, "bytes": 0})
        row["count"] += one.count
        row["bytes"] += one.bytes
    return table


def _kind(one: Instruction, computation: str) -> str:
    """One of `KINDS`, "all-reduce-scatter", "dcn-..." or "" for what sends nothing.

    The TPU writes a reduce-scatter as a fusion of an all-reduce and a slice: its bytes
    are then those before the slice, hence another name. What goes to other slices it
    hands to the host; the collectives around that stay inside a slice.
    """
    if one.op == "send":
        handed = re.search(r'_xla_megascale_transfer_type="(\w+)"', one.attributes)
        return BETWEEN_SLICES + handed[1].lower().replace("_", "-") if handed else ""
    kind = one.op.removesuffix("-start")
    if kind == "all-reduce" and "all-reduce-scatter" in computation:
        return "all-reduce-scatter"
    return kind if kind in KINDS else ""


def _dtypes(text: str) -> str:
    """The dtypes of the arrays in a type; scalars count where there is nothing else."""
    arrays = hlo.shapes(text)
    found = {d for d, s in arrays if s} or {d for d, _ in arrays}
    return "+".join(sorted(found))


def _result(computation: Computation, one: Instruction) -> str:
    """The type of what arrives. A -start also returns its operands and flags."""
    if not one.op.endswith("-start") or one.op == "all-reduce-start":
        return one.type
    for other in computation.instructions.values():
        if other.op.endswith("-done") and one.name in other.operands:
            return other.type
    parts = _parts(one.type)
    return parts[1] if len(parts) > 1 else one.type


def _parts(text: str) -> list[str]:
    """The members of a tuple type."""
    parts, depth, start = [], 0, 1
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if (c == "," and depth == 1) or (c == ")" and depth == 0):
            parts.append(text[start:i])
            start = i + 1
    return parts


def _groups(one: Instruction, devices: int) -> np.ndarray:
    """Groups of devices, one a row; pairs that differ for a permute."""
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}?,? ", one.attributes + " ")
    if not pairs:
        return replica_groups(one.attributes, devices)
    numbers = [int(n) for n in re.findall(r"\d+", pairs[1])]
    ends = np.array(numbers, int).reshape(-1, 2)
    return ends[ends[:, 0] != ends[:, 1]]


def _varying(groups: np.ndarray, axes: Mapping[str, int]) -> tuple[str, ...]:
    where = np.unravel_index(groups, tuple(axes.values()))
    vary = [np.any(place != place[:, :1]) for place in where]
    return tuple(n for n, v in zip(axes, vary, strict=True) if v)


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
    if found := _LIST.search(attributes):
        rows = re.findall(r"\{([\d,]+)\}", found[1])
        if not rows:
            return np.arange(devices)[None]
        return np.array([[int(n) for n in row.split(",")] for row in rows])
    if found := _IOTA.search(attributes):
        return _iota(found[2], found[3]).reshape(_numbers(found[1]))
    if found := _MESH.search(attributes):
        return _mesh_groups(*found.groups())
    raise ValueError(f"no replica groups in {attributes[:200]!r}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text))


def _iota(sizes: str, order: str | None) -> np.ndarray:
    ids = np.arange(np.prod(_numbers(sizes))).reshape(_numbers(sizes))
    return ids.transpose(_numbers(order)) if order else ids


def _mesh_groups(mesh: str, ids: str | None, names: str) -> np.ndarray:
    """`mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a','b':(1)2}`: an axis, or the
    part of it of the given size, before which lie parts of the size in parentheses."""
    sizes = {n: int(s) for n, s in re.findall(r"'([^']+)'=(\d+)", mesh)}
    if ids is None:
        order = np.arange(np.prod(list(sizes.values())))
    else:
        shape, _, turned = ids.partition("T")
        order = _iota(shape, turned or None)
    chosen = {n: (int(p or 1), int(s or 0)) for n, p, s in _SUB_AXIS.findall(names)}
    split: list[int] = []
    moved: list[int] = []
    for name, size in sizes.items():
        before, part = chosen.get(name, (size, 1))
        part = part or size
        split += [before, part, size // (before * part)]
        if name in chosen:
            moved.append(len(split) - 2)
    order = order.reshape(split)
    kept = [axis for axis in range(len(split)) if axis not in moved]
    groups = order.transpose(*kept, *moved)
    return groups.reshape(-1, int(np.prod([split[axis] for axis in moved])))
