"""FLOPs and memory traffic by HLO instruction, loop bodies times their trips.

XLA's own cost analysis counts the body of a loop once.
"""

import math
import re
from collections.abc import Callable

import numpy as np

from gendr_jax.flops import taps
from gendr_jax.plan import hlo
from gendr_jax.plan.hlo import Computation, Instruction, Module, Runs

# Operations that name, view or wait for a buffer and move no bytes themselves.
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
        for instruction in computation.instructions.values():
            flops += extra * products(computation, instruction)
            if name not in runs.fused:
                moved += extra * traffic(module, computation, instruction)
    return flops, moved


def products_once(module: Module, runs: Runs) -> float:
    """FLOPs of products, per device, every loop run once (`missed` has the rest)."""
    return sum(
        runs.once[name] * products(computation, instruction)
        for name, computation in module.computations.items()
        if runs.once[name]
        for instruction in computation.instructions.values()
    )


def products(computation: Computation, instruction: Instruction) -> float:
    """Operations of a matrix product or convolution; 0 of anything else."""
    if instruction.op not in ("dot", "convolution"):
        return 0.0
    output, lhs, rhs = (
        _sizes(instruction.type),
        *(_sizes(computation.instructions[n].type) for n in instruction.operands[:2]),
    )
    if instruction.op == "dot":
        # Each output element is a sum over the contracted axes; multiply and add are 2.
        axes = re.findall(r"\d+", instruction.attribute("lhs_contracting_dims"))
        return 2.0 * math.prod(output) * math.prod(lhs[int(axis)] for axis in axes)
    # dim_labels such as b01f_01io->b01f name the axes of input, kernel and output.
    lhs_labels, rhs_labels, output_labels = re.split(
        "_|->", instruction.attribute("dim_labels")
    )
    window = _window(instruction.attribute("window"), len(lhs_labels) - 2)
    pairs = 1
    for axis, (stride, low, lhs_dilation, rhs_dilation) in enumerate(window):
        label = str(axis)
        # Taps in padding or in the zeros of a dilation are no operations.
        pairs *= taps(
            output[output_labels.index(label)],
            rhs[rhs_labels.index(label)],
            lhs[lhs_labels.index(label)],
            stride=stride,
            low=low,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
        )
    features = (
        output[output_labels.index("b")]
        * output[output_labels.index("f")]
        * rhs[rhs_labels.index("i")]
    )
    return 2.0 * features * pairs / int(instruction.attribute("batch_group_count") or 1)


def _sizes(hlo_type: str) -> tuple[int, ...]:
    return hlo.shapes(hlo_type)[0][1]


def _window(text: str, axes: int) -> list[tuple[int, int, int, int]]:
    """(stride, padding before, dilation of the left side, of the right) per axis."""

    def values(name: str, default: str) -> list[str]:
        match = re.search(rf"\b{name}=(\S+?)[\s}}]", text)
        return match[1].split("x") if match else [default] * axes

    return [
        (int(stride), int(pad.split("_")[0]), int(lhs_dilation), int(rhs_dilation))
        for stride, pad, lhs_dilation, rhs_dilation in zip(
            values("stride", "1"),
            values("pad", "0_0"),
            values("lhs_dilate", "1"),
            values("rhs_dilate", "1"),
            strict=True,
        )
    ]


def traffic(
    module: Module,
    computation: Computation,
    instruction: Instruction,
    size: Callable[[str], int] = hlo.size_bytes,
) -> float:
    """Bytes that an instruction reads and writes; of a sliced operand, the slice.

    ``size``: bytes of a type.
    """
    if instruction.op in FREE or instruction.op.endswith("-done"):
        return 0.0
    if instruction.op in SLICES:
        return 2.0 * size(instruction.type)
    operands = [computation.instructions.get(n) for n in instruction.operands]
    operand_sizes = [size(o.type) if o else 0 for o in operands]
    if instruction.op == "dynamic-update-slice":  # in place: only the update moves
        return 2.0 * operand_sizes[1]
    written = size(instruction.type)
    if instruction.op != "fusion":
        return float(sum(operand_sizes) + written)
    # A fusion reads its operands and writes its result; what is between stays on chip.
    fused = module.computations[instruction.called["calls"][0]]
    updated = _written_slice(fused)
    if updated is not None:
        written = min(written, updated)
    read = [_read_bytes(fused, i, size) for i, size in enumerate(operand_sizes)]
    return float(sum(read) + written)


def _written_slice(fused: Computation) -> int | None:
    """Bytes of the slice that a fusion updates in place, None where it does not."""
    instruction = fused.root
    while instruction.op in ("bitcast", "copy") and instruction.operands:
        instruction = fused.instructions[instruction.operands[0]]
    if instruction.op != "dynamic-update-slice":
        return None
    return hlo.size_bytes(fused.instructions[instruction.operands[1]].type)


def _read_bytes(fused: Computation, index: int, size: int) -> int:
    """Bytes of a fusion's operand that are read: only its slices where it is sliced."""
    parameter = fused.parameters[index].name
    users = [i for i in fused.instructions.values() if parameter in i.operands]
    sliced = [u for u in users if u.op in SLICES and u.operands[0] == parameter]
    updated = [u for u in users if u.op == "dynamic-update-slice"]
    updated = [u for u in updated if u.operands[0] == parameter]
    if users and len(sliced) + len(updated) == len(users):
        sliced_bytes = int(
            np.sum([hlo.size_bytes(u.type) for u in sliced], dtype=np.int64)
        )
        return min(size, sliced_bytes)
    return size


ON_CHIP = "S(1)"
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")


def has_vector_memory(text: str) -> bool:
    """Whether a compiled program's text puts arrays into vector memory (VMEM)."""
    return ON_CHIP in text


def hbm_traffic(module: Module, runs: Runs) -> float:
    """Bytes to and from HBM in one call: padded tiles, loop bodies times trips."""
    moved = 0.0
    for name, computation in module.computations.items():
        if name not in runs.fused and runs.times[name]:
            rows = computation.instructions.values()
            moved += runs.times[name] * sum(
                _instruction_traffic(module, computation, i) for i in rows
            )
    return moved


def _instruction_traffic(
    module: Module, computation: Computation, instruction: Instruction
) -> float:
    # Its type is ((source), slice, flag): only the slice is moved.
    if instruction.op == "slice-start" or hlo.starts_slice(module, instruction):
        return float(_arrays(instruction.type)[1][1])
    # Its type is (target, source, flag); a side in vector memory does not count.
    if instruction.op == "copy-start":
        sides = _arrays(instruction.type)[:2]
        return float(sum(size for on_chip, size in sides if not on_chip))
    return traffic(module, computation, instruction, size=_hbm)


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
    """Bytes of an array whose minor axes are padded to the layout's tile."""
    shape = [int(n) for n in sizes.split(",") if n]
    tile = _TILE.search(layout)
    if tile and shape:
        minor_axes = [int(n) for n in layout.split(":")[0].split(",") if n]
        tile_sizes = reversed([int(n) for n in tile[1].split(",")])
        for axis, tile_size in zip(minor_axes, tile_sizes, strict=False):
            shape[axis] = -(-shape[axis] // tile_size) * tile_size
    return math.prod(shape) * hlo.size_bytes(f"{dtype}[8]") // 8
