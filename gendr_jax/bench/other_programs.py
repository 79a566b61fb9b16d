"""How busy other programs kept the cores while something was measured.

From /proc/stat, less the processor time of this process; not known on other systems.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal: not idle, iowait


@dataclass(frozen=True)
class Moment:
    """Clocks at one time, in seconds; `busy` of all cores that this process may use."""

    wall: float
    own: float
    busy: float | None


def now() -> Moment:
    """The clocks."""
    own = sum(os.times()[:2])
    return Moment(time.perf_counter(), own, _busy())


def cores_between(begin: Moment, end: Moment) -> float | None:
    """How many cores others used on average, between none and all."""
    elapsed = end.wall - begin.wall
    if begin.busy is None or end.busy is None or elapsed <= 0:
        return None
    others = (end.busy - begin.busy) - (end.own - begin.own)
    return min(max(0.0, others / elapsed), float(cores()))


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _busy() -> float | None:
    try:
        lines = STAT.read_text().splitlines()
        tick = os.sysconf("SC_CLK_TCK")
        mine = {f"cpu{k}" for k in os.sched_getaffinity(0)}
    except (OSError, ValueError, AttributeError):
        return None
    rows = [line.split() for line in lines if line.startswith("cpu")]
    used = [[int(n) for n in row[1:]] for row in rows if row[0] in mine]
    return sum(row[k] for row in used for k in BUSY if k < len(row)) / tick
