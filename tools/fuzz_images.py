"""Damages picture files of every format, reads them, and counts what happens.

    python -m tools.fuzz_images [-n 1000] [--seed 0] [-v]

A case may take 20 s and 3 GB. "read" is damage that shows in no header and no checksum
(a bit of a pixel); exit status 1 on anything right of it.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from tests.helpers import image_mutations as fuzz
from tools.limited_worker import Worker

SECONDS, BYTES = 20, 3 << 30
FAULTS = ("silent", "message", "traceback", "hang", "crash", "memory")
COLUMNS = ("refused", "read", *FAULTS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=1000, help="how many cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-v", action="store_true", help="print all")
    options, table = parser.parse_args(), Counter()
    worker = Worker(fuzz.attempt, seconds=SECONDS, limit=BYTES)
    whole = fuzz.sources()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.n):
            source, damage, suffix, data = fuzz.case(number, options.seed, whole)
            path = Path(folder) / f"{number}.{suffix}"
            path.write_bytes(data)
            kind, said = worker(str(path))
            table[source, kind] += 1
            if kind in FAULTS or options.v:
                print(number, kind, source, damage, said)
            path.unlink()
    print(f"{'':<17}", *(f"{column:>9}" for column in COLUMNS))
    for name in (*whole, "all"):
        rows = whole if name == "all" else [name]
        print(f"{name:<17}", *(f"{sum(table[r, c] for r in rows):>9}" for c in COLUMNS))
    worker.close()
    print(f"peak memory {worker.peak:.2f} GiB")
    return int(any(n and kind in FAULTS for (_, kind), n in table.items()))


if __name__ == "__main__":
    raise SystemExit(main())
