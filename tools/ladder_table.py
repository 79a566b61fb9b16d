"""The tables of ladder.py: DIR/ladder.json, .csv and .md.

A row is a kind, or a kind with one setting changed; its figures are means over
pictures, then mean and standard deviation over seeds. A step is the difference of two
rows, seed by seed: both saw the same pictures in the same order.
"""

import csv
import json
import statistics
from pathlib import Path

KINDS = ("vsd", "sid", "cid", "cida")
Rows = dict[str, dict[str, dict[str, float]]]  # [row][column][seed]


def collect(scores: dict[str, dict[str, list[float]]]) -> Rows:
    """{"cid-seed0": {"photos psnr": one a picture}} -> means [row][column]["0"]."""
    rows: Rows = {}
    for name, columns in scores.items():
        row, _, seed = name.partition("-seed")
        for column, figures in columns.items():
            by_seed = rows.setdefault(row, {}).setdefault(column, {})
            by_seed[seed] = statistics.fmean(figures)
    return rows


def differences(rows: Rows) -> Rows:
    """Each rung less the one below, each changed setting less the kind unchanged."""
    rungs = [kind for kind in KINDS if kind in rows]
    pairs = list(zip(rungs[1:], rungs, strict=False))
    pairs += [(row, row.partition("-")[0]) for row in rows if "=" in row]
    found: Rows = {}
    for after, before in pairs:
        if before in rows:
            found[f"{after} - {before}"] = {
                column: {s: x - rows[before][column][s] for s, x in by_seed.items()
                         if s in rows[before][column]}
                for column, by_seed in rows[after].items()
            }  # fmt: skip
    return found


def table(rows: Rows, signed: bool = False) -> str:
    """Markdown: mean ± standard deviation over seeds; nothing of no rows."""
    if not rows:
        return ""
    columns = list({column: 0 for figures in rows.values() for column in figures})
    lines = [["run", "seeds", *columns], ["---"] * (2 + len(columns))]
    for row, figures in rows.items():
        seeds = str(max(len(x) for x in figures.values()))
        lines.append(
            [row, seeds, *(_cell(figures.get(c, {}), signed) for c in columns)]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(by_seed: dict[str, float], signed: bool) -> str:
    values = list(by_seed.values())
    if not values:
        return "-"
    text = f"{statistics.fmean(values):{'+' if signed else ''}.4f}"
    return text + (f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else "")


def write(folder: Path, scores: dict, failed: dict[str, str]) -> None:
    """All three files, of what there is so far."""
    rows = collect(scores)
    told = {"rows": rows, "differences": differences(rows), "failed": failed}
    (folder / "ladder.json").write_text(json.dumps(told | {"pictures": scores}))
    with (folder / "ladder.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["run", "seed", "column", "mean"])
        for row, columns in rows.items():
            for column, by_seed in columns.items():
                out.writerows([row, s, column, x] for s, x in by_seed.items())
    text = table(rows) + "\n" + table(differences(rows), signed=True)
    text += "".join(f"\nFailed: {name}, {why}\n" for name, why in failed.items())
    (folder / "ladder.md").write_text(text)
