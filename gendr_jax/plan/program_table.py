"""The table of the programs of a step: times of each, and which one dominates."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gendr_jax.plan import roofline
from gendr_jax.plan.chips import Chip
from gendr_jax.plan.roofline import Efficiency

# A program with this share of the step's time is named in the notes.
DOMINANT_SHARE = 0.4
HEADS = ("program", "TFLOP", "HBM GB", "compute ms", "HBM ms", "net ms")
HEADS += ("step ms >=", "net exposed", "no overlap", "bound", "share")


def programs(
    facts: Mapping[str, Any], chip: Chip, efficiency: Efficiency
) -> list[dict[str, Any]]:
    """Seconds of every program of a measured step, as JSON values."""
    rows = []
    for phase in facts["phases"]:
        times = roofline.program(phase, chip, efficiency)
        rows.append(
            {
                "name": phase.get("name", "step"),
                "flops": phase["flops"],
                "hbm_traffic_bytes": phase["hbm_traffic_bytes"],
                **dataclasses.asdict(times),
                "network": times.network,
                "bound": times.bound,
            }
        )
    return rows


def tables(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table for every row whose step has several programs."""
    lines: list[str] = []
    for row in rows:
        programs = row.get("programs") or []
        if len(programs) > 1:
            lines += ["", f"Programs of {row['topology']} {row['mesh']}:", ""]
            lines += _table(programs)
    return lines


def _table(programs: Sequence[Mapping[str, Any]]) -> list[str]:
    step_seconds = sum(program["step"] for program in programs)
    table_rows = [HEADS]
    for program in programs:
        times = ("compute", "memory", "network", "step", "exposed", "serial")
        table_rows.append(
            (
                program["name"],
                f"{program['flops'] / 1e12:.2f}",
                f"{program['hbm_traffic_bytes'] / 1e9:.1f}",
                *(f"{1e3 * program[name]:.1f}" for name in times),
                program["bound"],
                f"{program['step'] / step_seconds:.0%}",
            )
        )
    widths = [max(len(row[i]) for row in table_rows) for i in range(len(HEADS))]
    lines = []
    for row in table_rows:
        padded = [v.rjust(w) for v, w in zip(row, widths, strict=True)]
        padded[0] = row[0].ljust(widths[0])
        lines.append("| " + " | ".join(padded) + " |")
    rule = ["-" * (w - 1) + (":" if i else "-") for i, w in enumerate(widths)]
    return [lines[0], "| " + " | ".join(rule) + " |", *lines[1:]]


def warnings(row: Mapping[str, Any]) -> list[str]:
    """Notes on a row: mesh axes that split nothing, a program that dominates."""
    lines = [
        f"no rule of sharding.rules splits a weight over {axis}; its devices repeat "
        "what the others do (docs/sharding.md)"
        for axis in row.get("idle_axes", ())
    ]
    programs = row.get("programs") or []
    step_seconds = sum(program["step"] for program in programs)
    longest = max(programs, key=lambda program: program["step"], default=None)
    if (
        longest is None
        or len(programs) < 2
        or longest["step"] < DOMINANT_SHARE * step_seconds
    ):
        return lines
    return [
        *lines,
        f"the program {longest['name']} is {longest['step'] / step_seconds:.0%} of the "
        f"step and waits for {longest['bound']}; look at it first",
    ]
