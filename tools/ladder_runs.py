"""The runs of ladder.py: which there are, and one of them as a process.

A workdir remembers what was asked of it (asked.json), and what it came to (run.json).
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

GENDR = "import sys; from gendr_jax.cli.main import main; sys.exit(main())"


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
    """Why it failed; empty if it is done, now or before."""
    asked, kept = workdir / "asked.json", json.dumps(args)
    run = workdir / "run.json"
    if run.exists() and asked.exists() and asked.read_text() != kept:
        return f"{workdir} was trained with other settings; remove it, or rename it"
    if run.exists() and json.loads(run.read_text())["stopped"] == "done":
        return ""
    workdir.mkdir(parents=True, exist_ok=True)
    asked.write_text(kept)
    command = [sys.executable, "-c", GENDR, "train", "--workdir", str(workdir), *args]
    ended = subprocess.run(command, capture_output=True, text=True)
    stopped = run.exists() and json.loads(run.read_text())["stopped"]
    (workdir / "train.log").write_text(ended.stdout + ended.stderr)
    last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
    return "" if stopped == "done" else f"exit status {ended.returncode}: {last}"


def logged(workdir: Path) -> dict[str, list[float]]:
    """What training said in its second half of z_g: kinds of a seed saw one data."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines[len(lines) // 2 :]]
    keys = {"training distance": "loss_latent", "training spread": "z_std_ratio"}
    return {
        column: [line[key] for line in told]
        for column, key in keys.items()
        if key in told[-1]
    }
