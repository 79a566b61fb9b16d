"""WORKDIR/run.json: configuration, devices, history of starts, time by phase.

`stopped` is one of
    running   it runs; a process that was killed leaves this, see below
    done      all steps are trained and the weights are written
    sigterm   asked to stop by SIGTERM, saved
    user      asked to stop by Ctrl-C, saved
    nan       no usable update in many steps, or weights that are not finite
    hang      no progress for too long; stacks_PROCESS.txt shows where
    error     any other exception; it is in `message`
    killed    only in `starts`: the process ended without changing "running"

A start that is refused leaves the file as it was.
"""

import datetime
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from gendr_jax import files
from gendr_jax.train.run.resume import changes
from gendr_jax.version import __version__

Phase = Literal["start", "compile", "step", "data", "save", "draw", "export"]
PHASES = ("start", "compile", "step", "data", "save", "draw", "export")


class Goodput:
    """Seconds spent in each phase since `begun`; the first phase is "start".

    "start" is imports, reading weights and restoring; "compile" the compilation of the
    step; "step" training itself; "data" waiting for a batch; "save" what a save keeps
    the step waiting for; "draw" sample pictures; "export" the end of a done run.

    Args:
        begun: time.perf_counter() when the process started to work.
        on_phase: called with the new phase whenever one begins.
    """

    def __init__(
        self,
        begun: float | None = None,
        on_phase: Callable[[Phase], None] | None = None,
    ):
        self._since = time.perf_counter() if begun is None else begun
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._phase: Phase = "start"
        self.on_phase = on_phase or (lambda phase: None)

    def enter(self, phase: Phase) -> None:
        """From now on the time is that of `phase`."""
        now = time.perf_counter()
        self._seconds[self._phase] += now - self._since
        self._since, self._phase = now, phase
        self.on_phase(phase)

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
        totals = dict(self._seconds)
        totals[self._phase] += now - self._since
        return {name: round(value, 6) for name, value in totals.items()}

    def fraction(self) -> float:
        """The share of steps in the time since the start of this process."""
        totals = self.seconds()
        return totals["step"] / max(sum(totals.values()), 1e-9)


