"""Time and memory of conversions at full size, with random weights made on the spot.

    python tools/bench_convert.py WORK [--formats diffusers,bin,shards,ldm,...]

Each format is written to WORK by the library that owns it, converted to our folder and
back by `gendr convert` in processes of their own, and compared byte for byte. Prints a
line of JSON a format: seconds, peak resident bytes over the file's bytes, byte_equal.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.helpers.full_size_sources import FORMATS, make  # noqa: E402

# The high-water mark of a process that has ended is known to its parent alone.
PROBE = (
    "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024); "
    "sys.exit(code)"
)


def run(*words: object) -> tuple[float, int]:
    """(seconds, peak resident bytes) of `gendr convert` with these words."""
    command = [sys.executable, "-c", PROBE, sys.executable, "-m", "gendr_jax.cli.main"]
    command += ["convert", *map(str, words)]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - begin, int(done.stdout.split()[-1])


def measure(name: str, work: Path) -> dict[str, object]:
    """One format, there and back."""
    source, flags, equal = make(name, work / name)
    files = [p for s in source for p in ([s] if s.is_file() else s.rglob("*.*"))]
    size = sum(p.stat().st_size for p in files)
    there, peak = run(*source, "-o", work / f"{name}-ours", *flags)
    back, peak_back = run(work / f"{name}-ours", "-o", work / f"{name}-back", "--to",
                          "peft" if name == "peft" else "diffusers")  # fmt: skip
    result = {
        "format": name,
        "gigabytes": round(size / 1e9, 3),
        "seconds": round(there, 1),
        "peak_over_file": round(peak / size, 2),
        "back_seconds": round(back, 1),
        "back_peak_over_file": round(peak_back / size, 2),
        "byte_equal": equal(work / f"{name}-back"),
    }
    for folder in (name, f"{name}-ours", f"{name}-back"):
        shutil.rmtree(work / folder)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--formats", default=",".join(FORMATS))
    args = parser.parse_args()
    for name in args.formats.split(","):
        print(json.dumps(measure(name, args.work)), flush=True)


if __name__ == "__main__":
    main()
