"""Runs a function in a process with limits, which is started anew when it dies.

What the fuzzing tools share: damage may hang a process, kill it or fill the memory, and
the next case must not suffer from it.
"""

import logging
import multiprocessing
import re
import resource
from collections.abc import Callable
from pathlib import Path

SPAWN = multiprocessing.get_context("spawn")


def serve(pipe, attempt: Callable[..., tuple[str, str]], limit: int) -> None:
    """In the process: arguments in, outcomes and the peak of memory out."""
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    logging.disable()
    while (arguments := pipe.recv()) is not None:
        found = attempt(*arguments)
        pipe.send((found, peak_kib()))


def peak_kib() -> int:
    """Most memory of this process so far; getrusage tells that of its parent, too."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Worker:
    """Calls `attempt`, a function of a module; (kind of outcome, message) comes back.

    Attributes:
        peak: GiB that its processes came to.
    """

    def __init__(
        self, attempt: Callable[..., tuple[str, str]], *, seconds: float, limit: int
    ):
        """seconds: of one call, above which it is a "hang"; limit: bytes."""
        self._attempt, self._seconds, self._limit = attempt, seconds, limit
        self._process, self.peak = None, 0.0

    def __call__(self, *arguments: object) -> tuple[str, str]:
        if self._process is None:
            self._pipe, end = SPAWN.Pipe()
            given = end, self._attempt, self._limit
            self._process = SPAWN.Process(target=serve, args=given, daemon=True)
            self._process.start()
            end.close()
        try:
            self._pipe.send(arguments)
            if self._pipe.poll(self._seconds):
                found, size = self._pipe.recv()
                self.peak = max(self.peak, size / 2**20)
                return found
            kind = "hang"
        except (EOFError, OSError):
            kind = "crash"
        self._process.kill()
        self._process.join()
        self._process = None
        return kind, ""

    def close(self) -> None:
        """Let the process end."""
        if self._process is not None:
            self._pipe.send(None)
            self._process.join()
            self._process = None
