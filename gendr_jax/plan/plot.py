"""Bar charts of a sweep: peak memory by role, and the time of each resource."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gendr_jax.plan.report import GIB

# Colours for colour-blind readers (Okabe and Ito).
ROLES = {
    "params": "#0072B2",
    "optimizer": "#56B4E9",
    "ema": "#009E73",
    "frozen": "#F0E442",
    "batch": "#999999",
    "rest": "#E69F00",
}
RESOURCES = {"compute": "#0072B2", "memory": "#E69F00", "network": "#009E73"}


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the chart; rows with an error are left out."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [row for row in rows if "error" not in row][::-1]
    height = 1.6 + 0.42 * max(len(shown), 1)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(13, height), sharey=True, layout="constrained"
    )
    _memory(left, shown)
    _time(right, shown)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(partial, dpi=150)
    plt.close(figure)
    partial.replace(path)


def _memory(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Stacked roles up to the peak, and a mark where the memory ends."""
    positions = range(len(rows))
    left_edges = [0.0] * len(rows)
    for role, colour in ROLES.items():
        sizes = [_size(row, role) / GIB for row in rows]
        label = "activations, gradients" if role == "rest" else role
        axes.barh(
            positions, sizes, left=left_edges, color=colour, label=label, height=0.7
        )
        left_edges = [a + b for a, b in zip(left_edges, sizes, strict=True)]
    for position, row in zip(positions, rows, strict=True):
        if row["hbm_bytes"]:
            at = row["hbm_bytes"] / GIB
            axes.plot([at, at], [position - 0.45, position + 0.45], color="black", lw=2)
    axes.set_yticks(list(positions), [_label(row) for row in rows], fontsize=8)
    axes.set_xlabel("GiB a device at the peak (black: HBM of the chip)")
    _legend(axes)


def _legend(axes: Any) -> None:
    """Above the bars, which it must not cover."""
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)


def _size(row: Mapping[str, Any], role: str) -> float:
    arguments = sum(row["roles"].get(name) or 0 for name in ROLES)
    if role == "rest":
        return max((row["peak_bytes"] or 0) - arguments, 0)
    return row["roles"].get(role) or 0


def _label(row: Mapping[str, Any]) -> str:
    fits = "" if row["fits"] else " (does not fit)"
    program = row["program"] if row["program"] == "restore" else row.get("stage") or ""
    setup = f"{row['topology']}  {row['mesh']}  {row['batch_per_device']} a device"
    return f"{program}  {setup}{fits}".strip()


def _time(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Milliseconds of each resource; the longest is the bound."""
    for position, row in enumerate(rows):
        times = row["roofline_s"]
        if times is None:
            continue
        for i, (name, colour) in enumerate(RESOURCES.items()):
            at = position + 0.25 * (1 - i)
            axes.barh(at, 1e3 * times[name], height=0.25, color=colour)
        text = f" MFU {100 * row['mfu_bound']:.0f}%, {row['images_per_s']:.0f} images/s"
        axes.text(1e3 * row["step_s"], position, text, va="center", fontsize=8)
    for name, colour in RESOURCES.items():
        axes.barh(0, 0, color=colour, label=name)
    axes.set_xlim(right=1.6 * axes.get_xlim()[1])  # room for the text
    axes.set_xlabel("ms a step, each resource at its peak")
    _legend(axes)
