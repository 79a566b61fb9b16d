"""Benchmark rows as a Markdown table, and results as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gendr_jax import files
from gendr_jax.bench import other_programs

# Above these limits ratios are not reported: the machine was too busy.
MAX_OTHERS = 0.15  # share of the cores that other programs use
MAX_SPREAD = 0.25  # relative distance of the quartiles of CPU times
GIB, TERA = 2**30, 1e12
# (title, text of a row)
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
    """A Markdown table without columns that are empty in all rows."""
    cells = [[text(row) for _, text in COLUMNS] for row in rows]
    used = [k for k in range(len(COLUMNS)) if any(line[k] for line in cells)]
    lines = [[COLUMNS[k][0] for k in used], ["---"] * len(used)]
    lines += [[line[k] for k in used] for line in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_ratios(rows: Sequence[dict[str, Any]], ours: str) -> list[dict[str, Any]]:
    """Adds "ratio" to rows of peers: their time divided by ours.

    "processor_ratio" is the same for CPU time. If the machine was too busy, or times
    vary too much, rows get "no_ratio" with the reason instead.
    """
    rows_with_ratios, base = [], {}
    for row in rows:
        key = row["stage"], tuple(row["size"]), row["batch"], row["dtype"]
        if row["by"] == ours:
            base[key] = row
        elif key in base:
            our_row = base[key]
            reason = _no_ratio_reason(our_row, row)
            if reason:
                row = row | {"no_ratio": reason}
            else:
                row = row | {"ratio": row["seconds"] / our_row["seconds"]}
                row["processor_ratio"] = row["processor_s"] / our_row["processor_s"]
        rows_with_ratios.append(row)
    return rows_with_ratios


def without_ratio(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each reason why rows have no ratio, with the remedy."""
    rows_by_reason: dict[str, list[str]] = {}
    for row in rows:
        if "no_ratio" in row:
            rows_by_reason.setdefault(row["no_ratio"], []).append(
                f"{row['stage']} {row['by']}"
            )
    return [
        f"no ratio for {', '.join(names)}: {reason}. Measure again on a quiet machine, "
        "with more --rounds."
        for reason, names in rows_by_reason.items()
    ]


def _no_ratio_reason(our_row: dict[str, Any], peer_row: dict[str, Any]) -> str:
    others, cores = peer_row.get("other_cores"), other_programs.cores()
    if others is not None and others > MAX_OTHERS * cores:
        return f"other programs used {others:.1f} of {cores} cores meanwhile"
    spread = max(row.get("processor_spread", 0.0) for row in (our_row, peer_row))
    if spread > MAX_SPREAD:
        return f"processor times of equal calls differ by {100 * spread:.0f} %"
    return ""


def write(path: Path, content: dict[str, Any]) -> None:
    """Write the JSON file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, content)


def _gib(row: dict[str, Any]) -> str:
    return f"{row['total_bytes'] / GIB:.3g}" if "total_bytes" in row else ""


def _wait(row: dict[str, Any]) -> str:
    wait = row.get("data_wait")
    return "" if wait is None else f"{1e3 * wait:.3g}"
