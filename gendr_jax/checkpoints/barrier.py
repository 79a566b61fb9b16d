"""Barriers between the processes of a run, by name and with a time limit."""

import collections
import itertools
import re

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from gendr_jax.errors import GendrError

SECONDS = 600.0
# How often each barrier was passed: the coordination service takes a key only once.
_counters: dict[str, itertools.count] = collections.defaultdict(itertools.count)


class LateProcess(GendrError):
    """Another process of the run did not reach a barrier in time."""


def barrier(name: str, seconds: float = SECONDS) -> None:
    """Return when all processes have called this with the same name.

    Raises:
        LateProcess: some did not within `seconds`; it names them where known.
    """
    if jax.process_count() == 1:
        return
    key = f"gendr/{name}/{next(_counters[name])}"
    try:
        wait = multihost.get_barrier_sync_fn()
        wait(key=key, timeout_ms=int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        late = _late_processes(str(error))
        raise LateProcess(
            f"process {jax.process_index()} of {jax.process_count()} waited "
            f"{seconds:g} s at barrier {name!r} for {late}. Look at their logs, or "
            "raise config.processes.barrier."
        ) from error


def anyone(flag: bool) -> bool:
    """Whether `flag` is true on any process; a collective, so all processes call it."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def _late_processes(text: str) -> str:
    """The processes that a message of the coordination service names as late."""
    indices = re.findall(
        r"(?m)^\S*?(\d+)\s*$", text.partition("timed out task names:")[2]
    )
    if indices:
        return f"process {', '.join(indices)}"
    return f"others ({' '.join(text.split())[:200]})"
