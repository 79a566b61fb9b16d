"""Rows of `gendr plan --json` from compiler facts, and the table for the terminal."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gendr_jax.plan import chips, topologies
from gendr_jax.plan.program_table import programs, tables, warnings
from gendr_jax.plan.request import Request, mesh_text, row_shares
from gendr_jax.plan.roofline import PEAK, Efficiency, Roofline, mfu, roofline

GIB = 2**30
STEPS = ("step_s", "step_exposed_s", "step_serial_s")
ROLES = ("params", "optimizer", "ema", "frozen", "batch")


def title(request: Request) -> str:
    """A request in a few words, for progress lines."""
    batch = request.batch_per_device
    words = [request.topology, request.mesh or "data=-1"]
    words += [f"batch {batch} a device"] if batch else []
    return " ".join(words)


def row(
    request: Request,
    facts: Mapping[str, Any],
    pairs: float,
    efficiency: Efficiency = PEAK,
) -> dict[str, Any]:
    """One object of `gendr plan --json`; all bytes and FLOPs are of one device.

    Figures that are not known are None.
    """
    head = {
        "topology": request.topology,
        "mesh": request.mesh,
        "program": request.program,
        "stage": request.config.get("stage"),
        "effort": request.effort,
        "batch_per_device": request.batch_per_device,
    }
    if "error" in facts:
        return head | {"error": facts["error"]}
    chip = _chip(request, facts)
    head["mesh"] = mesh_text(facts["mesh_axes"])
    head["batch_per_device"] = facts["batch_size"] // row_shares(facts)
    copied = ("peak_bytes", "argument_bytes", "temp_bytes", "flops")
    copied += ("hbm_traffic_bytes", "collectives", "fits")
    result = head | {name: facts.get(name) for name in copied}
    result |= {k: v for k, v in facts.items() if k not in result}
    result["hbm_bytes"] = chip.hbm_bytes if chip else None
    temporary = facts.get("temp_bytes")
    result["roles"] = dict(facts["roles"]) | {"activations": temporary}
    result["idle_axes"] = _idle_axes(request, facts["mesh_axes"])
    result["efficiency"] = dataclasses.asdict(efficiency)
    if chip is None or facts.get("flops") is None:
        return result | dict.fromkeys(TIMES)
    result["programs"] = programs(facts, chip, efficiency)
    return result | _times(facts, chip, roofline(facts, chip, efficiency), pairs)


def _idle_axes(request: Request, axes: Mapping[str, int]) -> list[str]:
    """Mesh axes over which no rule of the config splits a weight."""
    rules = request.config.get("sharding", {}).get("rules")
    splits_model = rules is None or any("model" in how for _, how in rules)
    return [] if splits_model or axes.get("model", 1) == 1 else ["model"]


def _chip(request: Request, facts: Mapping[str, Any]) -> chips.Chip | None:
    topology = topologies.parse(request.topology)
    if topology.is_tpu:
        return chips.TPUS[topology.kind]
    return chips.of_device_kind(facts["device_kind"])


TIMES = ("roofline_s", "bound", "step_s", "step_exposed_s", "step_serial_s")
TIMES += ("mfu_bound", "mfu_exposed", "mfu_serial", "mfu_model")
TIMES += ("images_per_s", "pairs", "days", "chip_hours", "programs")


def _times(
    facts: Mapping[str, Any], chip: chips.Chip, bound: Roofline, pairs: float
) -> dict[str, Any]:
    rate = facts["batch_size"] / bound.step
    return {
        "roofline_s": {
            "compute": bound.compute,
            "memory": bound.memory,
            "network": bound.network,
            "ici": bound.ici,
            "dcn": bound.dcn,
        },
        "bound": bound.bound,
        "step_s": bound.step,
        "step_exposed_s": bound.exposed,
        "step_serial_s": bound.serial,
        "mfu_bound": mfu(facts["flops"], bound.step, chip),
        "mfu_exposed": mfu(facts["flops"], bound.exposed, chip),
        "mfu_serial": mfu(facts["flops"], bound.serial, chip),
        "mfu_model": mfu(facts["flops_model"], bound.step, chip),
        "images_per_s": rate,
        "pairs": pairs,
        "days": pairs / rate / 86400,
        "chip_hours": pairs / rate / 3600 * facts["chips"],
    }


HEADS = (
    ("topology", "mesh", "batch", "fits", "peak GiB", "of")
    + ("params", "optim", "EMA", "frozen", "temp")
    + ("TFLOP", "HBM GB", "sent GB", "compute ms", "HBM ms", "net ms")
    + ("step ms >=", "net exposed", "no overlap", "bound")
    + ("MFU <=", "net exposed", "no overlap", "model <=")
    + ("images/s <=", "days >=", "chip-h >=")
)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as an aligned Markdown table, then notes."""
    table_rows = [HEADS, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in table_rows) for i in range(len(HEADS))]

    def line(values: Sequence[str]) -> str:
        names = [v.ljust(w) for v, w in zip(values[:2], widths[:2], strict=True)]
        numbers = [v.rjust(w) for v, w in zip(values[2:], widths[2:], strict=True)]
        return "| " + " | ".join(names + numbers) + " |"

    separator = [
        "-" * w if i < 2 else "-" * (w - 1) + ":" for i, w in enumerate(widths)
    ]
    lines = [line(HEADS), "| " + " | ".join(separator) + " |"]
    lines += [line(values) for values in table_rows[1:]]
    return "\n".join(lines + tables(rows) + _notes(rows))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    head = (row["topology"], row["mesh"] or "", _number(row["batch_per_device"], 0))
    if "error" in row:
        return (*head, "failed", *("",) * (len(HEADS) - 4))
    sent = sum(c["bytes"] for c in (row["collectives"] or {}).values())
    network, times = row["collectives"] is not None, row["roofline_s"] or {}
    return (
        *head,
        "yes" if row["fits"] else "NO",
        _number(row["peak_bytes"], 2, GIB),
        _number(row["hbm_bytes"], 2, GIB),
        *(_number(row["roles"].get(r, 0), 2, GIB) for r in ROLES[:4]),
        _number(row["temp_bytes"], 2, GIB),
        _number(row["flops"], 2, 1e12),
        _number(row["hbm_traffic_bytes"], 1, 1e9),
        _number(sent if network else None, 2, 1e9),
        *(_number(times.get(r), 1, 1e-3) for r in ("compute", "memory", "network")),
        *(_number(row[s], 1, 1e-3) for s in STEPS),
        row["bound"] or "",
        *(_percent(row[s]) for s in ("mfu_bound", "mfu_exposed", "mfu_serial")),
        _percent(row["mfu_model"]),
        _number(row["images_per_s"], 0),
        _number(row["days"], 2),
        _number(row["chip_hours"], 0),
    )


