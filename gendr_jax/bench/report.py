"""Rows of figures as a table for people and as one JSON for programs."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

    "processor_ratio" is the same of processor time.
    """
    found, base = [], {}
    for row in rows:
        key = row["stage"], tuple(row["size"]), row["batch"], row["dtype"]
        if row["by"] == ours:
            base[key] = row
        elif key in base:
            mine = base[key]
            row = row | {"ratio": row["seconds"] / mine["seconds"]}
            row["processor_ratio"] = row["processor_s"] / mine["processor_s"]
        found.append(row)
    return found


def write(path: Path, content: dict[str, Any]) -> None:
    """The file appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


def _gib(row: dict[str, Any]) -> str:
    return f"{row['total_bytes'] / GIB:.3g}" if "total_bytes" in row else ""


def _wait(row: dict[str, Any]) -> str:
    wait = row.get("data_wait")
    return "" if wait is None else f"{1e3 * wait:.3g}"
