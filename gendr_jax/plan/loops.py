"""What XLA's cost analysis leaves out: it counts the body of a loop once."""

import math
import re
from collections.abc import Callable

import numpy as np

from gendr_jax.flops import taps
from gendr_jax.plan import hlo, loops
from gendr_jax.plan.hlo import Computation, Instruction, Module, Runs

# Name or view what is there, or wait for it: no bytes of their own.
FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "async-start",
    "async-update",
    "async-done",
    "copy-done",
}
SLICES = {"dynamic-slice", "slice", "gather"}


def missed(module: Module, runs: Runs) -> tuple[float, float]:
    """(FLOPs of products, bytes moved) of all trips after the first, per device."""
    flops = moved = 0.0
    for name, computation in module.computations.items():
        extra = runs.times[name] - runs.once[name]
        if extra <= 0:
            continue
        for one in computation.instructions.values():
            flops += extra * products(computation, one)
            if name not in runs.inside:
                moved += extra * traffic(module, computation, one)
    return flops, moved


def products(where: Computation, one: Instruction) -> float:
    """Operations of a matrix product or convolution; 0 of anything else."""
    if one.op not in ("dot", "convolution"):
        return 0.0
    out, lhs, rhs = (
        _sizes(one.type),
        *(_sizes(where.instructions[n].type) for n in one.operands[:2]),
    )
    if one.op == "dot":
        axes = re.findall(r"\d+", one.attribute("lhs_contracting_dims"))
        return 2.0 * math.prod(out) * math.prod(lhs[int(axis)] for axis in axes)
    left, right, result = re.split("_|->", one.attribute("dim_labels"))
    window = _window(one.attribute("window"), len(left) - 2)
    pairs = 1
    for axis, (stride, low, grown, spread) in enumerate(window):
        label = str(axis)
        pairs *= taps(
            out[result.index(label)],
            rhs[right.index(label)],
            lhs[left.index(label)],
            stride=stride,
            low=low,
            lhs_dilation=grown,
            rhs_dilation=spread,
        )
    features = out[result.index("b")] * out[result.index("f")] * rhs[right.index("i")]
    return 2.0 * features * pairs / int(one.attribute("batch_group_count") or 1)


def _sizes(text: str) -> tuple[int, ...]:
    return hlo.shapes(text)[0][1]


def _window(text: str, axes: int) -> list[tuple[int, int, int, int]]:
    """(stride, padding before, dilation of the left side, of the right) per axis."""

    def values(name: str, default: str) -> list[str]:
        found = re.search(rf"\b{name}=(\S+?)[\s}}]", text)
        return found[1].split("x") if found else [default] * axes

    return [
        (int(stride), int(pad.split("_")[0]), int(grown), int(spread))
        for stride, pad, grown, spread in zip(
            values("stride", "1"),
            values("pad", "0_0"),
            values("lhs_dilate", "1"),
            values("rhs_dilate", "1"),
            strict=True,
        )
    ]


def traffic(
    module: Module,
    where: Computation,
    one: Instruction,
    size: Callable[[str], int] = hlo.size_bytes,
) -> float:
    """Bytes that an instruction reads and writes; of slices, the part that is used.

    ``size``: bytes of a type.
    """
    if one.op in FREE or one.op.endswith("-done"):
        return 0.0
    if one.op in SLICES:
        return 2.0 * size(one.type)
    operands = [where.instructions.get(n) for n in one.operands]
    read = [size(o.type) if o else 0 for o in operands]
    if one.op == "dynamic-update-slice":
        return 2.0 * read[1]
    written = size(one.type)
    if one.op != "fusion":
        return float(sum(read) + written)
    body = module.computations[one.called["calls"][0]]
    updated = _updates(body)
    if updated is not None:
        written = min(written, updated)
    used = [_used(body, i, size) for i, size in enumerate(read)]
    return float(sum(used) + written)


def _updates(body: Computation) -> int | None:
    """Bytes that a fusion writes in place, where it ends in an update of a slice."""
    one = body.root
    while one.op in ("bitcast", "copy") and one.operands:
        one = body.instructions[one.operands[0]]
    if one.op != "dynamic-update-slice":
        return None
    return hlo.size_bytes(body.instructions[one.operands[1]].type)


def _used(body: Computation, index: int, size: int) -> int:
    """Bytes of a fusion's operand that are read."""
    name = body.parameters[index].name
    users = [i for i in body.instructions.values() if name in i.operands]
    sliced = [u for u in users if u.op in SLICES and u.operands[0] == name]
    target = [u for u in users if u.op == "dynamic-update-slice"]
    target = [u for u in target if u.operands[0] == name]
    if users and len(sliced) + len(target) == len(users):
        part = int(np.sum([hlo.size_bytes(u.type) for u in sliced], dtype=np.int64))
        return min(size, part)
    return size


ON_CHIP = "S(1)"
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")


def used(text: str) -> bool:
    """Whether a compiled program's text has arrays in vector memory."""
    return ON_CHIP in text


def hbm_traffic(module: Module, runs: Runs) -> float:
    """Bytes to and from HBM in one call: tiles filled up, loops with all trips."""
    moved = 0.0
    for name, computation in module.computations.items():
        if name not in runs.inside and runs.times[name]:
            rows = computation.instructions.values()
            moved += runs.times[name] * sum(_of(module, computation, i) for i in rows)
    return moved


def _of(module: Module, where: Computation, one: Instruction) -> float:
    if one.op == "slice-start":  # ((source), part, flag): only the part travels
        return float(_arrays(one.type)[1][1])
    if one.op == "copy-start":  # (target, source, flag): what each side has in HBM
        return float(sum(size for chip, size in _arrays(one.type)[:2] if not chip))
    return loops.traffic(module, where, one, size=_hbm)


def _hbm(text: str) -> int:
    """Bytes of a type's arrays that are in HBM."""
    return sum(size for chip, size in _arrays(text) if not chip)


def _arrays(text: str) -> list[tuple[bool, int]]:
    """(in vector memory?, bytes with padding) of every array of a type."""
    return [
        (ON_CHIP in layout, _padded(dtype, sizes, layout))
        for dtype, sizes, layout in _ARRAY.findall(text)
    ]


def _padded(dtype: str, sizes: str, layout: str) -> int:
    """Bytes where the two fastest axes fill whole tiles."""
    shape = [int(n) for n in sizes.split(",") if n]
    tile = _TILE.search(layout)
    if tile and shape:
        fastest = [int(n) for n in layout.split(":")[0].split(",") if n]
        steps = reversed([int(n) for n in tile[1].split(",")])
        for axis, step in zip(fastest, steps, strict=False):
            shape[axis] = -(-shape[axis] // step) * step
    return math.prod(shape) * hlo.size_bytes(f"{dtype}[8]") // 8
