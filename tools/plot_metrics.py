"""Plot the losses of training runs, one panel a loss, from their metrics.jsonl.

    python tools/plot_metrics.py WORKDIR... -o curves.png [--keys loss_vae l1_vae]

A thin line is the logged value, a thick one its running mean. Extra: [plots].
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def read(workdir: Path) -> dict[str, tuple[list[int], list[float]]]:
    """{key: (steps, values)} of every loss in a run."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for text in (workdir / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        for key, value in line.items():
            if key != "step" and isinstance(value, int | float):
                steps, values = series.setdefault(key, ([], []))
                steps.append(line["step"])
                values.append(value)
    return series


def smooth(values: list[float], window: int) -> np.ndarray:
    """Mean of the last ``window`` values; shorter at the start."""
    total = np.cumsum(np.insert(np.asarray(values, float), 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (total[ends] - total[starts]) / (ends - starts)


def main() -> None:
    """Flags, then one figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("curves.png"))
    parser.add_argument("--keys", nargs="+", help="default: every key with 'loss'")
    options = parser.parse_args()
    panels = []
    for workdir in options.workdirs:
        series = read(workdir)
        keys = options.keys or [k for k in series if "loss" in k]
        panels += [(f"{workdir.name}: {k}", *series[k]) for k in keys if k in series]
    if not panels:
        raise SystemExit(f"none of {options.keys} was logged in {options.workdirs}.")
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.6 * columns, 2.5 * rows), squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (title, steps, values) in zip(axes.flat, panels, strict=False):
        axis.plot(steps, values, linewidth=0.5, alpha=0.5)
        axis.plot(steps, smooth(values, max(3, len(values) // 15)), linewidth=1.5)
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(options.output, dpi=110)
    print(options.output)


if __name__ == "__main__":
    main()
