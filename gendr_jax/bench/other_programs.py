"""CPU use of other programs during a measurement.

From /proc/stat, minus the CPU time of this process; unknown on other systems.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal: not idle, iowait


@dataclass(frozen=True)
class Moment:
    """Clock readings in seconds; `busy` is summed over the cores of this process."""

    wall: float
    own: float
    busy: float | None


def now() -> Moment:
    """Read the clocks."""
    own = sum(os.times()[:2])
    return Moment(time.perf_counter(), own, _busy())


def cores_between(begin: Moment, end: Moment) -> float | None:
    """Average number of cores that other programs used, from 0 to all."""
    elapsed = end.wall - begin.wall
    if begin.busy is None or end.busy is None or elapsed <= 0:
        return None
    others = (end.busy - begin.busy) - (end.own - begin.own)
    return min(max(0.0, others / elapsed), float(cores()))


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _busy() -> float | None:
    try:
        lines = STAT.read_text().splitlines()
        tick = os.sysconf("SC_CLK_TCK")
        own_cores = {f"cpu{k}" for k in os.sched_getaffinity(0)}
    except (OSError, ValueError, AttributeError):
        return None
    rows = [line.split() for line in lines if line.startswith("cpu")]
    used = [[int(n) for n in row[1:]] for row in rows if row[0] in own_cores]
    return sum(row[k] for row in used for k in BUSY if k < len(row)) / tick