def _number(value: float | None, digits: int, unit: float = 1.0) -> str:
    return "" if value is None else f"{value / unit:.{digits}f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f}%"


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        setup = f"{row['topology']} {row['mesh']}".rstrip()
        if row["batch_per_device"] is not None:
            setup += f" batch {row['batch_per_device']}"
        if "error" in row:
            lines.append(f"{setup}: {row['error']}")
        elif not row["fits"] and row["hbm_bytes"]:
            excess = (row["peak_bytes"] - row["hbm_bytes"]) / GIB
            lines.append(f"{setup}: {excess:.2f} GiB too much. {_advice(row)}")
        if row.get("loops_of_unknown_length"):
            count = row["loops_of_unknown_length"]
            lines.append(f"{setup}: {count} loops of unknown length, counted once")
        lines += [f"{setup}: {warning}" for warning in warnings(row)]
    if any(row.get("step_s") for row in rows):
        lines += _assumptions(rows)
    return ["", *lines] if lines else []


def _assumptions(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    rates = next(row["efficiency"] for row in rows if row.get("step_s"))
    if set(rates.values()) == {1.0}:
        rate_words = (
            "at their peak rates, which no program reaches (--efficiency: measured)"
        )
    else:
        shares = ", ".join(f"{name} {share:g}" for name, share in rates.items())
        rate_words = f"at shares of their peak rates as given ({shares})"
    return [
        f"Times: resources {rate_words}. step: all of them overlap, a lower bound, and "
        "images/s, days and chip-h with it; net exposed: computing and HBM overlap; "
        "no overlap: their sum. Launch, host, data, saving and restarts are left out."
    ]


def _advice(row: Mapping[str, Any]) -> str:
    change = row.get("change")
    if not change:
        return ""
    peak = change["peak_bytes"]
    if peak is None:
        suffix = "" if change["compiled"] else ", not compiled"
        return f"Try {change['words']}{suffix}."
    verb = "compiled" if change["compiled"] else "estimated"
    return f"Fits with {change['words']} ({verb}: {peak / GIB:.2f} GiB)."
