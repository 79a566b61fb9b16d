"""What the metrics of single steps add up to: speed, skipped updates, bad streaks.

What lives here: counting. What does not: writing (`log.py`), stopping (`loop.py`).
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


def is_skip(name: str) -> bool:
    """Whether a metric counts skipped updates."""
    return name.startswith("skipped")


class Meter:
    """Speed between two logged steps, and updates skipped since the last of them.

    A step is looked at when the next one has been started already, so the time that
    the next one waited for its batch is given to the next interval.

    Args:
        step: number of finished steps.
        batch_size: images a step, of all processes together.
        waited: -> seconds spent in waiting for data so far.
    """

    def __init__(self, step: int, batch_size: int, waited: Callable[[], float]):
        self._step, self._batch_size, self._waited = step, batch_size, waited
        self._begun, self._wait_begun = time.perf_counter(), waited()
        self._skipped: dict[str, float] = {}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside the block does not count as training."""
        begun = time.perf_counter()
        yield
        self._begun += time.perf_counter() - begun

    def add(self, values: Mapping[str, float]) -> None:
        """Take note of one step."""
        for name in filter(is_skip, values):
            self._skipped[name] = self._skipped.get(name, 0.0) + values[name]

    def line(
        self, step: int, values: Mapping[str, float], waited: float
    ) -> dict[str, float]:
        """The logged values of `step`; starts the next interval.

        Losses are those of this step; skipped_* are sums since the last line;
        images_per_s counts the images of all processes, data_wait is the time in
        seconds that a step waited for its batch, both on average since the last line.

        Args:
            step: number of finished steps.
            values: the metrics of this step.
            waited: seconds spent in waiting for data when this step was started.
        """
        steps = max(step - self._step, 1)
        ended = time.perf_counter() - (self._waited() - waited)
        line = {
            **values,
            **self._skipped,
            "images_per_s": steps * self._batch_size / max(ended - self._begun, 1e-9),
            "data_wait": (waited - self._wait_begun) / steps,
        }
        self._step, self._begun, self._wait_begun = step, ended, waited
        self._skipped.clear()
        return line


class Guard:
    """Counts steps in a row that did not train."""

    def __init__(self, limit: int):
        self._limit = limit
        self._streak = 0

    def check(self, step: int, values: Mapping[str, float]) -> str:
        """Why training is to stop at `step`, or ""."""
        bad = [
            name
            for name, value in values.items()
            if not math.isfinite(value) or (is_skip(name) and value > 0)
        ]
        self._streak = self._streak + 1 if bad else 0
        if self._streak < self._limit:
            return ""
        first = step - self._streak + 1
        return (
            f"no usable update in {self._streak} steps ({first} to {step}; at the last "
            f"one: {', '.join(sorted(bad))})"
        )
