"""Run `gendr restore` in every mode over folders, and print a table of the outcomes.

    python tools/restore_modes.py --weights DIR -i FOLDER... -o OUT [-s 1] [--only tile]

Each mode is a process of its own; results and reports stay in OUT/MODE. `-s` is the
scale of modes that name no size. Exit status 1: a picture failed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

PLAIN = ("default", "tile 64", "tile 0", "color-fix wavelet", "color-fix lab",
         "color-fix none", "color-fix-strength 0.5", "strength 0.5", "strength 0",
         "dtype bf16", "batch 4", "ext png", "ext jpg", "ext webp", "ext tiff",
         "strip-metadata", "recursive", "skip-existing", "stage-times", "dry-run",
         "max-residual 0.02", "mesh data=8", "mesh space=8")  # fmt: skip
SIZES = ("outscale 2.5", "width 1101", "height 1031", "longest-side 1027",
         "megapixels 1.1")  # fmt: skip
FOLDERS = {"compare": "side", "compare-layout split": "split", "residual-map": "maps"}
COLUMNS = ("done", "skipped", "planned", "failed", "warned", "compiled")


def flags_of(mode: str, folder: Path, scale: str) -> list[str]:
    """The flags of a mode."""
    name, _, value = mode.partition(" ")
    flags = [] if name == "default" else [f"--{name}", *value.split()]
    if name in ("compare", "residual-map"):
        flags += [str(folder / FOLDERS[mode])]
    if name == "compare-layout":
        flags += ["--compare", str(folder / "split")]
    return flags if mode in SIZES else [*flags, "-s", scale]


def run(mode: str, options: argparse.Namespace) -> tuple[Counter, float]:
    """({outcome: pictures}, seconds); messages go to OUT/MODE/log."""
    folder = options.output / mode.replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    devices = "8" if mode.startswith("mesh") else "1"
    command = [sys.executable, "-m", "gendr_jax.cli.main", "restore"]
    command += ["--weights", options.weights, "-i", *options.input]
    results = options.output / "default" if mode == "skip-existing" else folder
    command += ["-o", str(results / "out"), "--report", str(folder / "report.jsonl")]
    command += flags_of(mode, folder, options.scale)
    begin, counts = time.perf_counter(), Counter()
    with open(folder / "log", "w") as log:
        environment = {**os.environ, "JAX_NUM_CPU_DEVICES": devices}
        subprocess.run(command, env=environment, stdout=log, stderr=log)
    seconds = time.perf_counter() - begin
    for entry in map(json.loads, (folder / "report.jsonl").read_text().splitlines()):
        counts[entry["status"]] += 1
        counts["warned"] += entry["warning"] is not None
        counts["compiled"] += bool(entry["compiled"])
    return counts, seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("-i", "--input", nargs="+", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("-s", "--scale", default="1")
    parser.add_argument("--only", help="modes that start with this")
    options, failed = parser.parse_args(), 0
    print(f"{'mode':<24}", *(f"{name:>8}" for name in COLUMNS), f"{'seconds':>8}")
    for mode in (*PLAIN, *SIZES, *FOLDERS):
        if mode.startswith(options.only or ""):
            found, took = run(mode, options)
            failed += found["failed"]
            counts = (f"{found[name]:>8}" for name in COLUMNS)
            print(f"{mode:<24}", *counts, f"{took:>8.1f}", flush=True)
    raise SystemExit(failed > 0)
