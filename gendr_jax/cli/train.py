"""`gendr train`: parse flags, then call the training loop.

Nothing heavy is imported before the flags are parsed, so that help and errors in flags
are printed at once.
"""

import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from absl import flags

from gendr_jax import overwriting
from gendr_jax.cli import configs
from gendr_jax.errors import TRY_AGAIN, UsageError

USAGE = """\
usage: gendr train --config FILE --workdir DIR [--config.section.key=value ...]

Trains one stage (vae, base, distill, adc or pix). The same command with the same
--workdir resumes from the last checkpoint. Ctrl-C and SIGTERM finish the step, save a
checkpoint and stop.

  --config FILE         configs/tiny_vae.py or its name, tiny_vae
  --config.KEY=VALUE    change one of its values: --config.steps=100,
                        --config.data.path=PHOTOS, --config.mesh=data=2,fsdp=4
  --workdir DIR         checkpoints, metrics.jsonl, tb/, samples/, run.json, weights/;
                        a folder, or gs://BUCKET/PATH
  --accept-changes      resume with changed loss weights, batch size, data settings...;
                        changed learning rates and schedules need no flag
  --from-step N         resume from checkpoint N; newer ones are renamed
  --fork DIR            start a new --workdir from another run's checkpoint, with its
                        optimizer state and all roles: OLD, or OLD/checkpoints/STEP
  --take-over           stop another run that uses the same workdir
  --distributed         this is one of several processes (jax.distributed)
  --help                print this text

exit status: 0 done; 1 error, or updates were not finite; 2 wrong usage; 75 not
finished, start the same command again: stopped by a signal and saved, no progress for
config.watchdog.seconds, or another run uses the workdir; 128 + N ended by a second
signal N. run.json has the reason.
"""


def main(args: list[str]) -> int:
    """Run the command; the exit status.

    0: done. 75: stopped by a signal and saved. 1: stopped because updates were not
    finite. Raises UsageError for wrong flags, configurations and workdirs.
    """
    start_time = time.perf_counter()
    if {"--help", "-h", "-help"} & set(args):
        print(USAGE, end="")
        return 0
    values, config = configs.parse(_spelt(args), _define)
    if not values.workdir:
        raise UsageError(
            "--workdir is missing. Give a folder for checkpoints and logs."
        )
    from gendr_jax.cli.common import tidy_when_terminated

    with tidy_when_terminated():  # until the loop handles signals itself
        return _train(config, values, start_time)


def _spelt(args: list[str]) -> list[str]:
    """absl does not allow dashes in names of flags."""
    for name in ("accept-changes", "take-over", "from-step"):
        plain = name.replace("-", "_")
        args = [re.sub(rf"^--?(no)?{name}(?==|$)", rf"--\1{plain}", a) for a in args]
    return args


def _refuse_workdir_in_data(workdir: str, config: configs.ConfigDict) -> None:
    """Refuse a workdir in a data folder: its sample sheets would be trained on."""
    from gendr_jax.data.open_source import folders
    from gendr_jax.weights.remote_paths import is_remote

    if is_remote(workdir):
        return
    for name in ("data", "val"):
        for folder in folders(str(config.get(name, {}).get("path", ""))):
            remedy = "Give a --workdir outside of it."
            overwriting.refuse_inside(Path(workdir), folder, remedy)


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    flags.DEFINE_bool("distributed", False, "", flag_values=values)
    flags.DEFINE_bool("accept_changes", False, "", flag_values=values)
    flags.DEFINE_bool("take_over", False, "", flag_values=values)
    flags.DEFINE_integer("from_step", None, "", flag_values=values, lower_bound=0)
    flags.DEFINE_string("fork", "", "", flag_values=values)


def _train(
    config: configs.ConfigDict, values: flags.FlagValues, start_time: float
) -> int:
    from gendr_jax.cli.common import cache_programs
    from gendr_jax.sharding import make_mesh
    from gendr_jax.train.run import distributed, loop, signals
    from gendr_jax.train.run import workdir as workdir_lib
    from gendr_jax.train.run_settings import Start
    from gendr_jax.train.settings import Processes
    from gendr_jax.train.stages import build
    from gendr_jax.train.typed import typed

    cache_programs()
    workdir_lib.check(values.workdir)
    if distributed.wanted(values.distributed):
        distributed.join(
            typed(Processes, config.get("processes", {}), "config.processes")
        )
    # Worker processes of grain read absl's global flags, which are not parsed here.
    flags.FLAGS.mark_as_parsed()
    mesh = make_mesh(config.get("mesh", ""))
    _refuse_workdir_in_data(values.workdir, config)
    # A ConfigDict has the methods of a Mapping but not its base class.
    setup = build.setup(cast(Mapping[str, Any], config), mesh)
    result = loop.run(
        setup.hand_over(),
        setup.batches,
        setup.settings,
        mesh=mesh,
        workdir=values.workdir,
        begun=start_time,
        start=Start(
            accept_changes=values.accept_changes,
            from_step=values.from_step,
            fork=values.fork,
            take_over=values.take_over,
        ),
        held_out=setup.held_out,
    )
    if result.reason == "nan":
        print(
            f"gendr: error: training stopped, {result.message}. Nothing was saved "
            "since the first of these steps: start again with a lower learning rate, "
            "or add --from-step N to go back to checkpoint N.",
            file=sys.stderr,
        )
    status = {"done": 0, "nan": 1}.get(result.reason, TRY_AGAIN)
    if signals.work_left_behind():
        sys.stdout.flush()
        os._exit(status)  # all files are written; Python would wait for the compiler
    return status
