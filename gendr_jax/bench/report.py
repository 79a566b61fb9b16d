"""Rows of figures as a table for people and as one JSON for programs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gendr_jax import files
from gendr_jax.bench import other_programs

# Above these a ratio says more of the machine's other work than of the two programs.
OTHERS = 0.15  # share of the cores that other programs use
SPREAD = 0.25  # of processor times, between quartiles
GIB, TERA = 2**30, 1e12
# (title, of a row)
COLUMNS = (
    ("stage", lambda row: row.get("stage") or row["program"]),
    ("by", lambda row: row.get("by", "")),
    ("size", lambda row: f"{row['size'][1]}x{row['size'][0]}"),
    ("batch", lambda row: str(row["batch"])),
    ("ms", lambda row: f"{1e3 * row['seconds']:.4g}"),
    ("cpu ms", lambda row: f"{1e3 * row['processor_s']:.4g}"),
    ("images/s", lambda row: f"{row['images_per_s']:.4g}"),
    ("TFLOP", lambda row: f"{row['flops'] / TERA:.3g}" if "flops" in row else ""),
    ("MFU", lambda row: f"{100 * row['mfu']:.1f}%" if "mfu" in row else ""),
    ("GiB", lambda row: _gib(row)),
    ("compile s", lambda row: f"{row['compile_s']:.3g}" if "compile_s" in row else ""),
    ("ratio", lambda row: f"{row['ratio']:.2f}" if "ratio" in row else ""),
    (
        "cpu ratio",
        lambda row: f"{row['processor_ratio']:.2f}" if "processor_ratio" in row else "",
    ),
    ("wait ms", lambda row: _wait(row)),
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table; columns that no row fills are left out."""
    cells = [[text(row) for _, text in COLUMNS] for row in rows]
    used = [k for k in range(len(COLUMNS)) if any(line[k] for line in cells)]
    lines = [[COLUMNS[k][0] for k in used], ["---"] * len(used)]
    lines += [[line[k] for k in used] for line in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_ratios(rows: Sequence[dict[str, Any]], ours: str) -> list[dict[str, Any]]:
    """Rows of peers get "ratio": how often our time goes into theirs.

    "processor_ratio" is the same of processor time. Where the machine was too busy, or
    times are too far apart, there is neither, but "no_ratio": why.
    """
    found, base = [], {}
    for row in rows:
        key = row["stage"], tuple(row["size"]), row["batch"], row["dtype"]
        if row["by"] == ours:
            base[key] = row
        elif key in base:
            mine = base[key]
            why = _untrusted(mine, row)
            if why:
                row = row | {"no_ratio": why}
            else:
                row = row | {"ratio": row["seconds"] / mine["seconds"]}
                row["processor_ratio"] = row["processor_s"] / mine["processor_s"]
        found.append(row)
    return found


def without_ratio(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each reason why rows have no ratio, with what helps."""
    whys: dict[str, list[str]] = {}
    for row in rows:
        if "no_ratio" in row:
            whys.setdefault(row["no_ratio"], []).append(f"{row['stage']} {row['by']}")
    return [
        f"no ratio for {', '.join(whose)}: {why}. Measure again on a quiet machine, "
        "with more --rounds."
        for why, whose in whys.items()
    ]


def _untrusted(mine: dict[str, Any], theirs: dict[str, Any]) -> str:
    others, cores = theirs.get("other_cores"), other_programs.cores()
    if others is not None and others > OTHERS * cores:
        return f"other programs used {others:.1f} of {cores} cores meanwhile"
    spread = max(row.get("processor_spread", 0.0) for row in (mine, theirs))
    if spread > SPREAD:
        return f"processor times of equal calls differ by {100 * spread:.0f} %"
    return ""


def write(path: Path, content: dict[str, Any]) -> None:
    """The file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, content)


def _gib(row: dict[str, Any]) -> str:
    return f"{row['total_bytes'] / GIB:.3g}" if "total_bytes" in row else ""


def _wait(row: dict[str, Any]) -> str:
    wait = row.get("data_wait")
    return "" if wait is None else f"{1e3 * wait:.3g}"
