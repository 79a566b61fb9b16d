"""Decoded and cropped images a second: a folder against ArrayRecord shards of it.

    python -m tools.bench_input [--photos DIR] [--side 1024] [--crop 512] [--seconds 8]

Without --photos it makes 64 JPEG-95 files of --side pixels from random smooth texture.
workers=0 decodes in two threads of this process, and its "per core" divides by the CPU
time spent. The start of workers is left out, and nothing is cached between reads.
"""

import argparse
import itertools
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from gendr_jax.data import pipeline, shard_writer, shards, sources

BATCH = 8


def make_photos(folder: Path, side: int) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for k in range(64):
        coarse = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((side, side), Image.BICUBIC)
        picture.save(folder / f"{k:02d}.jpg", quality=95, subsampling=0)
    return folder


def measure(source, crop: int, workers: int, seconds: float) -> tuple[float, float]:
    """(images a second, images a second of this process' CPU time)."""
    stream = pipeline.batches(
        source, batch_size=BATCH, crop=crop, seed=0, workers=workers
    )
    for _ in itertools.islice(stream, 2 * max(workers, 1)):
        pass
    count, begun, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < seconds:
        next(stream)
        count += BATCH
    wall = time.perf_counter() - begun
    cpu_seconds = time.process_time() - cpu
    stream.close()
    return count / wall, count / cpu_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        photos = options.photos or make_photos(Path(home, "photos"), options.side)
        shard_writer.write(photos, Path(home, "shards"), count=4)
        kinds = {
            "folder": sources.folder(photos, cache_bytes=0),
            "ArrayRecord": shards.shards(f"{home}/shards/*.array_record"),
        }
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print("| source | workers | images/s | images/s per core |\n|---|---|---|---|")
        for (name, source), workers in itertools.product(kinds.items(), (0, 2, 4)):
            rate, core = measure(source, options.crop, workers, options.seconds)
            shown = "" if workers else f"{core:.0f}"
            print(f"| {name} | {workers} | {rate:.0f} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
