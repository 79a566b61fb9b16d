"""SIGTERM and SIGINT as a flag that the loop reads, agreed on by all processes."""

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Literal

import jax
from jax.experimental import multihost_utils

from gendr_jax.checkpoints.barrier import anyone

_AGREE_EVERY = 8  # steps; each time costs a collective that waits for the step
Asked = Literal["sigterm", "user"]
_REASONS: dict[signal.Signals, Asked] = {
    signal.SIGTERM: "sigterm",
    signal.SIGINT: "user",
}


class StopFlag:
    """Set by the first SIGTERM or SIGINT while the `with` block runs.

    A second signal ends the process at once. With several processes the preemption
    service of jax.distributed handles SIGTERM and lets all agree on one last step, so
    then no handler is installed and only that service is queried; where it is off
    (JAX_ENABLE_PREEMPTION_SERVICE=0) the processes exchange the flag every few steps.
    Python installs handlers only in the main thread: elsewhere the flag is never set.
    """

    def __init__(self) -> None:
        self.reason: Asked | None = None  # None: go on
        self.alone = jax.process_count() == 1
        # Without it `reached_preemption_sync_point` raises.
        # ty: ignore[missing-attribute]  jax.config gets its attributes at run time
        self._service = bool(jax.config.jax_enable_preemption_service)
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopFlag":
        ours = self.alone or not self._service
        if ours and threading.current_thread() is threading.main_thread():
            for number in _REASONS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.reason:
            os._exit(128 + number)
        self.reason = _REASONS[signal.Signals(number)]
        # Not print: a handler may run in the middle of another write to the stream.
        text = "\ngendr: stopping after this step; a second signal ends at once\n"
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())

    def agreed(self, step: int) -> bool:
        """Whether to stop after `step`.

        With several processes every one calls this once a step, with equal steps, and
        all get the same answer.
        """
        if self.alone:
            return bool(self.reason)
        if self._service:
            stop = multihost_utils.reached_preemption_sync_point(step)
        else:
            stop = step % _AGREE_EVERY == 0 and anyone(bool(self.reason))
        if stop:
            self.reason = self.reason or "sigterm"
        return stop


def interruptible(work: Callable[[], Any], stop: StopFlag) -> Any:
    """What `work` returns, or None as soon as this process alone is asked to stop.

    Python runs a handler between two bytecodes of the main thread, and compiling is one
    that may take an hour: so `work` runs in a thread, which is abandoned. Several
    processes have to agree on a step and so finish the work first.
    """
    outcome: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((work(), None))
        except BaseException as error:  # the main thread raises it
            outcome.put((None, error))

    threading.Thread(target=run, name="compile", daemon=True).start()
    while True:
        try:
            result, error = outcome.get(timeout=0.1)
        except queue.Empty:
            if stop.reason and stop.alone:
                return None
            continue
        if error is not None:
            raise error
        return result


def work_left_behind() -> bool:
    """Whether a thread of `interruptible` still runs, so that Python cannot exit."""
    return any(thread.name == "compile" for thread in threading.enumerate())
