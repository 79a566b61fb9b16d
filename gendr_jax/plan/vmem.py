"""Traffic of a program that keeps some of its arrays in the chip's vector memory.

At full effort the TPU's compiler places arrays in VMEM (`S(1)` in a layout) and copies
to and from it beside the computation. Its cost analysis counts them as if they were in
HBM and leaves those copies out. What lives here: bytes to and from HBM, read from the
program's text. What does not: programs of low effort, which keep nothing in VMEM.
"""

import math
import re

from gendr_jax.plan import hlo, loops
from gendr_jax.plan.hlo import Computation, Instruction, Module, Runs

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
