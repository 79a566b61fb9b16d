"""Benchmark a training step by batch, crop size and devices. Tiny by default.

    python tools/bench_train.py [--config configs/tiny_distill.py] [--batches 4,8,16]
        [--sizes 32,64] [--devices 1,2,4] [--rounds 5] [--json FILE]
        [--config.KEY=VALUE]

Each measurement is `gendr bench` in a process of its own, with one setting changed. On
a CPU the devices share its cores: with the same batch, their times show what splitting
it costs, not how fast more devices are.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gendr_jax.bench import report  # noqa: E402


def measure(config: str, flags: list[str], devices: str | None) -> dict:
    """The result of `gendr bench`; devices: split a CPU into so many."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    if devices:
        env |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": devices}
    with tempfile.TemporaryDirectory() as home:
        path = Path(home, "result.json")
        command = [sys.executable, "-m", "gendr_jax.cli.main", "bench", "--config"]
        command += [config, *flags, f"--json={path}"]
        completed = subprocess.run(command, env=env, capture_output=True, text=True)
        if completed.returncode:
            return {"error": completed.stderr.strip().splitlines()[-1]}
        return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "configs" / "tiny_distill.py"))
    parser.add_argument("--batches", default="")
    parser.add_argument("--sizes", default="")
    parser.add_argument("--devices", default="")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options, passed = parser.parse_known_args()
    shared = [f"--rounds={options.rounds}", *passed]
    values_of = lambda text: [w for w in text.split(",") if w]  # noqa: E731
    settings = [([], None)]
    settings += [([f"--batch={n}"], None) for n in values_of(options.batches)]
    settings += [([f"--size={n}"], None) for n in values_of(options.sizes)]
    settings += [([f"--config.mesh=data={n}"], n) for n in values_of(options.devices)]
    results = []
    for flags, devices in settings:
        result = measure(options.config, shared + flags, devices)
        results.append({"flags": flags} | result)
        print(f"\n{' '.join(flags) or 'as configured'}\n", flush=True)
        print(result.get("error") or report.table(result["rows"]), flush=True)
    if options.json:
        report.write(options.json, {"cells": results})


if __name__ == "__main__":
    main()