def summed(starts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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
    kept_seconds = away = 0.0
    begins = None  # the step that the next start began with
    # Backwards, since the steps that a start has lost are known from the next one.
    for start in reversed(starts):
        first, last = start["from"], start["to"]
        steps_done = 0 if first is None else last - first
        steps_lost = (
            min(max(last - begins, 0), steps_done)
            if steps_done and begins is not None
            else 0
        )
        for name, value in start["seconds"].items():
            seconds[name] = seconds.get(name, 0.0) + value
        steps, redone, away = (
            steps + steps_done,
            redone + steps_lost,
            away + start["away"],
        )
        kept_seconds += (
            start["seconds"].get("step", 0.0)
            * (steps_done - steps_lost)
            / max(steps_done, 1)
        )
        begins = begins if first is None else first
    total = sum(seconds.values()) + away
    return {
        "seconds": {name: round(value, 6) for name, value in seconds.items()},
        "away": round(away, 6),
        "steps": steps,
        "redone_steps": redone,
        "goodput": round(kept_seconds / max(total, 1e-9), 4),
    }


NAME = "run.json"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_REFRESH_SECONDS = 5.0
_START = ("started", "stopped", "message", "from", "to", "away", "seconds", "ended")
# Entries of a start only if they apply: changed settings, --from-step, --fork.
_STEERED = ("changes", "data", "from_step", "forked_from")


class RunFile:
    """The run file of one start; only the first process writes.

    Args:
        workdir: exists; the run file of the start before is read.
        config: plain JSON.
        mesh: what it runs on.
        goodput: the clock of this start.
    """

    def __init__(
        self,
        workdir: Path,
        config: Mapping[str, Any],
        mesh: Mesh,
        goodput: Goodput | None = None,
    ):
        self._path = workdir / NAME
        self._active = jax.process_index() == 0
        self._goodput = goodput or Goodput()
        self._bytes = self._path.read_bytes() if self._path.exists() else None
        before = _read(self._path) if self._active else {}
        self._before = before
        self._earlier = _earlier(before)
        self._this = dict.fromkeys(_START) | {
            "started": _now(),
            "away": _away(before),
        }
        self._written = 0.0
        self._content: dict[str, Any] = {
            "stopped": "running",
            "message": "",
            "step": None,
            "resumed_from": None,
            "started": self._this["started"],
            "heard": None,
            "ended": None,
            "mesh": {n: s for n, s in mesh.shape.items() if s > 1} or {"data": 1},
            "devices": {
                "kind": mesh.devices.flat[0].device_kind,
                "platform": mesh.devices.flat[0].platform,
                "count": mesh.size,
                "processes": jax.process_count(),
            },
            "versions": _versions(),
            "best": before.get("best"),
            "config": dict(config),
        }

    def update(self, **values: Any) -> None:
        """Change entries and write the file."""
        self._content.update(values)
        if not self._active:
            return
        now, content = _now(), self._content
        step = content["step"]
        self._this |= {
            "stopped": content["stopped"],
            "message": content["message"],
            "from": None if step is None else content["resumed_from"] or 0,
            "to": step,
            "seconds": self._goodput.seconds(),
            "ended": now,
        }
        self._this |= {n: content[n] for n in _STEERED if content.get(n)}
        starts = [*self._earlier, self._this]
        content |= {"heard": now, "starts": starts, "goodput": summed(starts)}
        text = json.dumps(content, indent=1, default=str) + "\n"
        files.write_text(self._path, text)
        self._written = time.monotonic()

    @property
    def best(self) -> dict[str, Any] | None:
        """{"step", "by", "value"} of the weights in weights_best/, of all starts."""
        return self._content["best"]

    def refresh(self, step: int) -> None:
        """Record progress, at most every few seconds."""
        if time.monotonic() - self._written > _REFRESH_SECONDS:
            self.update(step=step)

    def withdraw(self) -> None:
        """Restore the previous content: this start is refused."""
        self._active, active = False, self._active
        if not active or not self._written:
            return
        if self._bytes is None:
            self._path.unlink(missing_ok=True)
        else:
            files.write_bytes(self._path, self._bytes)

    def abandon(self) -> None:
        """Write no more: another start has taken the workdir over."""
        self._active = False

    def rewound(self, step: int) -> bool:
        """Whether an earlier start of this very configuration went back to `step`.

        A launcher starts the same command again after each failure: what was trained
        since must not be discarded.
        """
        steered = [start for start in self._earlier if start.get("from_step")]
        same = not changes(self._before.get("config", {}), self._content["config"])
        return bool(steered) and steered[-1]["from_step"] == step and same

    def nan_starts(self) -> int:
        """How many starts in a row, up to now, ended without a usable update.

        A start that was given another configuration, or went back, is the first of a
        new row; 0 where this one has another configuration. What differs is recorded
        against the checkpoint, so a command that is repeated records the same again.
        """
        if changes(self._before.get("config", {}), self._content["config"]):
            return 0
        count = 0
        befores = [{}, *self._earlier][:-1]
        for start, before in zip(self._earlier[::-1], befores[::-1], strict=True):
            if start["stopped"] != "nan":
                break
            count += 1
            steered = _steered(start)
            if steered and steered != _steered(before):
                break
        return count

    def end(self, reason: str, message: str = "") -> None:
        """Write why the run stopped."""
        self.update(stopped=reason, message=message, ended=_now())


def _steered(start: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked of a start, besides to go on."""
    return {name: start[name] for name in _STEERED if name in start}


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:  # not written by this module, which renames atomically
        return {}


def _earlier(before: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The starts in the file; a last one that is still "running" was killed."""
    starts = [dict(start) for start in before.get("starts", [])]
    if starts and before.get("stopped") == "running":
        starts[-1]["stopped"] = "killed"
    return starts


def _away(before: Mapping[str, Any]) -> float:
    """Seconds since the previous start last wrote the file."""
    try:
        heard = datetime.datetime.fromisoformat(before["heard"])
    except (KeyError, TypeError, ValueError):
        return 0.0
    elapsed = datetime.datetime.now(datetime.UTC) - heard
    return max(round(elapsed.total_seconds(), 3), 0.0)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    versions = {"gendr_jax": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
