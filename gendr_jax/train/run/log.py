"""Logging of a run: terminal, metrics.jsonl, TensorBoard, sample sheets.

Only the first process writes; on the others every method does nothing.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from gendr_jax import files

# Not on the terminal, or in another form.
_FOR_FILES = ("goodput", "since_commit", "seconds_per_step", "eta_seconds")
MEAN = "mean/"  # before the name of a metric: its mean over the interval
_ROLES = ("generator", "fake", "real", "disc", "base", "vae")
_RUN = (*_FOR_FILES, "images_per_s", "data_wait")
_FLUSH_SECONDS = 10


def truncate_metrics(path: Path, step: int) -> None:
    """Drop lines beyond `step`, and a last line that was cut off."""
    if not path.exists():
        return
    kept_lines = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            beyond = json.loads(line)["step"] > step
        except (ValueError, KeyError, TypeError):
            continue
        if not beyond and line.endswith(b"\n"):
            kept_lines.append(line)
    files.write_bytes(path, b"".join(kept_lines))


class Log:
    """The logs of one run under `workdir`. Close it when done.

    Args:
        workdir: exists.
        start: the step that is resumed from; metrics beyond it are dropped.
        steps: the last step, for the progress bar.
        progress: False keeps the terminal silent.
    """

    def __init__(self, workdir: Path, *, start: int, steps: int, progress: bool):
        self._workdir, self._steps = workdir, steps
        self._active = jax.process_index() == 0
        self._speaks = self._active and progress
        self._bar: Any = None
        if not self._active:
            return
        from tensorboardX import SummaryWriter

        truncate_metrics(workdir / "metrics.jsonl", start)
        self._lines = open(workdir / "metrics.jsonl", "a")
        # What an interrupted run wrote beyond its last checkpoint is hidden.
        self._board = SummaryWriter(
            str(workdir / "tb"), purge_step=start + 1, flush_secs=_FLUSH_SECONDS
        )
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
            self._board.add_scalar(tag(name), value, step)
        shown = "  ".join(_terminal(values))
        if self._bar is not None:
            self._bar.set_postfix_str(shown)
        else:
            self.say(f"step {step} of {self._steps}  {shown}")

    def flush(self) -> None:
        """Flush TensorBoard to disk, since the process may be killed next."""
        if self._active:
            self._board.flush()

    def sheet(self, step: int, sheet_hwc: np.ndarray, name: str = "step") -> None:
        """samples/NAME_XXXXXX.png, and the same picture in TensorBoard."""
        if not self._active:
            return
        folder = self._workdir / "samples"
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}_{step:06d}.png"
        with files.replacing(path) as temporary:
            Image.fromarray(sheet_hwc).save(temporary, format="png")
        board = "samples" if name == "step" else f"samples/{name}"
        self._board.add_image(board, sheet_hwc, step, dataformats="HWC")

    def close(self) -> None:
        """Close files and the progress bar."""
        if not self._active:
            return
        if self._bar is not None:
            self._bar.close()
        self._lines.close()
        self._board.close()


def tag(name: str) -> str:
    """The name of a metric in TensorBoard, grouped by the role it belongs to.

    `loss_fake` is `fake/loss`, its mean over the interval `fake/loss_mean`; metrics
    without a role are in `step`, speeds and times in `run`.
    """
    plain = name.removeprefix(MEAN)
    mean = "_mean" if plain != name else ""
    if plain in _RUN:
        return f"run/{plain}{mean}"
    if plain.startswith("val_"):
        return f"val/{plain.removeprefix('val_')}{mean}"
    metric, _, role = plain.rpartition("_")
    return f"{role}/{metric}{mean}" if role in _ROLES else f"step/{plain}{mean}"


def _terminal(values: Mapping[str, float]) -> Iterator[str]:
    """Speed and time left, then each metric: the last value (the mean)."""
    if "seconds_per_step" in values:
        yield f"{values['seconds_per_step']:.3g} s/step"
    if "eta_seconds" in values:
        yield f"left {duration(values['eta_seconds'])}"
    for name, value in values.items():
        if name in _FOR_FILES or name.startswith(MEAN):
            continue
        mean = values.get(MEAN + name, value)
        mean_text = (
            f" (mean {mean:.4g})" if mean != value and math.isfinite(mean) else ""
        )
        yield f"{name} {value:.4g}{mean_text}"


def duration(seconds: float) -> str:
    """3 d 04:05:06; days where there are any."""
    days, rest = divmod(round(seconds), 86400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} d {clock}" if days else clock


def is_skip(name: str) -> bool:
    """Whether a metric counts skipped updates."""
    return name.startswith("skipped")


def _is_count(name: str) -> bool:
    """Whether a metric is a number of events, to be added up."""
    return is_skip(name) or name.startswith("broken")


class Meter:
    """Speed between two logged steps, means, and what was skipped since the last.

    The metrics of a step are read after the next one was started, so the time that the
    next one waited for its batch counts in the next interval.

    Args:
        step: number of finished steps.
        batch_size: images a step, of all processes together.
        waited: -> seconds spent in waiting for data so far.
    """

    def __init__(self, step: int, batch_size: int, waited: Callable[[], float]):
        self._step, self._batch_size, self._waited = step, batch_size, waited
        self._begun, self._wait_begun = time.perf_counter(), waited()
        self._sums: dict[str, float] = {}
        self._noted: dict[str, int] = {}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside the block does not count as training."""
        begun = time.perf_counter()
        yield
        self._begun += time.perf_counter() - begun

    def add(self, values: Mapping[str, float]) -> None:
        """Add the metrics of one step."""
        for name, value in values.items():
            # One value that is not finite would hide all the others.
            if math.isfinite(value):
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._noted[name] = self._noted.get(name, 0) + 1

    def line(
        self, step: int, values: Mapping[str, float], waited: float
    ) -> dict[str, float]:
        """The logged values of `step`; starts the next interval.

        Since the last line: skipped_* and broken_* are sums, mean/NAME is the mean of
        the finite values of a metric, the plain name its value at this step;
        images_per_s counts the images of all processes, data_wait is the time in
        seconds that a step waited for its batch, seconds_per_step all of its time.

        Args:
            step: number of finished steps.
            values: the metrics of this step.
            waited: seconds spent in waiting for data when this step was started.
        """
        steps = max(step - self._step, 1)
        ended = time.perf_counter() - (self._waited() - waited)
        seconds = max(ended - self._begun, 1e-9)
        counts = {name: total for name, total in self._sums.items() if _is_count(name)}
        means = {
            MEAN + name: self._sums[name] / self._noted[name]
            for name in values
            if name in self._noted and not _is_count(name)
        }
        line = {
            **values,
            **counts,
            **means,
            "images_per_s": steps * self._batch_size / seconds,
            "data_wait": (waited - self._wait_begun) / steps,
            "seconds_per_step": seconds / steps,
        }
        self._step, self._begun, self._wait_begun = step, ended, waited
        self._sums.clear()
        self._noted.clear()
        return line


class Guard:
    """Counts steps in a row that did not train."""

    def __init__(self, limit: int):
        self._limit = limit
        self.streak = 0

    def check(self, step: int, values: Mapping[str, float]) -> str:
        """Why training is to stop at `step`, or ""."""
        bad_metrics = [
            name
            for name, value in values.items()
            if not math.isfinite(value) or (is_skip(name) and value > 0)
        ]
        self.streak = self.streak + 1 if bad_metrics else 0
        if self.streak < self._limit:
            return ""
        first = step - self.streak + 1
        return (
            f"no usable update in {self.streak} steps ({first} to {step}; at the last "
            f"one: {', '.join(sorted(bad_metrics))})"
        )
