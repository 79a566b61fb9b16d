"""What a run says while it trains: terminal, metrics.jsonl, TensorBoard, pictures.

What lives here: writing. What does not: which numbers, and when (`loop.py`); run.json
(`run_file.py`). Only the first process writes; on the others every method does nothing.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

_FOR_FILES = ("goodput", "since_commit")  # not on the terminal


def write_atomically(path: Path, content: bytes) -> None:
    """Readers see the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def truncate_metrics(path: Path, step: int) -> None:
    """Drop lines beyond `step`, and a last line that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            later = json.loads(line)["step"] > step
        except (ValueError, KeyError, TypeError):
            continue
        if not later and line.endswith(b"\n"):
            kept.append(line)
    write_atomically(path, b"".join(kept))


class Log:
    """The written record of one run under `workdir`. Close it when done.

    Args:
        workdir: exists.
        start: the step that is resumed from; metrics beyond it are dropped.
        steps: the last step, for the progress bar.
        progress: False keeps the terminal silent.
    """

    def __init__(self, workdir: Path, *, start: int, steps: int, progress: bool):
        self._workdir = workdir
        self._active = jax.process_index() == 0
        self._speaks = self._active and progress
        self._bar: Any = None
        if not self._active:
            return
        from tensorboardX import SummaryWriter

        truncate_metrics(workdir / "metrics.jsonl", start)
        self._lines = open(workdir / "metrics.jsonl", "a")
        # What an interrupted run wrote beyond its last checkpoint is hidden.
        self._board = SummaryWriter(str(workdir / "tb"), purge_step=start + 1)
        if self._speaks and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=steps, initial=start, unit="step", dynamic_ncols=True, leave=False
            )

    def say(self, text: str) -> None:
        """One line on the terminal."""
        if self._bar is not None:
            self._bar.write(text)
        elif self._speaks:
            print(text, flush=True)

    def advance(self) -> None:
        """One step more on the progress bar."""
        if self._bar is not None:
            self._bar.update()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """One line in metrics.jsonl, the same numbers elsewhere.

        JSON knows no NaN: a value that is not finite is written as null.
        """
        if not self._active:
            return
        plain = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._lines.write(json.dumps({"step": step, **plain}, allow_nan=False) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        told = {k: v for k, v in values.items() if k not in _FOR_FILES}
        shown = "  ".join(f"{name} {value:.4g}" for name, value in told.items())
        if self._bar is not None:
            self._bar.set_postfix_str(shown)
        else:
            self.say(f"step {step}  {shown}")

    def sheet(self, step: int, sheet_hwc: np.ndarray) -> None:
        """samples/step_XXXXXX.png, and the same picture in TensorBoard."""
        if not self._active:
            return
        folder = self._workdir / "samples"
        folder.mkdir(exist_ok=True)
        path = folder / f"step_{step:06d}.png"
        temporary = path.with_name(f".{path.name}.tmp")
        Image.fromarray(sheet_hwc).save(temporary, format="png")
        os.replace(temporary, path)
        self._board.add_image("samples", sheet_hwc, step, dataformats="HWC")

    def close(self) -> None:
        """Give up files and the progress bar."""
        if not self._active:
            return
        if self._bar is not None:
            self._bar.close()
        self._lines.close()
        self._board.close()


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
