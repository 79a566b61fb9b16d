"""Fuzz the readers: damage files of every format, read them, count the outcomes.

    python -m tools.fuzz images [-n 1000] [--seed 0] [-v]
    python -m tools.fuzz weights [-n 200] [--seed 0] [-v]

Each case runs in a process with limits of time and memory, which is restarted when it
dies. images: "read" is damage that no header and no checksum detects (a bit of a
pixel). weights: they are converted; "unseen" is damage in formats without checksums,
the last column what passes in spite of --sha256. Exit status 1: a fault, which is any
column after these.
"""

import argparse
import logging
import multiprocessing
import re
import resource
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

SPAWN = multiprocessing.get_context("spawn")


def serve(pipe, attempt: Callable[..., tuple[str, str]], limit: int) -> None:
    """In the process: arguments in, outcomes and the peak of memory out."""
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    logging.disable()
    while (arguments := pipe.recv()) is not None:
        outcome = attempt(*arguments)
        pipe.send((outcome, peak_kib()))


def peak_kib() -> int:
    """Peak memory of this process; getrusage would include that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Worker:
    """Calls `attempt`, a function of a module; (kind of outcome, message) comes back.

    Attributes:
        peak: GiB that its processes came to.
    """

    def __init__(
        self, attempt: Callable[..., tuple[str, str]], *, seconds: float, limit: int
    ):
        """seconds: of one call, above which it is a "hang"; limit: bytes."""
        self._attempt, self._seconds, self._limit = attempt, seconds, limit
        self._process, self.peak = None, 0.0

    def __call__(self, *arguments: object) -> tuple[str, str]:
        if self._process is None:
            self._pipe, end = SPAWN.Pipe()
            passed = end, self._attempt, self._limit
            self._process = SPAWN.Process(target=serve, args=passed, daemon=True)
            self._process.start()
            end.close()
        try:
            self._pipe.send(arguments)
            if self._pipe.poll(self._seconds):
                outcome, size = self._pipe.recv()
                self.peak = max(self.peak, size / 2**20)
                return outcome
            kind = "hang"
        except (EOFError, OSError):
            kind = "crash"
        self._process.kill()
        self._process.join()
        self._process = None
        return kind, ""

    def close(self) -> None:
        """Let the process end."""
        if self._process is not None:
            self._pipe.send(None)
            self._process.join()
            self._process = None


def fuzz_images(count: int, seed: int, verbose: bool) -> int:
    """Read `count` damaged pictures, each in at most 20 s and 3 GB."""
    from tools import image_mutations

    faults = ("silent", "message", "traceback", "hang", "crash", "memory")
    table: Counter[tuple[str, str]] = Counter()
    worker = Worker(image_mutations.attempt, seconds=20, limit=3 << 30)
    sources = image_mutations.sources()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            source, damage, suffix, data = image_mutations.case(number, seed, sources)
            path = Path(folder) / f"{number}.{suffix}"
            path.write_bytes(data)
            kind, message = worker(str(path))
            table[source, kind] += 1
            if kind in faults or verbose:
                print(number, kind, source, damage, message)
            path.unlink()
    worker.close()
    print_table(table, list(sources), ("refused", "read", *faults))
    print(f"peak memory {worker.peak:.2f} GiB")
    return int(any(n and kind in faults for (_, kind), n in table.items()))


def fuzz_weights(count: int, seed: int, verbose: bool) -> int:
    """Convert `count` damaged sources, each in at most 30 s and 6 GB."""
    from tools import weights_mutations

    faults = ("silent", "traceback", "hang", "crash", "memory", "--sha256")
    table: Counter[tuple[str, str]] = Counter()
    worker = Worker(weights_mutations.attempt, seconds=30, limit=6 << 30)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        folder = home / "case" / "source"
        pristine = weights_mutations.Pristine(home, worker)
        for number in range(count):
            case = weights_mutations.case(number, seed, pristine, folder)
            kind, passed, message = pristine.judge(case, folder)
            table.update({(case.source, kind): 1, (case.source, "--sha256"): passed})
            if passed or kind in faults or verbose:
                print(number, kind, case.source, case.file, case.damage, message)
            shutil.rmtree(home / "case")
    worker.close()
    columns = ("refused", "identical", "unseen", *faults)
    print_table(table, list(weights_mutations.SOURCES), columns)
    return int(any(n and kind in faults for (_, kind), n in table.items()))


def print_table(
    table: Counter[tuple[str, str]], sources: list[str], columns: tuple[str, ...]
) -> None:
    """One line a source, and their sum."""
    print(f"{'':<17}", *(f"{column:>9}" for column in columns))
    for name in (*sources, "all"):
        rows = sources if name == "all" else [name]
        print(f"{name:<17}", *(f"{sum(table[r, c] for r in rows):>9}" for c in columns))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["images", "weights"])
    parser.add_argument("-n", type=int, help="cases: 1000 images, 200 weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-v", action="store_true", help="print every case")
    options = parser.parse_args()
    if options.what == "images":
        return fuzz_images(options.n or 1000, options.seed, options.v)
    return fuzz_weights(options.n or 200, options.seed, options.v)


if __name__ == "__main__":
    raise SystemExit(main())
