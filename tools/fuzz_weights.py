"""Damages weights files of every format, converts them, and counts what happens.

    python -m tools.fuzz_weights [-n 200] [--seed 0] [-v]

A case may take 30 s and 6 GB. "unseen" is damage in formats without checksums, the
last column what passes in spite of --sha256; exit status 1 on all right of "unseen".
"""

import argparse
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from tests.helpers import weights_mutations as fuzz
from tools.limited_worker import Worker

SECONDS, BYTES = 30, 6 << 30
FAULTS = ("silent", "traceback", "hang", "crash", "memory", "--sha256")
COLUMNS = ("refused", "identical", "unseen", *FAULTS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=200, help="how many cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-v", action="store_true", help="print every case")
    options, table = parser.parse_args(), Counter()
    worker = Worker(fuzz.attempt, seconds=SECONDS, limit=BYTES)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        pristine, folder = fuzz.Pristine(home, worker), home / "case" / "source"
        for number in range(options.n):
            case = fuzz.case(number, options.seed, pristine, folder)
            kind, passed, said = pristine.judge(case, folder)
            table.update({(case.source, kind): 1, (case.source, "--sha256"): passed})
            if passed or kind in FAULTS or options.v:
                print(number, kind, case.source, case.file, case.damage, said)
            shutil.rmtree(home / "case")
    print(f"{'':<16}", *(f"{column:>9}" for column in COLUMNS))
    for name in fuzz.SOURCES:
        print(f"{name:<16}", *(f"{table[name, column]:>9}" for column in COLUMNS))
    worker.close()
    return int(any(n and kind in FAULTS for (_, kind), n in table.items()))


if __name__ == "__main__":
    raise SystemExit(main())
