"""`gendr train`: flags, then one call of the training loop.

Nothing heavy is imported before the flags are read, so that help and mistakes are
answered at once.
"""

import os
import sys
from pathlib import Path

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
  --workdir DIR         checkpoints, metrics.jsonl, tb/, samples/, run.json, weights/
  --distributed         one of several processes: join them (jax.distributed) first
  --help                this text
"""


def main(args: list[str]) -> int:
    """Run the command; the exit status.

    0: done, or stopped on request and saved. 1: stopped because updates were not
    finite. Raises UsageError for flags, configurations and workdirs that do not fit.
    """
    if {"--help", "-h", "-help"} & set(args):
        print(USAGE, end="")
        return 0
    values, config = configs.parse(args, _define)
    if not values.workdir:
        raise UsageError("--workdir is missing. Give a folder for all that is written.")
    return _train(config, Path(values.workdir), values.distributed)


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    flags.DEFINE_bool("distributed", False, "", flag_values=values)


def _train(config: configs.ConfigDict, workdir: Path, distributed: bool) -> int:
    import jax

    from gendr_jax.cli.quiet import cache_programs
    from gendr_jax.sharding import make_mesh
    from gendr_jax.train import loop, stages

    cache_programs()
    if distributed or "JAX_COORDINATOR_ADDRESS" in os.environ:
        _join(jax)
    # Worker processes of grain read the global flags, which nobody parses here.
    flags.FLAGS.mark_as_parsed()
    if workdir.exists() and not workdir.is_dir():
        raise UsageError(f"--workdir {workdir} is a file. Give a folder.")
    mesh = make_mesh(config.get("mesh", ""))
    setup = stages.setup(config, mesh)
    result = loop.run(
        setup.stage, setup.batches, setup.settings, mesh=mesh, workdir=workdir
    )
    if result.reason != "nan":
        return 0
    print(
        f"gendr: error: training stopped, {result.message}. Lower the learning rate; "
        "the same command goes on beyond these steps.",
        file=sys.stderr,
    )
    return 1


def _join(jax: object) -> None:
    """Meet the other processes, or fail: alone, each would overwrite the others."""
    try:
        jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"the processes did not meet ({reason}). Set JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID, or leave out --distributed."
        ) from error
