"""All benchmarks of one machine in one JSON file: for a GPU, or a CPU with --tiny.

    python tools/bench_all.py --json gpu.json [--rounds 10] [--only restore,cida]
    python tools/bench_all.py --json cpu.json --tiny

Each benchmark is a tool in a process of its own; one that fails has its exit status in
place of figures. Full size takes about an hour on a fast GPU, most of it compiling;
weights are random, pictures are noise, nothing is read.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gendr_jax.bench import report  # noqa: E402

TRAIN, RESTORE = "tools/bench_train.py", "tools/bench_restore.py"
DISTILL = [TRAIN, "--config", "configs/distill.py", "--config.batch_size=4"]
BENCHMARKS = {
    "restore": [RESTORE],
    "restore fp32": [RESTORE, "--dtype=fp32", "--sizes=512", "--no-sweep"],
    "cida": [*DISTILL, "--batches=8,16,32", "--sizes=256"],
    "cid": [*DISTILL, "--config.kind=cid"],
    "sid": [*DISTILL, "--config.kind=sid"],
    "vsd": [*DISTILL, "--config.kind=vsd"],
    "lora": [*DISTILL, "--config.generator=lora"],
    "base": [TRAIN, "--config=configs/base.py", "--config.batch_size=8"],
    "vae": [TRAIN, "--config=configs/vae16.py", "--config.batch_size=8"],
}
TINY_DISTILL = [TRAIN, "--config=configs/tiny_distill.py"]
TINY_RESTORE = [RESTORE, "--config=configs/tiny_distill.py"]
TINY = {
    "restore": [*TINY_RESTORE, "--sizes=128,256,512", "--peers=eager"],
    "cida": [*TINY_DISTILL, "--batches=4,16", "--sizes=128", "--devices=1,2,4"],
    "vsd": [*TINY_DISTILL, "--config.kind=vsd"],
    "base": [TRAIN, "--config=configs/tiny_base.py"],
    "vae": [TRAIN, "--config=configs/tiny_vae.py"],
}


def run_benchmark(command: list[str], rounds: int) -> dict:
    with tempfile.TemporaryDirectory() as home:
        path = Path(home, "result.json")
        flags = [f"--rounds={rounds}", f"--json={path}"]
        completed = subprocess.run([sys.executable, *command, *flags], cwd=ROOT)
        if completed.returncode or not path.exists():
            return {"error": f"exit status {completed.returncode}", "command": command}
        return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="what a laptop can do")
    parser.add_argument("--only", default="", help="names of benchmarks, with commas")
    options = parser.parse_args()
    benchmarks, results = TINY if options.tiny else BENCHMARKS, {}
    for name in filter(None, options.only.split(",") if options.only else benchmarks):
        print(f"\n# {name}", flush=True)
        results[name] = run_benchmark(benchmarks[name], options.rounds)
        # After each one, so that an interrupt loses only the current one.
        report.write(options.json, results)


if __name__ == "__main__":
    main()
