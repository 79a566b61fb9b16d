"""FLOPs of a traced program (jaxpr): matrix products, convolutions, Pallas kernels.

Only multiply-adds count, two operations each; those with padding and with the zeros
between dilated pixels do not.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Operations:
    """Floating-point operations, summed over all devices.

    Attributes:
        total: Pallas kernels included.
        kernels: inside Pallas kernels.
        announced: of `kernels`, by the `cost_estimate` of each call, a loop counted
            once (this is what XLA's own count includes).
    """

    total: float = 0.0
    kernels: float = 0.0
    announced: float = 0.0

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(
            self.total + other.total,
            self.kernels + other.kernels,
            self.announced + other.announced,
        )


def count(jaxpr: Any) -> Operations:
    """The operations of a (closed) jaxpr, loops of known length unrolled.

    Of a cond's branches the costliest counts; a while loop of unknown length counts
    once. The body of a shard_map is one device's share, hence times the mesh's size.
    """
    total = Operations()
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        total += _equation(eqn)
    return total


def _scaled(operations: Operations, times: float, calls: float = 1.0) -> Operations:
    return Operations(
        operations.total * times,
        operations.kernels * times,
        operations.announced * calls,
    )


def _equation(eqn: Any) -> Operations:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        return Operations(_dot(eqn))
    if name == "conv_general_dilated":
        return Operations(_convolution(eqn))
    if name == "pallas_call":
        return _kernel(params)
    if name == "scan":
        return _scaled(count(params["jaxpr"]), params["length"])
    if name == "cond":
        return max((count(b) for b in params["branches"]), key=lambda c: c.total)
    if name == "shard_map":
        size = params["mesh"].size
        return _scaled(count(params["jaxpr"]), size, size)
    total = Operations()
    for inner in _inner_jaxprs(params):
        total += count(inner)
    return total


def _inner_jaxprs(params: dict[str, Any]) -> list[Any]:
    leaves = jax.tree.leaves(params, is_leaf=lambda x: hasattr(x, "eqns"))
    return [x for x in leaves if hasattr(getattr(x, "jaxpr", x), "eqns")]


def _dot(eqn: Any) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    lhs = eqn.invars[0].aval.shape
    out = math.prod(eqn.outvars[0].aval.shape)
    return 2.0 * out * math.prod(lhs[axis] for axis in contracted)


def _convolution(eqn: Any) -> float:
    lhs, rhs = (v.aval.shape for v in eqn.invars)
    out, params = eqn.outvars[0].aval.shape, eqn.params
    numbers = params["dimension_numbers"]
    pairs = 1
    for axis, (low, _) in enumerate(params["padding"]):
        pairs *= taps(
            out[numbers.out_spec[2 + axis]],
            rhs[numbers.rhs_spec[2 + axis]],
            lhs[numbers.lhs_spec[2 + axis]],
            stride=params["window_strides"][axis],
            low=low,
            lhs_dilation=params["lhs_dilation"][axis],
            rhs_dilation=params["rhs_dilation"][axis],
        )
    batch, features = (out[axis] for axis in numbers.out_spec[:2])
    inputs = rhs[numbers.rhs_spec[1]]
    return 2.0 * batch * features * inputs * pairs / params["batch_group_count"]


def taps(
    out: int,
    kernel: int,
    size: int,
    *,
    stride: int,
    low: int,
    lhs_dilation: int,
    rhs_dilation: int,
) -> int:
    """Along one axis, the pairs of output and kernel positions that read a pixel.

    Pairs that read padding, or a zero between dilated pixels, do not count.
    """
    position = np.arange(out)[:, None] * stride - low
    position = position + np.arange(kernel)[None] * rhs_dilation
    inside = (
        (position >= 0)
        & (position <= (size - 1) * lhs_dilation)
        & (position % lhs_dilation == 0)
    )
    return int(inside.sum())


def _kernel(params: dict[str, Any]) -> Operations:
    """A kernel's body times the size of its grid, on one device."""
    grid_size = math.prod(n for n in params["grid_mapping"].grid if isinstance(n, int))
    operations = grid_size * count(params["jaxpr"]).total
    estimate = params.get("cost_estimate")
    return Operations(
        operations, operations, float(estimate.flops) if estimate is not None else 0.0
    )
