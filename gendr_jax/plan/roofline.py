"""Roofline model: seconds of a program by compute, HBM and network.

Three sums of the same times, from a lower bound to an upper one:

    step     computing, memory and both networks all overlap
    exposed  computing and memory overlap, the network waits for them
    serial   nothing overlaps

Each resource works at its peak rate times an efficiency; with a measured one the three
are estimates and no bounds. A collective runs as rings along one torus axis of its
slice, both ways at once, as if that axis were closed; several collectives run one after
another. Groups that span slices reduce inside a slice first, then each device sends its
share over the data-centre network. Launch, host and data are free.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from gendr_jax.plan.chips import Chip


@dataclass(frozen=True)
class Roofline:
    """Seconds on each resource, and of the program by what overlaps."""

    compute: float
    memory: float
    ici: float
    dcn: float
    step: float
    exposed: float
    serial: float

    @property
    def network(self) -> float:
        return max(self.ici, self.dcn)

    @property
    def bound(self) -> str:
        """The resource that takes longest."""
        names = ("compute", "memory", "ici", "dcn")
        return max(names, key=lambda name: getattr(self, name))


@dataclass(frozen=True)
class Efficiency:
    """Shares of the peak rates that a program reaches; 1 where not measured."""

    compute: float = 1.0
    hbm: float = 1.0
    network: float = 1.0


PEAK = Efficiency()


def roofline(
    facts: Mapping[str, Any], chip: Chip, efficiency: Efficiency = PEAK
) -> Roofline:
    """The times of a step that was compiled; its programs run one after the other.

    Args:
        facts: of `measure.measure`; `phases` of them are read.
        chip: of one device.
        efficiency: of its resources.
    """
    programs = [program(phase, chip, efficiency) for phase in facts["phases"]]
    names = [field.name for field in fields(Roofline)]
    return Roofline(*(sum(getattr(p, name) for p in programs) for name in names))


def program(
    facts: Mapping[str, Any], chip: Chip, efficiency: Efficiency = PEAK
) -> Roofline:
    """The times of one program of a step."""
    ici = dcn = 0.0
    for collective in facts["collectives_by_axis"]:
        inner, outer = sent(collective)
        ici += inner / (chip.ici_bandwidth * efficiency.network)
        dcn += outer / (chip.dcn_bandwidth * efficiency.network)
    compute = facts["flops"] / (chip.flops * efficiency.compute)
    memory = facts["hbm_traffic_bytes"] / (chip.hbm_bandwidth * efficiency.hbm)
    on_device, network = max(compute, memory), max(ici, dcn)
    return Roofline(
        compute,
        memory,
        ici,
        dcn,
        step=max(on_device, network),
        exposed=on_device + network,
        serial=compute + memory + network,
    )


def sent(collective: Mapping[str, Any]) -> tuple[float, float]:
    """(bytes over the links of a slice, bytes to other slices) that a device sends.

    The first are scaled so that dividing by the bandwidth of both directions of one
    axis gives the time of the ring.
    """
    kind, size, group = collective["kind"], collective["bytes"], collective["group"]
    slices = collective["slices"]
    if kind == "dcn-all-reduce":
        return 0.0, 2.0 * size * (slices - 1) / slices
    if kind.startswith("dcn-"):
        return 0.0, size
    if kind == "collective-permute":
        # a neighbour's link, one way: half of the bandwidth of both directions
        return (0.0, size) if slices > 1 else (2.0 * size, 0.0)
    inside = group // slices
    ring = (inside - 1) / inside
    over = (slices - 1) / slices
    if kind == "all-to-all":
        # a piece travels a quarter of the ring on average
        return size * max(ring, inside / 4 * (inside > 1)), size * over
    if kind == "all-reduce":
        return 2.0 * size * ring, 2.0 * size / inside * over
    if kind == "all-reduce-scatter":  # bytes before the slice
        return size * ring, size / inside * over
    if kind == "reduce-scatter":
        return size * group * ring, size * slices * over
    # all-gather, broadcast: slices exchange shares, then spread them inside
    return size * ring, size / inside * over


def mfu(flops: float, seconds: float, chip: Chip) -> float:
    """Share of the peak that `flops` in so many seconds are."""
    return flops / (chip.flops * seconds) if seconds else 0.0
