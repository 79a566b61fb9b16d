"""Train paired, vsd, sid, cid and cida from one base, on the same data; measure each.

    python tools/ladder.py --config configs/tiny_ladder.py --base WEIGHTS \
        --pairs photos=PAIRS realsr=DIR --workdir DIR --config.data.path=PHOTOS \
        [--kinds paired vsd sid cid cida] [--seeds 0 1 2] [--vary score.xi=0,1 ...]

A pair set is a folder with LR and HR, as `gendr degrade` writes it; the centre crop of
each picture is restored. --vary adds runs with one setting changed. A run is `gendr
train` in DIR/NAME; finished ones are not repeated, failed ones are named, and the
others go on. Tables: DIR/ladder.json, .csv and .md.

    python tools/ladder.py plot DIR/ladder.json -o ladder.png [--columns "photos psnr"]

draws them next to the paper's figures; needs the extra [plots].
"""

import argparse
import concurrent.futures
import csv
import dataclasses
import json
import re
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from gendr_jax import files, nets, overwriting
from gendr_jax.cli.common import cache_programs
from gendr_jax.data import decode
from gendr_jax.errors import UsageError
from gendr_jax.image_io.resize import bicubic
from gendr_jax.metrics.kinds import Opened, Settings
from gendr_jax.metrics.table import open_metrics
from gendr_jax.models.vae import VAE
from gendr_jax.restore.pipeline import Restorer
from gendr_jax.train.stages import samples
from gendr_jax.weights import folder
from gendr_jax.weights.folder import Weights

SCALE = 4
TABLES = ("ladder.json", "ladder.csv", "ladder.md")
KINDS = ("paired", "vsd", "sid", "cid", "cida")
PAPER = {"vsd": 4.373, "sid": 4.391, "cid": 4.428, "cida": 4.453}  # Q-Align
GENDR = "import sys; from gendr_jax.cli.main import main; sys.exit(main())"
Pictures = list[np.ndarray]
Make = Callable[[Pictures, Pictures], Pictures]
Scores = dict[str, list[float]]  # {"set metric": a figure a picture}
Rows = dict[str, dict[str, dict[str, float]]]  # [row][column][seed]


# Command line


