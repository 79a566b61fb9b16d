"""Benchmark the restoring pass against PyTorch and diffusers with the same weights.

    python tools/bench_restore.py [--sizes 128,512,1024,4k] [--dtype fp32] [--rounds 5]
        [--peers eager,eager+channels_last,compile,max-autotune+channels_last]
        [--stages encoder,unet,decoder,pass] [--config FILE | --weights DIR]
        [--json FILE]

Every stage of every peer runs in turn with ours. On a GPU the defaults are bf16, all
peers and a sweep of batches; on a CPU fp32 and the eager peer. A ratio of 1.3 means
that theirs takes 1.3 times as long; "cpu ratio" is that of processor time.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
# Two frameworks share one GPU: neither may take all of its memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax  # noqa: E402

from gendr_jax.bench import report, restoring, run  # noqa: E402
from gendr_jax.cli import configs  # noqa: E402
from gendr_jax.cli.common import size_of  # noqa: E402
from gendr_jax.restore.options import DTYPES  # noqa: E402

GPU_PEERS = "eager,eager+channels_last,compile,max-autotune+channels_last"


def main() -> None:
    on_cpu = jax.default_backend() == "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="512" if on_cpu else "128,512,1024,4k")
    parser.add_argument("--dtype", default="fp32" if on_cpu else "bf16")
    parser.add_argument("--peers", default="eager" if on_cpu else GPU_PEERS)
    parser.add_argument("--stages", default=",".join(restoring.STAGES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--config", help="its networks (default: those of full size)")
    parser.add_argument("--weights", help="a restorer's folder (default: random)")
    parser.add_argument("--no-sweep", action="store_true", help="batch 1 alone")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    dtype = DTYPES[options.dtype]
    if options.weights:
        recipe, params = run.loaded(options.weights, dtype)
    else:
        argv = ["--config", options.config]
        config = configs.parse(argv, lambda _: None)[1] if options.config else None
        recipe, params = run.recipe_of(config and config.to_dict(), dtype), None
    wishes = [
        run.Measurement(
            size=size_of(size),
            rounds=options.rounds,
            stages=tuple(options.stages.split(",")),
            sweep=not on_cpu and not options.no_sweep,
            peers=tuple(filter(None, options.peers.split(","))),
        )
        for size in options.sizes.split(",")
    ]
    result = run.restore(recipe, params, wishes)
    print(report.table(result["rows"] + result.get("throughput", [])))
    if options.json:
        report.write(options.json, result)


if __name__ == "__main__":
    main()
