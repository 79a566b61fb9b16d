"""How fast a program can be at best: the slowest of four resources, each fully used.

Assumptions. Computing, memory and both networks work at the same time, each at its
peak rate. A collective runs as rings along one torus axis of its slice, both ways at
once, as if that axis were closed; several collectives run one after another. Groups
that span slices reduce inside a slice first, then each device sends its share over the
data-centre network. Work that is hidden behind nothing (launch, host, data) is free.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gendr_jax.plan.chips import Chip


@dataclass(frozen=True)
class Roofline:
    """Seconds of one step on each resource, and of the step."""

    compute: float
    memory: float
    ici: float
    dcn: float
    step: float

    @property
    def network(self) -> float:
        return max(self.ici, self.dcn)

    @property
    def bound(self) -> str:
        """The resource that decides."""
        names = ("compute", "memory", "ici", "dcn")
        return max(names, key=lambda name: getattr(self, name))


def roofline(facts: Mapping[str, Any], chip: Chip) -> Roofline:
    """The bound of a step that was compiled; its programs run one after the other.

    Args:
        facts: of `measure.measure`; `phases` of them are read.
        chip: of one device.
    """
    parts = [_one(phase, chip) for phase in facts["phases"]]
    names = ("compute", "memory", "ici", "dcn", "step")
    return Roofline(*(sum(getattr(p, name) for p in parts) for name in names))


def _one(facts: Mapping[str, Any], chip: Chip) -> Roofline:
    ici = dcn = 0.0
    for one in facts["collectives_by_axis"]:
        inner, outer = sent(one)
        ici += inner / chip.ici_bandwidth
        dcn += outer / chip.dcn_bandwidth
    compute = facts["flops"] / chip.flops
    memory = facts["hbm_traffic_bytes"] / chip.hbm_bandwidth
    return Roofline(compute, memory, ici, dcn, max(compute, memory, ici, dcn))


def sent(one: Mapping[str, Any]) -> tuple[float, float]:
    """(bytes over the links of a slice, bytes to other slices) that a device sends.

    The first are scaled so that dividing by the bandwidth of both directions of one
    axis gives the time of the ring.
    """
    kind, size, group = one["kind"], one["bytes"], one["group"]
    across = one["slices"]
    if kind == "dcn-all-reduce":
        return 0.0, 2.0 * size * (across - 1) / across
    if kind.startswith("dcn-"):
        return 0.0, size
    if kind == "collective-permute":
        # a neighbour's link, one way: half of the two directions
        return (0.0, size) if across > 1 else (2.0 * size, 0.0)
    inside = group // across
    ring = (inside - 1) / inside
    over = (across - 1) / across
    if kind == "all-to-all":
        # a piece travels a quarter of the ring on average
        return size * max(ring, inside / 4 * (inside > 1)), size * over
    if kind == "all-reduce":
        return 2.0 * size * ring, 2.0 * size / inside * over
    if kind == "all-reduce-scatter":  # bytes before the slice
        return size * ring, size / inside * over
    if kind == "reduce-scatter":
        return size * group * ring, size * across * over
    # all-gather, broadcast: slices exchange shares, then spread them inside
    return size * ring, size / inside * over


def mfu(flops: float, seconds: float, chip: Chip) -> float:
    """Share of the peak that `flops` in so many seconds are."""
    return flops / (chip.flops * seconds) if seconds else 0.0
