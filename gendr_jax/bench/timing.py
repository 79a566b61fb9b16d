"""Times of calls, taken in turn so that a busy machine troubles all of them alike."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping

Call = Callable[[], object]  # returns when its result is there


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Of one call, or medians of several.

    Attributes:
        wall: from call to result.
        processor: of all threads of this process; work, however busy the machine is
            (but threads that wait by spinning count, too).
        best: the least wall time.
        spread: of the processor time: the distance of its quartiles, as a share of the
            median; 0 of one call.
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
    """Medians over the rounds; in each every call runs once, in the given order.

    A first round is not counted: it fills caches and compiles what compiles late.
    """
    for call in calls.values():
        call()
    found: dict[str, list[Seconds]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(once(call))
    return {name: median(taken) for name, taken in found.items()}


def median(taken: list[Seconds]) -> Seconds:
    """Of each clock by itself."""
    processor = [one.processor for one in taken]
    return Seconds(
        statistics.median(one.wall for one in taken),
        statistics.median(processor),
        min(one.best for one in taken),
        _spread(processor),
    )


def _spread(values: list[float]) -> float:
    middle = statistics.median(values)
    if len(values) < 2 or middle <= 0:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle
