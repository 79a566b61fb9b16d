"""Where the time of a run goes: one clock that is always in exactly one phase.

What lives here: the clock, and what the figures of several starts add up to. What
does not: writing them (`run_file.py`).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

Phase = Literal["start", "compile", "step", "data", "save", "draw", "export"]
PHASES = ("start", "compile", "step", "data", "save", "draw", "export")


class Goodput:
    """Seconds spent in each phase since `begun`; the first phase is "start".

    "start" is imports, reading weights and restoring; "compile" the compilation of the
    step; "step" training itself; "data" waiting for a batch; "save" what a save keeps
    the step waiting for; "draw" sample pictures; "export" the end of a done run.

    Args:
        begun: time.perf_counter() when the process started to work.
        told: called with the new phase whenever one begins.
    """

    def __init__(
        self, begun: float | None = None, told: Callable[[Phase], None] | None = None
    ):
        self._since = time.perf_counter() if begun is None else begun
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._phase: Phase = "start"
        self.told = told or (lambda phase: None)

    def enter(self, phase: Phase) -> None:
        """From now on the time is that of `phase`."""
        now = time.perf_counter()
        self._seconds[self._phase] += now - self._since
        self._since, self._phase = now, phase
        self.told(phase)

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """The time inside the block is that of `phase`."""
        before = self._phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def seconds(self) -> dict[str, float]:
        """{phase: seconds} until now."""
        now = time.perf_counter()
        found = dict(self._seconds)
        found[self._phase] += now - self._since
        return {name: round(value, 6) for name, value in found.items()}

    def fraction(self) -> float:
        """The share of steps in the time since the start of this process."""
        found = self.seconds()
        return found["step"] / max(sum(found.values()), 1e-9)


def summed(starts: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of all starts of one workdir together.

    Args:
        starts: oldest first, each with "from" and "to" (steps; None before it has read
            a checkpoint), "seconds" ({phase: seconds}) and "away" (seconds since the
            start before it was last heard of).

    Returns:
        seconds by phase; away; steps; redone_steps, done again because they lay beyond
        the checkpoint that the next start began with; goodput, the share of steps that
        were kept in all the time that went by.
    """
    seconds = dict.fromkeys(PHASES, 0.0)
    steps = redone = 0
    kept = away = 0.0
    begins = None  # the step that the next start began with
    for start in reversed(starts):
        first, last = start["from"], start["to"]
        done = 0 if first is None else last - first
        lost = min(max(last - begins, 0), done) if done and begins is not None else 0
        for name, value in start["seconds"].items():
            seconds[name] = seconds.get(name, 0.0) + value
        steps, redone, away = steps + done, redone + lost, away + start["away"]
        kept += start["seconds"].get("step", 0.0) * (done - lost) / max(done, 1)
        begins = begins if first is None else first
    whole = sum(seconds.values()) + away
    return {
        "seconds": {name: round(value, 6) for name, value in seconds.items()},
        "away": round(away, 6),
        "steps": steps,
        "redone_steps": redone,
        "goodput": round(kept / max(whole, 1e-9), 4),
    }