def parse(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config", type=Path, required=True)
    add("--base", type=Path, required=True, help="weights folder of stage base")
    add("--workdir", type=Path, required=True)
    add("--pairs", nargs="+", required=True, metavar="NAME=DIR")
    add("--kinds", nargs="+", default=list(PAPER), choices=KINDS)
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--vary", nargs="+", default=[], metavar="KEY=A,B")
    add("--metrics", nargs="+", default=["psnr", "ssim", "sharpness"])
    add("--niqe", type=Path, help="parameters, for --metrics niqe")
    add("--side", type=int, default=192, help="of the middle; 0: whole pictures")
    add("--most", type=int, default=20, help="pairs of a set, evenly taken")
    add("--jobs", type=int, default=1, help="runs at once")
    options, overrides = parser.parse_known_args(args)
    if wrong := [text for text in overrides if not text.startswith("--config.")]:
        parser.error(f"unknown {' '.join(wrong)}; overrides are --config.KEY=VALUE")
    return options, overrides


def main(args: list[str]) -> int:
    if args[:1] == ["plot"]:
        return plot(args[1:])
    options, overrides = parse(args)
    shared = [f"--config={options.config}", *overrides]
    shared += [f"--config.init.{network}={options.base}" for network in ("vae", "unet")]
    runs, failed, measuring = planned(options), {}, threading.Lock()

    def train_and_measure(name: str) -> str:
        run_flags = [f"--config.{text}" for text in runs[name]]
        workdir = options.workdir / name
        problem = train(workdir, shared + run_flags)
        if not problem:
            with measuring:
                scores[name] = measure.run(workdir) | logged(workdir)
        return problem

    cache_programs()
    check_apart(options)
    measure = Measure.open(options)
    options.workdir.mkdir(parents=True, exist_ok=True)
    references = measure.references(options.base)
    scores = dict(references)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for name, problem in zip(runs, pool.map(train_and_measure, runs), strict=True):
            print(f"{name}: {problem and 'failed, ' + problem or 'done'}", flush=True)
            failed |= {name: problem} if problem else {}
            complete = {n: scores[n] for n in (*references, *runs) if n in scores}
            write(options.workdir, complete, failed)
    return 1 if failed else 0


# Runs: `gendr train` as a process; asked.json holds its arguments


def check_apart(options: argparse.Namespace) -> None:
    """Refuse outputs that are, or are inside, inputs; links are followed."""
    remedy = "Give another --workdir."
    for text in options.pairs:
        pair_folder = Path(text.partition("=")[2])
        for kind in ("LR", "HR"):
            overwriting.refuse_nested(options.workdir, pair_folder / kind, remedy)
    overwriting.refuse_nested(options.workdir, options.base, remedy)
    outputs = [options.workdir / name for name in (*TABLES, *planned(options))]
    inputs = [options.config] + ([options.niqe] if options.niqe else [])
    overwriting.refuse(outputs, inputs, remedy)


def planned(options: argparse.Namespace) -> dict[str, list[str]]:
    """{name of a run: its overrides}; every seed's runs before those of the next."""
    changes: list[list[str]] = [[]]
    for text in options.vary:
        key, _, values = text.partition("=")
        changes += [[f"{key}={value}"] for value in values.split(",")]
    return {
        "-".join([kind, *change, f"seed{seed}"]): [f"kind={kind}", f"seed={seed}"]
        + change
        for seed in options.seeds
        for change in changes
        for kind in options.kinds
    }


def train(workdir: Path, args: list[str]) -> str:
    """Train unless it is done; the error, or "" where there is none."""
    arguments_file, arguments = workdir / "asked.json", json.dumps(args)
    run = workdir / "run.json"
    if (
        run.exists()
        and arguments_file.exists()
        and arguments_file.read_text() != arguments
    ):
        return f"{workdir} was trained with other settings; remove it, or rename it"
    if run.exists() and json.loads(run.read_text())["stopped"] == "done":
        return ""
    workdir.mkdir(parents=True, exist_ok=True)
    arguments_file.write_text(arguments)
    command = [sys.executable, "-c", GENDR, "train", "--workdir", str(workdir), *args]
    completed = subprocess.run(command, capture_output=True, text=True)
    stopped = run.exists() and json.loads(run.read_text())["stopped"]
    (workdir / "train.log").write_text(completed.stdout + completed.stderr)
    last = (completed.stderr.strip().splitlines() or ["no message"])[-1]
    return "" if stopped == "done" else f"exit status {completed.returncode}: {last}"


def logged(workdir: Path) -> dict[str, list[float]]:
    """Metrics of z_g in the second half of training, in which kinds see equal data."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines[len(lines) // 2 :]]
    keys = {"training distance": "loss_latent", "training spread": "z_std_ratio"}
    return {
        column: [line[key] for line in records]
        for column, key in keys.items()
        if key in records[-1]
    }


# Pictures: pairs, of each the centre crop


def pairs(pair_folder: Path, side: int, most: int) -> tuple[Pictures, Pictures]:
    """Centre crops of LR/ and HR/, paired by name without an ending _LR4 or _HR."""
    low, high = (
        {
            re.sub(r"_(LR|HR)\d*$", "", p.stem): p
            for p in sorted((pair_folder / k).iterdir())
        }
        for k in ("LR", "HR")
    )
    if low.keys() != high.keys() or not low:
        unpaired = sorted(low.keys() ^ high.keys())
        raise UsageError(
            f"{pair_folder}: {len(low)} pictures in LR, partners lack: {unpaired}."
        )
    names = list(low)[:: -(-len(low) // most)]
    return (
        [middle(decode.read(low[name]), side // SCALE, 1) for name in names],
        [middle(decode.read(high[name]), side, SCALE) for name in names],
    )


def middle(pixels_hwc: np.ndarray, side: int, unit: int) -> np.ndarray:
    """The centre crop `side` x `side`, aligned to pixels of the small picture."""
    if not side:
        return pixels_hwc
    top, left = (max((n - side) // 2 // unit * unit, 0) for n in pixels_hwc.shape[:2])
    return pixels_hwc[top : top + side, left : left + side]


def side_by_side(pictures: Pictures) -> np.ndarray:
    """Pictures of one size as one, four in a row; an incomplete row is left out."""
    across = min(4, len(pictures))
    rows = [
        np.concatenate(pictures[i : i + across], axis=1)
        for i in range(0, len(pictures) - across + 1, across)
    ]
    return np.concatenate(rows, axis=0)


def enlarged(low_hwc: np.ndarray) -> np.ndarray:
    height, width = (SCALE * n for n in low_hwc.shape[:2])
    up_hwc = bicubic(low_hwc.astype(np.float32) / 255.0, (height, width))
    return np.round(np.clip(up_hwc, 0, 1) * 255).astype(np.uint8)


def recoded(weights: Weights, pictures: Pictures) -> Pictures:
    """Pictures through the autoencoder alone: an upper bound of every student."""
    config = weights.configs["vae"]
    vae = nets.build(VAE, config)
    encode, decoded = samples.encoder(vae, config), samples.decoder(vae, config)
    reconstruct = jax.jit(
        lambda params, x_bhwc: decoded(params, encode(params, x_bhwc))
    )
    results = []
    for picture in pictures:
        x_bhwc = picture[None].astype(np.float32) / 127.5 - 1.0
        y_hwc = np.asarray(reconstruct(weights.params["vae"], x_bhwc))[0]
        results.append(np.round((np.clip(y_hwc, -1, 1) + 1) * 127.5).astype(np.uint8))
    return results


# Scores of students on pairs of pictures, cached in each run's folder


@dataclasses.dataclass(frozen=True)
class Measure:
    """Pairs {set: (LR, HR)} and metrics."""

    pairs: dict[str, tuple[Pictures, Pictures]]
    metrics: list[Opened]
    side: int
    what: list[
        str
    ]  # all that the figures depend on, besides the weights; the cache key

    @classmethod
    def open(cls, options: argparse.Namespace) -> "Measure":
        names_and_folders = [text.partition("=")[::2] for text in options.pairs]
        sets = {
            name: pairs(Path(pair_folder), options.side, options.most)
            for name, pair_folder in names_and_folders
        }
        metrics = open_metrics(options.metrics, Settings(niqe=options.niqe))
        what = [*options.pairs, f"middle {options.side}", f"most {options.most}"]
        what += [f"{m.metric.name}: {m.protocol}" for m in metrics]
        return cls(sets, metrics, options.side, what)

    def references(self, base: Path) -> dict[str, Scores]:
        """Bicubic, the base model in one step, the re-encoded truth, the truth."""
        weights = dataclasses.replace(folder.load(base), kind="restorer")
        return {
            "bicubic": self.of(lambda low, high: [enlarged(x) for x in low]),
            "base": self.of(restoring(Restorer(weights, dtype="float32", batch=4))),
            "autoencoder": self.of(lambda low, high: recoded(weights, high)),
            "photograph": self.of(lambda low, high: high),
        }

    def run(self, workdir: Path) -> Scores:
        """Scores of a finished run's weights; cached in scores.json."""
        cache_file = workdir / "scores.json"
        if cache_file.exists():
            cached = json.loads(cache_file.read_text())
            if cached["what"] == self.what:
                return cached["scores"]
        restorer = Restorer.from_pretrained(workdir / "weights", "float32", batch=4)
        scores = self.of(restoring(restorer))
        cache_file.write_text(json.dumps({"what": self.what, "scores": scores}))
        return scores

    def of(self, make: Make) -> Scores:
        """Scores of the pictures that `make` gives for a set's LR and HR."""
        scores: Scores = {}
        for name, (low, high) in self.pairs.items():
            results = make(low, high)
            reference = {"nothing": None, "gt": high, "lr": low}
            for opened in self.metrics:
                # A small picture has too few blocks for a covariance of its own.
                pooled = opened.metric.name == "niqe" and self.side
                measured = [side_by_side(results)] if pooled else results
                figures = opened.measure(measured, reference[opened.metric.against])
                scores[f"{name} {opened.metric.name}"] = [float(x) for x in figures]
        return scores


def restoring(restorer: Restorer) -> Make:
    return lambda low, high: restorer(low)


# Tables: a row is a kind, or a kind with one setting changed; figures are means over
# pictures, then mean and standard deviation over seeds. A step is the difference of two
# rows, seed by seed: both saw the same pictures in the same order.


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
    """Each kind minus the one before, each changed setting minus the unchanged kind."""
    rungs = [kind for kind in KINDS if kind in rows]
    pairs = list(zip(rungs[1:], rungs, strict=False))
    pairs += [(row, row.partition("-")[0]) for row in rows if "=" in row]
    result: Rows = {}
    for after, before in pairs:
        if before in rows:
            result[f"{after} - {before}"] = {
                column: {s: x - rows[before][column][s] for s, x in by_seed.items()
                         if s in rows[before][column]}
                for column, by_seed in rows[after].items() if column in rows[before]
            }  # fmt: skip
    return result


def table(rows: Rows, signed: bool = False) -> str:
    """Markdown: mean ± standard deviation over seeds; nothing of no rows."""
    if not rows:
        return ""
    columns = list({column: 0 for figures in rows.values() for column in figures})
    lines = [["run", "seeds", *columns], ["---"] * (2 + len(columns))]
    for row, figures in rows.items():
        seeds = str(max(len(x) for x in figures.values()))
        lines.append(
            [
                row,
                seeds,
                *(_mean_and_spread(figures.get(c, {}), signed) for c in columns),
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _mean_and_spread(by_seed: dict[str, float], signed: bool) -> str:
    values = list(by_seed.values())
    if not values:
        return "-"
    text = f"{statistics.fmean(values):{'+' if signed else ''}.4f}"
    return text + (f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else "")


def write(folder: Path, scores: dict, failed: dict[str, str]) -> None:
    """Write the three tables of the results so far, each atomically."""
    rows = collect(scores)
    content = {"rows": rows, "differences": differences(rows), "failed": failed}
    in_json, in_csv, in_markdown = (folder / name for name in TABLES)
    files.write_text(in_json, json.dumps(content | {"pictures": scores}))
    with files.replacing(in_csv) as temporary, temporary.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["run", "seed", "column", "mean"])
        for row, columns in rows.items():
            for column, by_seed in columns.items():
                out.writerows([row, s, column, x] for s, x in by_seed.items())
    text = table(rows) + "\n" + table(differences(rows), signed=True)
    text += "".join(
        f"\nFailed: {name}, {problem}\n" for name, problem in failed.items()
    )
    files.write_text(in_markdown, text)


# Plot


def panel(axis, rows: Rows, column: str) -> None:
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


def plot(args: list[str]) -> int:
    """A dot is a seed, the line joins their means, dotted is the base."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(prog="ladder.py plot", description=plot.__doc__)
    parser.add_argument("ladder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--columns", nargs="+", help="default: all")
    options = parser.parse_args(args)
    overwriting.refuse([options.output], [options.ladder], "Name another with -o.")
    rows = json.loads(options.ladder.read_text())["rows"]
    if not PAPER.keys() & rows.keys():
        raise SystemExit(f"{options.ladder} has none of {', '.join(PAPER)}.")
    known = list(rows[next(kind for kind in PAPER if kind in rows)])
    columns = options.columns or known
    if unknown := [c for c in columns if c not in known]:
        raise SystemExit(f"no column {unknown}; there are {', '.join(known)}.")
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
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
