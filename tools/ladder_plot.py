"""Draw the ladder beside the paper's, from the ladder.json of ladder.py.

    python tools/ladder_plot.py DIR/ladder.json -o ladder.png [--columns "photos psnr"]

A dot is a seed, the line goes through their means, dotted is the base before
distillation. Extra: [plots].
"""

import argparse
import json
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

PAPER = {"vsd": 4.373, "sid": 4.391, "cid": 4.428, "cida": 4.453}  # Q-Align


def panel(axis, rows: dict, column: str) -> None:
    """One figure of ours over the kinds."""
    rungs = [kind for kind in PAPER if kind in rows]
    for at, rung in enumerate(rungs):
        values = list(rows[rung][column].values())
        axis.plot([at] * len(values), values, "C0o", alpha=0.5, markersize=4)
    axis.plot([statistics.fmean(rows[r][column].values()) for r in rungs], "C0-")
    if column in rows.get("base", {}):
        axis.axhline(rows["base"][column][""], color="0.6", linestyle=":")
    axis.set_xticks(range(len(rungs)), rungs)
    axis.set_title(f"here: {column}", fontsize=9)


def main() -> None:
    """Flags, then one figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ladder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--columns", nargs="+", help="default: all")
    options = parser.parse_args()
    rows = json.loads(options.ladder.read_text())["rows"]
    if not PAPER.keys() & rows.keys():
        raise SystemExit(f"{options.ladder} has none of {', '.join(PAPER)}.")
    known = list(rows[next(kind for kind in PAPER if kind in rows)])
    columns = options.columns or known
    if odd := [c for c in columns if c not in known]:
        raise SystemExit(f"no column {odd}; there are {', '.join(known)}.")
    across = min(4, 1 + len(columns))
    down = -(-(1 + len(columns)) // across)
    figure, axes = plt.subplots(
        down, across, figsize=(2.6 * across, 2.4 * down), squeeze=False
    )
    first, *others = axes.flat
    first.plot(list(PAPER), list(PAPER.values()), "ko-", markersize=4)
    first.set_title("paper: Q-Align", fontsize=9)
    for axis, column in zip(others, columns, strict=False):
        panel(axis, rows, column)
    for axis in axes.flat:
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in others[len(columns) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(options.output, dpi=90, metadata={"Software": None})
    print(options.output)


if __name__ == "__main__":
    main()
