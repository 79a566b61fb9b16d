"""The programs of a step, one by one: their times, and which of them decide."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gendr_jax.plan.chips import Chip
from gendr_jax.plan.roofline import Efficiency, program

# Of several programs, one with this share of a step is said to decide about it.
MUCH = 0.4
HEADS = ("program", "TFLOP", "HBM GB", "compute ms", "HBM ms", "net ms")
HEADS += ("step ms >=", "net exposed", "no overlap", "bound", "share")


def programs(
    facts: Mapping[str, Any], chip: Chip, efficiency: Efficiency
) -> list[dict[str, Any]]:
    """Seconds of every program of a measured step, as JSON values."""
    found = []
    for phase in facts["phases"]:
        times = program(phase, chip, efficiency)
        found.append(
            {
                "name": phase.get("name", "step"),
                "flops": phase["flops"],
                "hbm_traffic_bytes": phase["hbm_traffic_bytes"],
                **dataclasses.asdict(times),
                "network": times.network,
                "bound": times.bound,
            }
        )
    return found


def tables(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table for every row whose step has several programs."""
    lines: list[str] = []
    for one in rows:
        parts = one.get("programs") or []
        if len(parts) > 1:
            lines += ["", f"Programs of {one['topology']} {one['mesh']}:", ""]
            lines += _table(parts)
    return lines


def _table(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    whole = sum(part["step"] for part in parts)
    cells = [HEADS]
    for part in parts:
        times = ("compute", "memory", "network", "step", "exposed", "serial")
        cells.append(
            (
                part["name"],
                f"{part['flops'] / 1e12:.2f}",
                f"{part['hbm_traffic_bytes'] / 1e9:.1f}",
                *(f"{1e3 * part[name]:.1f}" for name in times),
                part["bound"],
                f"{part['step'] / whole:.0%}",
            )
        )
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEADS))]
    lines = []
    for row in cells:
        padded = [v.rjust(w) for v, w in zip(row, widths, strict=True)]
        padded[0] = row[0].ljust(widths[0])
        lines.append("| " + " | ".join(padded) + " |")
    rule = ["-" * (w - 1) + (":" if i else "-") for i, w in enumerate(widths)]
    return [lines[0], "| " + " | ".join(rule) + " |", *lines[1:]]


def warnings(one: Mapping[str, Any]) -> list[str]:
    """What is worth a look in a row: a program that decides, an idle axis."""
    lines = [
        f"no rule of sharding.rules splits a weight over {axis}; its devices repeat "
        "what the others do (docs/sharding.md)"
        for axis in one.get("idle_axes", ())
    ]
    parts = one.get("programs") or []
    whole = sum(part["step"] for part in parts)
    longest = max(parts, key=lambda part: part["step"], default=None)
    if longest is None or len(parts) < 2 or longest["step"] < MUCH * whole:
        return lines
    return [
        *lines,
        f"the program {longest['name']} is {longest['step'] / whole:.0%} of the step "
        f"and waits for {longest['bound']}; look at it first",
    ]
