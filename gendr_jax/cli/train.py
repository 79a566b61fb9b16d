"""`gendr train`: flags, then one call of the training loop.

Nothing heavy is imported before the flags are read, so that help and mistakes are
answered at once.
"""

import os
import sys
import time

from absl import flags

from gendr_jax.cli import configs
from gendr_jax.errors import UsageError

USAGE = """\
usage: gendr train --config FILE --workdir DIR [--config.section.key=value ...]

Trains one stage (vae, base or distill). Started again with the same --workdir, it goes
on where it stopped. Ctrl-C and SIGTERM stop it after the step, saved.

  --config FILE         a configuration, such as configs/tiny_vae.py
  --config.KEY=VALUE    change one of its values: --config.steps=100,
                        --config.data.path=PHOTOS, --config.mesh=data=2,fsdp=4
  --workdir DIR         checkpoints, metrics.jsonl, tb/, samples/, run.json, weights/;
                        a folder, or gs://BUCKET/PATH
  --distributed         one of several processes: join them (jax.distributed) first
  --help                this text

exit status: 0 done, or stopped by a signal and saved; 1 an error, or updates were not
finite; 2 wrong usage; 75 no progress for config.watchdog.seconds; 128 + N a second
signal N. run.json says which.
"""


def main(args: list[str]) -> int:
    """Run the command; the exit status.

    0: done, or stopped on request and saved. 1: stopped because updates were not
    finite. Raises UsageError for flags, configurations and workdirs that do not fit.
    """
    begun = time.perf_counter()
    if {"--help", "-h", "-help"} & set(args):
        print(USAGE, end="")
        return 0
    values, config = configs.parse(args, _define)
    if not values.workdir:
        raise UsageError("--workdir is missing. Give a folder for all that is written.")
    return _train(config, values.workdir, values.distributed, begun)


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    flags.DEFINE_bool("distributed", False, "", flag_values=values)


def _train(
    config: configs.ConfigDict, workdir: str, flag_distributed: bool, begun: float
) -> int:
    from gendr_jax.cli.common import cache_programs
    from gendr_jax.sharding import make_mesh
    from gendr_jax.train.run import distributed, loop, signals
    from gendr_jax.train.run import workdir as workdir_lib
    from gendr_jax.train.settings import Processes
    from gendr_jax.train.stages import build
    from gendr_jax.train.typed import typed

    cache_programs()
    workdir_lib.check(workdir)
    if distributed.wanted(flag_distributed):
        distributed.join(
            typed(Processes, config.get("processes", {}), "config.processes")
        )
    # Worker processes of grain read the global flags, which nobody parses here.
    flags.FLAGS.mark_as_parsed()
    mesh = make_mesh(config.get("mesh", ""))
    setup = build.setup(config, mesh)
    result = loop.run(
        setup.stage,
        setup.batches,
        setup.settings,
        mesh=mesh,
        workdir=workdir,
        begun=begun,
    )
    if result.reason == "nan":
        print(
            f"gendr: error: training stopped, {result.message}. Lower the learning "
            "rate; the same command goes on beyond these steps.",
            file=sys.stderr,
        )
        return 1
    if signals.work_left_behind():
        sys.stdout.flush()
        os._exit(0)  # all is written; Python would wait for the compiler
    return 0
