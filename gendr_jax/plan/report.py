"""From facts to rows of the contract's JSON, and from rows to a table."""

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
    """A request in a few words."""
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

    Keys beside the contract's say what they are; what is not known is None.
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
    known = ("peak_bytes", "argument_bytes", "temp_bytes", "flops", "hbm_traffic_bytes")
    known += ("collectives", "fits")
    found = head | {name: facts.get(name) for name in known}
    found |= {k: v for k, v in facts.items() if k not in found}
    found["hbm_bytes"] = chip.hbm_bytes if chip else None
    temporary = facts.get("temp_bytes")
    found["roles"] = dict(facts["roles"]) | {"activations": temporary}
    found["idle_axes"] = _idle_axes(request, facts["mesh_axes"])
    found["efficiency"] = dataclasses.asdict(efficiency)
    if chip is None or facts.get("flops") is None:
        return found | dict.fromkeys(TIMES)
    found["programs"] = programs(facts, chip, efficiency)
    return found | _times(facts, chip, roofline(facts, chip, efficiency), pairs)


def _idle_axes(request: Request, axes: Mapping[str, int]) -> list[str]:
    """Mesh axes over which, by the config's own word, no weight is split."""
    rules = request.config.get("sharding", {}).get("rules")
    split = rules is None or any("model" in how for _, how in rules)
    return [] if split or axes.get("model", 1) == 1 else ["model"]


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
    """Rows as a Markdown table that also reads well as plain text, and its notes."""
    cells = [HEADS, *(_cells(one) for one in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADS))]

    def line(values: Sequence[str]) -> str:
        left = [v.ljust(w) for v, w in zip(values[:2], widths[:2], strict=True)]
        right = [v.rjust(w) for v, w in zip(values[2:], widths[2:], strict=True)]
        return "| " + " | ".join(left + right) + " |"

    rule = ["-" * w if i < 2 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines = [line(HEADS), "| " + " | ".join(rule) + " |"]
    lines += [line(values) for values in cells[1:]]
    return "\n".join(lines + tables(rows) + _notes(rows))


def _cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    head = (one["topology"], one["mesh"] or "", _number(one["batch_per_device"], 0))
    if "error" in one:
        return (*head, "failed", *("",) * (len(HEADS) - 4))
    sent = sum(c["bytes"] for c in (one["collectives"] or {}).values())
    network, times = one["collectives"] is not None, one["roofline_s"] or {}
    return (
        *head,
        "yes" if one["fits"] else "NO",
        _number(one["peak_bytes"], 2, GIB),
        _number(one["hbm_bytes"], 2, GIB),
        *(_number(one["roles"].get(r, 0), 2, GIB) for r in ROLES[:4]),
        _number(one["temp_bytes"], 2, GIB),
        _number(one["flops"], 2, 1e12),
        _number(one["hbm_traffic_bytes"], 1, 1e9),
        _number(sent if network else None, 2, 1e9),
        *(_number(times.get(r), 1, 1e-3) for r in ("compute", "memory", "network")),
        *(_number(one[s], 1, 1e-3) for s in STEPS),
        one["bound"] or "",
        *(_percent(one[s]) for s in ("mfu_bound", "mfu_exposed", "mfu_serial")),
        _percent(one["mfu_model"]),
        _number(one["images_per_s"], 0),
        _number(one["days"], 2),
        _number(one["chip_hours"], 0),
    )


def _number(value: float | None, digits: int, unit: float = 1.0) -> str:
    return "" if value is None else f"{value / unit:.{digits}f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f}%"


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for one in rows:
        where = f"{one['topology']} {one['mesh']}".rstrip()
        if one["batch_per_device"] is not None:
            where += f" batch {one['batch_per_device']}"
        if "error" in one:
            lines.append(f"{where}: {one['error']}")
        elif not one["fits"] and one["hbm_bytes"]:
            over = (one["peak_bytes"] - one["hbm_bytes"]) / GIB
            lines.append(f"{where}: {over:.2f} GiB too much. {_advice(one)}")
        if one.get("loops_of_unknown_length"):
            count = one["loops_of_unknown_length"]
            lines.append(f"{where}: {count} loops of unknown length, counted once")
        lines += [f"{where}: {warning}" for warning in warnings(one)]
    if any(one.get("step_s") for one in rows):
        lines += _assumptions(rows)
    return ["", *lines] if lines else []


def _assumptions(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    rates = next(one["efficiency"] for one in rows if one.get("step_s"))
    if set(rates.values()) == {1.0}:
        how = "at their peak rates, which no program reaches (--efficiency: measured)"
    else:
        told = ", ".join(f"{name} {share:g}" for name, share in rates.items())
        how = f"at shares of their peak rates as given ({told})"
    return [
        f"Times: resources {how}. step: all of them overlap, a bound from below, and "
        "images/s, days and chip-h with it; net exposed: computing and HBM overlap; "
        "no overlap: their sum. Launch, host, data, saving and restarts are left out."
    ]


def _advice(one: Mapping[str, Any]) -> str:
    change = one.get("change")
    if not change:
        return ""
    peak = change["peak_bytes"]
    if peak is None:
        how = "" if change["compiled"] else ", not compiled"
        return f"Try {change['words']}{how}."
    verb = "compiled" if change["compiled"] else "estimated"
    return f"Fits with {change['words']} ({verb}: {peak / GIB:.2f} GiB)."
