"""Damages picture files of every format, reads them, and counts what happens.

    python -m tools.fuzz_images [-n 1000] [--seed 0] [-v]

A case may take 20 s and 3 GB. "read" is damage that shows in no header and no checksum
(a bit of a pixel); exit status 1 on anything right of it.
"""

import argparse
import multiprocessing
import resource
import tempfile
from collections import Counter
from pathlib import Path

from tests import image_mutations as fuzz

SECONDS, BYTES, SPAWN = 20, 3 << 30, multiprocessing.get_context("spawn")
FAULTS = ("silent", "message", "traceback", "hang", "crash", "memory")
COLUMNS = ("refused", "read", *FAULTS)


def serve(pipe) -> None:
    """The worker: paths in, outcomes out."""
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    while (path := pipe.recv()) is not None:
        pipe.send((*fuzz.attempt(path), resource.getrusage(resource.RUSAGE_SELF)[2]))


class Worker:
    """A process that is started anew after it hung or died."""

    process = None

    def __call__(self, path: str) -> tuple[str, str, int]:
        if self.process is None:
            self.pipe, end = SPAWN.Pipe()
            self.process = SPAWN.Process(target=serve, args=(end,), daemon=True)
            self.process.start()
            end.close()
        try:
            self.pipe.send(path)
            if self.pipe.poll(SECONDS):
                return self.pipe.recv()
            kind = "hang"
        except (EOFError, OSError):
            kind = "crash"
        self.process = self.process.kill()
        return kind, "", 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=1000, help="how many cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-v", action="store_true", help="print all")
    options, worker, table, peak = parser.parse_args(), Worker(), Counter(), 0
    whole = fuzz.sources()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.n):
            source, damage, suffix, data = fuzz.case(number, options.seed, whole)
            path = Path(folder) / f"{number}.{suffix}"
            path.write_bytes(data)
            kind, said, size = worker(str(path))
            peak, table[source, kind] = max(peak, size), table[source, kind] + 1
            if kind in FAULTS or options.v:
                print(number, kind, source, damage, said)
            path.unlink()
    print(f"{'':<17}", *(f"{column:>9}" for column in COLUMNS))
    for name in (*whole, "all"):
        rows = whole if name == "all" else [name]
        print(f"{name:<17}", *(f"{sum(table[r, c] for r in rows):>9}" for c in COLUMNS))
    worker.pipe.send(None)
    print(f"peak memory {peak / 2**20:.2f} GiB")
    return int(any(n and kind in FAULTS for (_, kind), n in table.items()))


if __name__ == "__main__":
    raise SystemExit(main())
