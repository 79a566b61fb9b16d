"""Several processes of one run: meeting, and noticing when one is gone."""

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
    """Whether to join others: asked for, or the environment names a coordinator."""
    return flag or "JAX_COORDINATOR_ADDRESS" in os.environ


def join(limits: Processes) -> None:
    """Meet the other processes; alone, each would overwrite the others' files.

    A process that has not been heard of for `limits.heartbeat` seconds counts as dead,
    and the others end. It must come before any use of devices.

    Raises:
        UsageError: they did not meet in time, or are not known.
    """
    # What JAX finds out by itself goes through the environment of TPU, SLURM or MPI.
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
            f"the processes did not meet ({reason[:300]}). Set "
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
    """The arrays of `tree` whole in this process; all processes call this.

    One array at a time travels; only the first process keeps them.

    Args:
        tree: global arrays.
        skip: arrays under this name are left as they are.
    """
    if jax.process_count() == 1:
        return tree

    def fetch(path: tuple[Any, ...], x: Any) -> Any:
        if skip and skip in path_name(path).split("/"):
            return x
        host = np.asarray(multihost_utils.process_allgather(x, tiled=True))
        return host if jax.process_index() == 0 else None

    return jax.tree_util.tree_map_with_path(fetch, tree)
