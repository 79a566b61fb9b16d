"""Pairs (512 to 128 pixels) degraded a second, by the CPU time of one core.

    python -m tools.bench_degrade PHOTOS [--torch-reference FILES]
    python -m tools.bench_degrade --tpu v5e:1x1

PHOTOS: a folder of pictures. FILES: see tests/helpers/degrade_reference.py; OpenCV is
measured beside it. --tpu needs libtpu; its figures are the compiler's. Prints lines
of JSON.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def clock(name: str, make, pairs: int, size: int = 1) -> None:
    """make(k) does the k-th call, of `size` pairs; the first one compiles."""
    make(-1)
    begun = time.process_time()
    for k in range(pairs // size):
        make(k)
    seconds = (time.process_time() - begun) / (pairs // size * size)
    say(name=name, ms=round(seconds * 1e3, 2), per_second=round(1 / seconds, 1))


def measure(photos: Path, files: Path | None, pairs: int) -> None:
    from tools import degrade_programs as programs

    hq = programs.crops(photos, 32)
    for name, run in programs.stages(hq[0]):
        clock(name, run, 12)
    for size in (1, 4, 12, 32):
        clock(f"degrade, batch {size}", programs.batches(hq, size), pairs, size)
    if files is None:
        return
    import numpy as np
    import torch

    from tests.helpers import degrade_reference

    torch.set_num_threads(1)
    reference = degrade_reference.Reference(files)
    rng, noise = random.Random(0), np.random.default_rng(0)
    p = [degrade_reference.draw(rng) for _ in range(pairs)]
    clock("torch reference", lambda k: reference.apply(hq[k % 32], p[k]), pairs // 2)
    import cv2

    from tests.helpers import degrade_opencv

    cv2.setNumThreads(1)
    run = lambda k: degrade_opencv.degrade(reference, noise, hq[k % 32], p[k])  # noqa: E731
    clock("OpenCV", run, pairs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--torch-reference", type=Path)
    parser.add_argument("--pairs", type=int, default=96)
    parser.add_argument("--tpu", metavar="TOPOLOGY", help="for example v5e:1x1")
    flags = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    if flags.tpu:
        from tools import degrade_tpu

        for line in degrade_tpu.tpu(flags.tpu):
            say(**line)
    elif flags.photos is None:
        parser.error("give a folder of PHOTOS, or --tpu v5e:1x1")
    else:
        # before jax makes its threads
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        measure(flags.photos, flags.torch_reference, flags.pairs)
