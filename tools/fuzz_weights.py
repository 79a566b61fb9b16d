"""Damages weights files of every format, converts them, and counts what happens.

    python -m tools.fuzz_weights [-n 200] [--seed 0] [-v]

Each case runs in a process that may take 30 s and 6 GB. Fails (1) on any traceback,
hang, crash, want of memory, or damage that a checksum should have shown: "silent".
"unseen": damaged numbers of a format without checksums; with --sha256 (last column:
how many were not refused) no damage to a weights file may pass.
"""

import argparse
import multiprocessing
import resource
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests import weights_mutations as fuzz
from tests import weights_samples

SECONDS, BYTES = 30, 6 << 30
CLASSES = ("refused", "identical", "unseen")
FAULTS = ("silent", "traceback", "hang", "crash", "memory")


def serve(pipe) -> None:
    """The worker: arguments of ``attempt`` in, outcomes out."""
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    while True:
        pipe.send(fuzz.attempt(*pipe.recv()))


class Worker:
    """A process that is started anew after it hung or died."""

    process = None

    def __call__(self, *arguments) -> tuple[str, str]:
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=serve, args=(theirs,), daemon=True)
            self.process.start()
            theirs.close()
        self.pipe.send(arguments)
        try:
            if self.pipe.poll(SECONDS):
                return self.pipe.recv()
        except EOFError:
            self.process = None
            return "crash", "the process died"
        self.process.kill()
        self.process = None
        return "hang", f"no end in {SECONDS} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=200, help="how many cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-v", action="store_true", help="print every case")
    options = parser.parse_args()
    worker, table, failed = Worker(), Counter(), 0
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        expected, known = {}, {}
        for name in weights_samples.SOURCES:
            weights_samples.make(name, home / "whole" / name)
            kind, expected[name] = worker(name, home / "whole" / name, home / "out")
            assert kind == "converted", expected[name]
            known[name] = fuzz.hashes(home / "whole" / name)
        for number in range(options.n):
            folder = home / "case" / "source"
            case = fuzz.case(number, options.seed, home / "whole", folder)
            outcome = worker(case.source, folder, home / "out")
            kind = fuzz.verdict(case, outcome, expected[case.source])
            passed = outcome[0] == "converted" and case.weights and known[case.source]
            if passed:
                again = worker(case.source, folder, home / "out", known[case.source])
                passed = again[0] != "refused"
            table[case.source, kind] += 1
            table[case.source, "with --sha256"] += bool(passed)
            wrong = kind in FAULTS or passed
            failed += bool(wrong)
            if wrong or options.v:
                print(number, kind, case.source, case.file, case.damage, outcome[1])
            shutil.rmtree(home / "case")
    columns = (*CLASSES, *FAULTS, "with --sha256")
    print(f"{'':<16}", *(f"{c:>9}" for c in columns))
    for name in weights_samples.SOURCES:
        print(f"{name:<16}", *(f"{table[name, c]:>{max(9, len(c))}}" for c in columns))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
