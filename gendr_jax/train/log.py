"""What a run says while it trains: terminal, metrics.jsonl, TensorBoard, pictures.

What lives here: writing. What does not: which numbers, and when (`loop.py`); run.json
(`run_file.py`). Only the first process writes; on the others every method does nothing.
"""

import json
import math
import os
import sys
from collections.abc import Mapping
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
