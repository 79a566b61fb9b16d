"""Train vsd, sid, cid and cida from one base, on the same data, and measure each.

    python tools/ladder.py --config configs/tiny_ladder.py --base WEIGHTS \
        --pairs photos=PAIRS realsr=DIR --workdir DIR --config.data.path=PHOTOS \
        [--kinds vsd sid cid cida] [--seeds 0 1 2] [--vary score.xi=0,1 ...]

A pair set is a folder with LR and HR, as `gendr degrade` writes it; of each picture the
middle is restored. --vary changes one setting at a time, beside the runs that change
none. A run is `gendr train` in DIR/NAME; one that is done is not repeated, one that
fails is named, and the others go on. Tables and plot: DIR/ladder.* (ladder_table.py).
"""

import argparse
import concurrent.futures
import sys
import threading
from pathlib import Path

from ladder_measure import Measure
from ladder_runs import logged, planned, train
from ladder_table import KINDS, write

from gendr_jax.cli.common import cache_programs


def parse(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config", type=Path, required=True)
    add("--base", type=Path, required=True, help="weights folder of stage base")
    add("--workdir", type=Path, required=True)
    add("--pairs", nargs="+", required=True, metavar="NAME=DIR")
    add("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--vary", nargs="+", default=[], metavar="KEY=A,B")
    add("--metrics", nargs="+", default=["psnr", "ssim", "sharpness"])
    add("--niqe", type=Path, help="parameters, for --metrics niqe")
    add("--side", type=int, default=192, help="of the middle; 0: whole pictures")
    add("--most", type=int, default=20, help="pairs of a set, evenly taken")
    add("--jobs", type=int, default=1, help="runs at once")
    options, rest = parser.parse_known_args(args)
    if wrong := [text for text in rest if not text.startswith("--config.")]:
        parser.error(f"unknown {' '.join(wrong)}; overrides are --config.KEY=VALUE")
    return options, rest


def main(args: list[str]) -> int:
    options, overrides = parse(args)
    shared = [f"--config={options.config}", *overrides]
    shared += [f"--config.init.{part}={options.base}" for part in ("vae", "unet")]
    runs, failed, measuring = planned(options), {}, threading.Lock()

    def one(name: str) -> str:
        own = [f"--config.{text}" for text in runs[name]]
        where = options.workdir / name
        problem = train(where, shared + own)
        if not problem:
            with measuring:
                scores[name] = measure.run(where) | logged(where)
        return problem

    cache_programs()
    measure = Measure.open(options)
    options.workdir.mkdir(parents=True, exist_ok=True)
    references = measure.references(options.base)
    scores = dict(references)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for name, problem in zip(runs, pool.map(one, runs), strict=True):
            print(f"{name}: {problem and 'failed, ' + problem or 'done'}", flush=True)
            failed |= {name: problem} if problem else {}
            done = {n: scores[n] for n in (*references, *runs) if n in scores}
            write(options.workdir, done, failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
