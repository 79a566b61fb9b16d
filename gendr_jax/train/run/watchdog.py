"""The watchdog: dumps the stacks of a hung process, then ends it."""

import datetime
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import jax

from gendr_jax.errors import TRY_AGAIN
from gendr_jax.train.settings import Watchdog as Limits

_LINGER = 10.0  # seconds that other processes wait for the first to write run.json
_REPORT_SECONDS = 20.0  # for writing the stacks and run.json before the end


class Watchdog:
    """Watches while the `with` block runs; does nothing when the limit is 0.

    The first time of each kind of work may take `start_seconds`, since it compiles. The
    watchdog is a Python thread: code that holds the GIL for ever goes unnoticed. XLA
    releases it while it computes, compiles and communicates.

    Args:
        folder: of stacks_PROCESS.txt.
        limits: how long, and whether to end the process.
        on_hang: called with a one-line message before the process ends.
    """

    def __init__(self, folder: Path, limits: Limits, on_hang: Callable[[str], None]):
        self._folder, self._limits, self._on_hang = folder, limits, on_hang
        self._seen: set[str] = set()
        self._closed = threading.Event()
        self._now = ("start", time.monotonic(), limits.start_seconds)
        self._thread = threading.Thread(target=self._work, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._limits.seconds > 0:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def beat(self, what: str) -> None:
        """Report progress: work of the kind `what` begins."""
        first = what not in self._seen
        self._seen.add(what)
        limits = self._limits
        limit = limits.start_seconds if first else limits.seconds
        # One assignment of a tuple is atomic: the other thread reads it at any time.
        self._now = (what, time.monotonic(), max(limit, limits.seconds))

    def _work(self) -> None:
        reported = None
        while not self._closed.wait(min(self._limits.seconds / 4, 5.0)):
            now = self._now
            what, since, limit = now
            waited = time.monotonic() - since
            if waited < limit or now is reported:
                continue
            reported = now
            self._report_hang(f"no progress for {waited:.0f} s in {what!r}")
            if self._limits.ends:
                os._exit(TRY_AGAIN)

    def _report_hang(self, message: str) -> None:
        """Dump stacks, call `on_hang`; does not wait for a disk or store that hangs."""

        def report() -> None:
            self._dump(message)
            if self._limits.ends:
                if jax.process_index() > 0:
                    time.sleep(_LINGER)
                self._on_hang(message)

        def try_to_report() -> None:
            try:
                report()
            except Exception as error:  # whatever it is, the process ends all the same
                with suppress(OSError, ValueError):
                    print(f"gendr: {error!r} while reporting", file=sys.__stderr__)

        thread = threading.Thread(target=try_to_report, name="hang report", daemon=True)
        thread.start()
        thread.join(
            _LINGER + _REPORT_SECONDS if jax.process_index() > 0 else _REPORT_SECONDS
        )

    def _dump(self, message: str) -> None:
        moment = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        process = jax.process_index()
        title = f"gendr: {moment} process {process}: {message}; all threads:\n"
        path = self._folder / f"stacks_{process}.txt"
        try:
            with open(path, "a", encoding="utf-8") as file:
                _write(file, title)
        except OSError:
            pass  # a full disk may be why it hangs; the terminal still says it
        if sys.__stderr__ is not None:
            _write(sys.__stderr__, title)


def _write(file: IO[str], title: str) -> None:
    file.write(title)
    file.flush()
    faulthandler.dump_traceback(file, all_threads=True)
