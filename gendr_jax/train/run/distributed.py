"""Several processes of one run: jax.distributed, barriers, arrays on one host."""

import os
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from gendr_jax.errors import UsageError
from gendr_jax.sharding import path_name
from gendr_jax.train.settings import Processes


def wanted(flag: bool) -> bool:
    """Whether to use jax.distributed: by flag, or a coordinator in the environment."""
    return flag or "JAX_COORDINATOR_ADDRESS" in os.environ


def join(limits: Processes) -> None:
    """Initialise jax.distributed; without it each process would overwrite the files.

    A process without a heartbeat for `limits.heartbeat` seconds counts as dead, and the
    others end. Must be called before any use of devices.

    Raises:
        UsageError: the processes did not connect in time, or are not configured.
    """
    # None lets JAX detect the values from the environment of TPU, SLURM or MPI.
    count, index = (os.environ.get(f"JAX_{n}") for n in ("NUM_PROCESSES", "PROCESS_ID"))
    try:
        jax.distributed.initialize(
            num_processes=None if count is None else int(count),
            process_id=None if index is None else int(index),
            initialization_timeout=limits.meet,
            heartbeat_timeout_seconds=limits.heartbeat,
            shutdown_timeout_seconds=limits.heartbeat,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"the processes did not connect ({reason[:300]}). Set "
            "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or leave "
            "out --distributed."
        ) from error


def bound_orbax_barriers() -> None:
    """Let Orbax wait through the coordination service, which has time limits.

    By default it waits in a collective of the devices, which has none.
    """
    import orbax.checkpoint  # noqa: F401  defines the flag

    flags.FLAGS["experimental_orbax_use_distributed_barrier"].value = True


def gather_to_host(tree: Any, *, skip: str = "") -> Any:
    """The arrays of `tree` gathered to the first process; all processes call this.

    One array at a time is gathered; the other processes get None.

    Args:
        tree: global arrays.
        skip: arrays under this name are not gathered.
    """
    if jax.process_count() == 1:
        return tree

    def fetch(path: tuple[Any, ...], x: Any) -> Any:
        if skip and skip in path_name(path).split("/"):
            return x
        host = np.asarray(multihost_utils.process_allgather(x, tiled=True))
        return host if jax.process_index() == 0 else None

    return jax.tree_util.tree_map_with_path(fetch, tree)
