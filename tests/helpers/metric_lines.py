"""The lines of a run's metrics.jsonl that two runs of the same numbers share."""

import json
from pathlib import Path

CLOCK = {
    "images_per_s",
    "data_wait",
    "goodput",
    "since_commit",
    "seconds_per_step",
    "eta_seconds",
}


def without_times(workdir: Path) -> list[dict]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]
