"""Waiting for the other processes of a run: by name, and never without a limit."""

import collections
import itertools
import re

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from gendr_jax.errors import GendrError

SECONDS = 600.0
_times: dict[str, itertools.count] = collections.defaultdict(itertools.count)


class LateProcess(GendrError):
    """Another process of the run did not come to a meeting in time."""


def barrier(name: str, seconds: float = SECONDS) -> None:
    """Return when all processes have called this with the same name.

    Raises:
        LateProcess: some did not within `seconds`; which, as far as that is known.
    """
    if jax.process_count() == 1:
        return
    key = f"gendr/{name}/{next(_times[name])}"
    try:
        wait = multihost.get_barrier_sync_fn()
        wait(key=key, timeout_ms=int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        late = _late(str(error))
        raise LateProcess(
            f"process {jax.process_index()} of {jax.process_count()} waited "
            f"{seconds:g} s at {name!r} for {late}. Look at what they print, or raise "
            "config.processes.barrier."
        ) from error


def anyone(here: bool) -> bool:
    """Whether `here` is true on any process; all of them call this."""
    if jax.process_count() == 1:
        return here
    return bool(np.any(multihost_utils.process_allgather(np.asarray(here))))


def _late(text: str) -> str:
    """The processes that a message of the coordination service names as late."""
    named = re.findall(
        r"(?m)^\S*?(\d+)\s*$", text.partition("timed out task names:")[2]
    )
    if named:
        return f"process {', '.join(named)}"
    return f"others ({' '.join(text.split())[:200]})"
