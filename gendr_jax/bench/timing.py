"""Time calls in turn, so that a busy machine slows all of them equally."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping

Call = Callable[[], object]  # returns when its result is computed


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Times of one call, or medians of several.

    Attributes:
        wall: from call to result.
        processor: CPU time of all threads of this process, which depends little on
            other programs (but includes threads that spin).
        best: the smallest wall time.
        spread: distance of the quartiles of CPU time, relative to the median; 0 for
            one call.
    """

    wall: float
    processor: float
    best: float
    spread: float = dataclasses.field(default=0.0, compare=False)


def once(call: Call) -> Seconds:
    """Time one call."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    wall = time.perf_counter() - wall
    return Seconds(wall, time.process_time() - processor, wall)


def in_turn(calls: Mapping[str, Call], rounds: int) -> dict[str, Seconds]:
    """Medians over the rounds; in each round every call runs once, in order.

    Preceded by a round that is not timed, which fills caches and compiles.
    """
    for call in calls.values():
        call()
    times: dict[str, list[Seconds]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(once(call))
    return {name: median(seconds) for name, seconds in times.items()}


def median(times: list[Seconds]) -> Seconds:
    """The median of each clock separately."""
    processor = [seconds.processor for seconds in times]
    return Seconds(
        statistics.median(seconds.wall for seconds in times),
        statistics.median(processor),
        min(seconds.best for seconds in times),
        _spread(processor),
    )


def _spread(values: list[float]) -> float:
    centre = statistics.median(values)
    if len(values) < 2 or centre <= 0:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / centre
