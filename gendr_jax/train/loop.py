"""The training loop: place, resume, step, log, save, stop.

What lives here: `run`, the same for every stage. What does not: the stages
(`*_step.py`), what is written where (`log.py`, `weights/checkpoint.py`), flags.

`state.step` is the only clock. It decides which batch comes next and which random
numbers are drawn, so a run that resumes goes on as if it had never stopped.
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gendr_jax import sharding
from gendr_jax.train.feed import Batches, Feed, first_rows
from gendr_jax.train.log import Log, RunFile
from gendr_jax.train.meter import Guard, Meter
from gendr_jax.train.resume import check_resumable, plain
from gendr_jax.train.run_settings import Reason, RunResult, RunSettings
from gendr_jax.train.sheet import contact_sheet
from gendr_jax.train.signals import StopFlag
from gendr_jax.train.stage import Batch, Metrics, Stage, State
from gendr_jax.weights import checkpoint
from gendr_jax.weights.fingerprint import fingerprint

WEIGHTS = "weights"


class NotFinite(Exception):
    """Training cannot go on: updates or weights are not finite."""


def run(
    stage: Stage,
    batches: Batches,
    settings: RunSettings,
    *,
    mesh: Mesh,
    workdir: Path | str,
    progress: bool = True,
) -> RunResult:
    """Train `stage` until it is done or is asked to stop; resume what is in `workdir`.

    Writes checkpoints/, metrics.jsonl, tb/, samples/, run.json and, when done, weights/
    under `workdir`. SIGTERM and SIGINT end the run after the step, saved.

    Args:
        stage: what is trained.
        batches: start -> iterator of the batches of this process from `start` on.
        settings: how long, how often.
        mesh: from `sharding.make_mesh`; may differ from the one of the checkpoint.
        workdir: made if absent.
        progress: show progress on the terminal.

    Raises:
        UsageError: `workdir` holds a run that these settings cannot resume, or a batch
            does not divide over the devices.
    """
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    record = RunFile(workdir, plain(settings.config), mesh)
    record.update()
    try:
        with ExitStack() as stack:
            loop = _Loop(stage, batches, settings, mesh, workdir, record)
            result = loop.run(stack, progress)
    except BaseException as error:
        reason = "user" if isinstance(error, KeyboardInterrupt) else "error"
        record.end(reason, f"{type(error).__name__}: {error}")
        raise
    record.update(step=result.step)
    record.end(result.reason, result.message)
    return result


class _Loop:
    """One call of `run`: what is fixed after the start, and the counters."""

    def __init__(
        self,
        stage: Stage,
        batches: Batches,
        settings: RunSettings,
        mesh: Mesh,
        workdir: Path,
        record: RunFile,
    ):
        self.stage, self.batches, self.settings = stage, batches, settings
        self.mesh, self.workdir, self.record = mesh, workdir, record
        init_key, *keys = jax.random.split(jax.random.key(settings.seed), 3)
        self.init_key = init_key
        self.step_key, self.sample_key = sharding.place(keys, sharding.replicated(mesh))
        like = jax.eval_shape(stage.init, init_key, stage.start)
        where = sharding.Placement(
            mesh, settings.rules, settings.min_sharded_size, settings.on_host
        )
        self.placement = where.tree(like)
        self.abstract = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            like,
            self.placement,
        )
        placed = where.tree(stage.frozen, "frozen")
        self.frozen = sharding.place(stage.frozen, placed)
        self.sampler: tuple[list[str], Any] | None = None

    def run(self, stack: ExitStack, progress: bool) -> RunResult:
        settings = self.settings
        stop = stack.enter_context(StopFlag())
        folder = self.workdir / checkpoint.FOLDER
        self.manager = checkpoint.Manager(folder, keep=settings.keep)
        stack.enter_context(closing(self.manager))
        self.meta = {
            "config": plain(settings.config),
            "frozen": fingerprint(self.frozen),
            "seed": settings.seed,
        }
        restored = self.manager.restore(self.abstract, self.accept)
        start, state = restored or (0, self.fresh())
        self.record.update(resumed_from=start if restored else None, step=start)
        self.log = Log(
            self.workdir, start=start, steps=settings.steps, progress=progress
        )
        stack.enter_context(closing(self.log))
        if start >= settings.steps:
            return self.nothing_to_do(start, state)
        if restored:
            self.log.say(f"resuming from step {start}")
        feed = Feed(self.batches, start, self.mesh)
        stack.enter_context(closing(feed))
        step, state, reason, message = self.steps(start, state, feed, stop)
        self.manager.wait()
        if reason == "done":
            self.export(state)
        self.log.say(f"stopped at step {step}: {message or reason}")
        return RunResult(step, reason, state, message)

    def accept(self, meta: Mapping[str, Any]) -> None:
        """Refuse a checkpoint that this run cannot go on from."""
        check_resumable(meta, self.meta, self.settings.may_change)

    def fresh(self) -> State:
        """A new state, made where it will live."""
        stage = self.stage
        begin = sharding.place(
            stage.start, sharding.tree_shardings(stage.start, self.mesh)
        )
        init = jax.jit(stage.init, out_shardings=self.placement)
        return init(self.init_key, begin)

    def steps(
        self, step: int, state: State, feed: Feed, stop: StopFlag
    ) -> tuple[int, State, Reason, str]:
        """The loop itself: (last step, state, why it ended, more words)."""
        settings, late = self.settings, None
        batch = feed.next()
        train_step = self.compile(state, batch)
        meter = Meter(step, settings.batch_size, lambda: feed.waited)
        guard = Guard(settings.max_bad_steps)
        try:
            while True:
                state, metrics = train_step(state, self.frozen, batch, self.step_key)
                step += 1
                # The devices work on this step while the last one's metrics are read.
                self.note(late, meter, guard)
                late = (step, metrics, feed.waited)
                last = step == settings.steps
                saves = last or _due(step, settings.checkpoint_every)
                draws = _due(step, settings.samples_every, last)
                if saves or draws:  # both wait for this step
                    self.note(late, meter, guard)
                    late = None
                if saves:
                    self.save(step, state)
                if draws:
                    with meter.paused():
                        self.draw(step, state)
                if last:
                    return step, state, "done", ""
                batch = self.next_batch(step, feed, stop)
                if batch is None:
                    self.note(late, meter, guard)
                    self.save(step, state)
                    return step, state, stop.reason, ""
        except NotFinite as error:
            # Updates were skipped, so the weights may well be those of the last good
            # step; then a second start goes on beyond the bad ones.
            with suppress(FloatingPointError):
                self.manager.save(step, state, clock=self.clock(step), meta=self.meta)
            return step, state, "nan", str(error)

    def next_batch(self, step: int, feed: Feed, stop: StopFlag) -> Batch | None:
        """The next batch, or None when asked to stop."""
        if stop.agreed(step):
            return None
        try:
            return feed.next()
        except Exception:
            # Ctrl-C reaches the data workers too, and they end before we do.
            if stop.reason:
                return None
            raise

    def compile(self, state: State, batch: Batch) -> Any:
        """The step, compiled before the clock of the first one runs."""
        mesh = self.mesh
        whole = sharding.replicated(mesh)
        placed = jax.tree.map(lambda x: x.sharding, self.frozen)
        rows = sharding.batch_sharding(mesh)
        jitted = jax.jit(
            self.stage.step,
            donate_argnums=0,
            in_shardings=(self.placement, placed, rows, whole),
            out_shardings=(self.placement, whole),
        )
        begun = time.perf_counter()
        # The attention kernel is chosen by the mesh that is current while tracing.
        with jax.set_mesh(mesh):
            lowered = jitted.lower(state, self.frozen, batch, self.step_key)
        compiled = lowered.compile()
        seconds = time.perf_counter() - begun
        self.record.update(compile_seconds=round(seconds, 2))
        self.log.say(f"compiled the step in {seconds:.1f} s")
        return compiled

    def note(
        self, late: tuple[int, Metrics, float] | None, meter: Meter, guard: Guard
    ) -> None:
        """Read and log the metrics of one finished step; the guard may stop the run."""
        if late is None:
            return
        step, metrics, waited = late
        values = {name: float(v) for name, v in jax.device_get(metrics).items()}
        meter.add(values)
        if _due(step, self.settings.log_every, step == self.settings.steps):
            self.log.metrics(step, meter.line(step, values, waited))
        self.log.advance()
        self.manager.poll()
        stuck = guard.check(step, values)
        if stuck:
            raise NotFinite(stuck)

    def clock(self, step: int) -> dict[str, int]:
        """What decides, besides the arrays, how a run goes on."""
        return {"seed": self.settings.seed, "data_index": step}

    def save(self, step: int, state: State) -> None:
        """Start to save; weights that are not finite are never written."""
        try:
            self.manager.save(step, state, clock=self.clock(step), meta=self.meta)
        except FloatingPointError as error:
            raise NotFinite(f"the state of step {step} is {error}") from error

    def draw(self, step: int, state: State) -> None:
        """A contact sheet of the same few samples each time."""
        if self.sampler is None:
            rows = self.settings.samples
            self.sampler = _sampler(self.stage, rows, self.mesh)
            self.rows = first_rows(self.batches, self.mesh, rows)
        titles, sample = self.sampler
        columns = sample(state, self.frozen, self.rows, self.sample_key)
        images = [np.asarray(images, np.float32) for images in columns]
        sheet = contact_sheet(
            dict(zip(titles, images, strict=True)), caption=f"step {step}"
        )
        self.log.sheet(step, sheet)

    def nothing_to_do(self, start: int, state: State) -> RunResult:
        """The run had been done before; weights that are missing are written."""
        steps = self.settings.steps
        if start == steps and not (self.workdir / WEIGHTS).exists():
            self.export(state)
        message = f"nothing to do: step {start} of {steps} was reached before"
        self.log.say(message)
        return RunResult(start, "done", state, message)

    def export(self, state: State) -> None:
        """The weights folder that a user takes away."""
        self.stage.export(state, self.workdir / WEIGHTS)


def _due(step: int, every: int, last: bool = False) -> bool:
    return every > 0 and (step % every == 0 or last)


def _sampler(stage: Stage, rows: int, mesh: Mesh) -> tuple[list[str], Any]:
    """(titles, jitted function): the columns as a list, for jit sorts dicts by key."""
    titles: list[str] = []

    def sample(*args: Any) -> list[jax.Array]:
        columns = stage.sample(*args)
        titles[:] = columns
        return [images_bhwc[:rows] for images_bhwc in columns.values()]

    return titles, jax.jit(sample, out_shardings=sharding.replicated(mesh))
