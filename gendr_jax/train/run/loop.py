"""The training loop: shard the state, resume, step, log, save, stop.

`state.step` is the only clock. It decides which batch comes next and which random
numbers are drawn, so a resumed run computes the same as an uninterrupted one.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from gendr_jax import sharding
from gendr_jax.checkpoints.barrier import anyone, barrier
from gendr_jax.errors import UsageError
from gendr_jax.train.run import compiled_step, distributed, profile
from gendr_jax.train.run.feed import Batches, Feed
from gendr_jax.train.run.lock import Lock, LockLost
from gendr_jax.train.run.log import Guard, Log, Meter
from gendr_jax.train.run.resume import plain
from gendr_jax.train.run.run_checkpoints import NotFinite, Restored, Saves
from gendr_jax.train.run.run_json import Goodput, RunFile
from gendr_jax.train.run.sample_sheet import Sampler
from gendr_jax.train.run.signals import StopFlag, interruptible
from gendr_jax.train.run.validation import Validation, better
from gendr_jax.train.run.watchdog import Watchdog
from gendr_jax.train.run.workdir import Workdir
from gendr_jax.train.run.xla_flags import compiler_options
from gendr_jax.train.run_settings import (
    NAN_STARTS,
    Reason,
    RunResult,
    RunSettings,
    Start,
    window,
)
from gendr_jax.train.stage import Batch, Metrics, Stage, State

WEIGHTS, BEST = "weights", "weights_best"
PLAIN_START = Start()


def run(
    stage: Stage,
    batches: Batches,
    settings: RunSettings,
    *,
    mesh: Mesh,
    workdir: Path | str,
    progress: bool = True,
    begun: float | None = None,
    start: Start = PLAIN_START,
    held_out: Batches | None = None,
) -> RunResult:
    """Train `stage` until it is done or stopped; resume from checkpoints in `workdir`.

    Writes checkpoints/, metrics.jsonl, tb/, samples/, run.json, weights_best/ where
    there is validation and, when done, weights/ under `workdir`. SIGTERM and SIGINT end
    the run after the step, saved.

    Args:
        stage: what is trained. Its weights are let go once the devices have them; a
            caller that keeps them holds a copy in the host's memory for the whole run.
        batches: start -> iterator of the batches of this process from `start` on.
        settings: how long, how often.
        mesh: from `sharding.make_mesh`; may differ from the one of the checkpoint.
        workdir: made if absent; a folder or the URL of an object store.
        progress: show progress on the terminal.
        begun: time.perf_counter() when the process began to work; default now.
        start: which checkpoint to resume from, and which changes are accepted.
        held_out: as `batches`, of photographs that are not trained on; None: no
            validation.

    Raises:
        UsageError: `workdir` holds a run that these settings cannot resume, or a batch
            does not divide over the devices; run.json stays as it was.
        TryAgainError: another run is training in `workdir`.
        SaveFailed: a checkpoint cannot be written.
        LateProcess: another process did not reach a barrier in time.
    """
    goodput = Goodput(begun)
    log = (lambda line: print(line, flush=True)) if progress else (lambda line: None)
    with (
        Lock(workdir, take_over=start.take_over, log=log) as lock,
        _closed(Workdir(workdir)) as run_dir,
        StopFlag() as stop,
    ):
        record = RunFile(run_dir.local, plain(settings.config), mesh, goodput)
        loop = None
        try:
            _refuse_nan_again(record, start)
            loop = _Loop(
                stage, batches, settings, mesh, run_dir, record, lock, start, held_out
            )
            del stage  # and with it the weights in the host's memory
            with ExitStack() as stack:
                result = loop.run(stack, stop, goodput, progress)
        except BaseException as error:
            _note_error(record, run_dir, error, loop is not None and loop.trained)
            raise
        record.update(step=result.step)
        record.end(result.reason, result.message)
    return result


@contextmanager
def _closed(resource: Any) -> Iterator[Any]:
    """Close `resource` at the end; an error of closing never hides an earlier one."""
    try:
        yield resource
    except BaseException:
        with suppress(Exception):
            resource.close()
        raise
    resource.close()


def _note_error(
    record: RunFile, run_dir: Workdir, error: BaseException, trained: bool
) -> None:
    """Record in run.json how a start failed."""
    with suppress(OSError):  # a full disk: keep the first error
        if isinstance(error, LockLost):
            record.abandon()
            run_dir.abandon()
        elif isinstance(error, UsageError) and not trained:
            record.withdraw()
        else:
            reason = "user" if isinstance(error, KeyboardInterrupt) else "error"
            record.end(reason, f"{type(error).__name__}: {error}")


def _refuse_nan_again(record: RunFile, start: Start) -> None:
    """Refuse to start after repeated NaN: a launcher would restart it for ever."""
    rewinds = start.from_step is not None and not record.rewound(start.from_step)
    if anyone(record.nan_starts() >= NAN_STARTS and not rewinds):
        raise UsageError(
            f"the last {NAN_STARTS} starts of this workdir ended without a usable "
            "update. Give a lower learning rate, or go back to an older checkpoint "
            "with --from-step STEP."
        )


class _Loop:
    """One call of `run`: what is fixed after the start, and the counters."""

    def __init__(
        self,
        stage: Stage,
        batches: Batches,
        settings: RunSettings,
        mesh: Mesh,
        workdir: Workdir,
        record: RunFile,
        lock: Lock,
        begin: Start,
        held_out: Batches | None,
    ):
        self.stage = stage.without_weights()
        self.batches, self.settings = batches, settings
        self.mesh, self.workdir, self.record = mesh, workdir, record
        self.lock, self.begin, self.trained = lock, begin, False
        # Three keys: initial weights, steps, sample pictures. The step folds in its
        # number, so that a resumed run draws the same numbers.
        init_key, *keys = jax.random.split(jax.random.key(settings.seed), 3)
        self.init_key = init_key
        self.step_key, sample_key = sharding.place(keys, sharding.replicated(mesh))
        abstract = jax.eval_shape(stage.init, init_key, stage.start)
        self.where = sharding.Placement(
            mesh, settings.rules, settings.min_sharded_size, settings.on_host
        )
        self.placement = self.where.tree(abstract)
        self.abstract = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            abstract,
            self.placement,
        )
        frozen_shardings = self.where.tree(stage.frozen, "frozen")
        self.frozen = sharding.place(stage.frozen, frozen_shardings)
        self.begin_with = stage.start
        self.sampler = Sampler(self.stage, batches, settings.samples, mesh, sample_key)
        self.validation = (
            None
            if held_out is None
            else Validation(self.stage, held_out, settings, mesh, sample_key)
        )

    def run(
        self, stack: ExitStack, stop: StopFlag, goodput: Goodput, progress: bool
    ) -> RunResult:
        settings, local = self.settings, self.workdir.local
        self.goodput = goodput
        watchdog = Watchdog(local, settings.watchdog, self.hung)
        goodput.on_phase = stack.enter_context(watchdog).beat
        distributed.bound_orbax_barriers()
        self.saves = Saves(self.workdir.checkpoints, settings, self.frozen)
        stack.enter_context(_closed(self.saves))
        start, state, messages = self.restore()
        self.begin_with = {}
        self.meet("restored")
        self.log = Log(local, start=start, steps=settings.steps, progress=progress)
        stack.enter_context(_closed(self.log))
        for line in messages:
            self.log.say(line)
        if start >= settings.steps:
            return self.nothing_to_do(start, state)
        feed = Feed(self.batches, start, self.mesh)
        stack.enter_context(_closed(feed))
        self.profiler = profile.Profiler(window(settings.profile), local / "profile")
        stack.enter_context(_closed(self.profiler))
        step, state, reason, message = self.steps(start, state, feed, stop)
        with goodput.phase("save"):
            self.saves.manager.wait()
        if reason == "done":
            self.export(state)
        self.log.say(f"stopped at step {step}: {message or reason}")
        return RunResult(step, reason, state, message)

    def restore(self) -> tuple[int, State, list[str]]:
        """(step, state, messages to log) from which this start continues."""
        begin, saves, record = self.begin, self.saves, self.record
        rewind_step, messages = begin.from_step, []
        if rewind_step is not None and anyone(record.rewound(rewind_step)):
            messages.append(
                f"an earlier start of this command went back to step {rewind_step}; to "
                "do it again, change a setting or use --fork"
            )
            rewind_step = None
        restored: Restored | None = saves.restore(
            self.abstract, begin.accept_changes, rewind_step
        )
        steered: dict[str, Any] = {}
        # A workdir with checkpoints is resumed; --fork counts only for its first start.
        if restored is None and begin.fork:
            restored = saves.fork(begin.fork, self.abstract)
            steered["forked_from"] = {"workdir": begin.fork, "step": restored.step}
        if restored is None:
            record.update(resumed_from=None, step=0)
            self.workdir.push()
            return 0, self.fresh(), messages
        if rewind_step is not None:
            steered["from_step"] = rewind_step
        steered |= {"changes": restored.changes, "data": restored.data}
        record.update(resumed_from=restored.step, step=restored.step, **steered)
        self.workdir.push()
        source = f" of {begin.fork}" if "forked_from" in steered else ""
        messages.append(f"resuming from step {restored.step}{source}")
        messages += [
            f"changed {name}: {text}" for name, text in restored.changes.items()
        ]
        if restored.data:
            messages.append(
                f"the data is another than at step {restored.step}: {restored.data}"
            )
        return restored.step, restored.state, messages

    def meet(self, name: str) -> None:
        """Wait for the other processes."""
        barrier(name, self.settings.barrier_seconds)

    def hung(self, message: str) -> None:
        """Called before the watchdog ends the process: record it and flush the log."""
        self.record.end("hang", message)
        if hasattr(self, "log"):
            self.log.flush()
        self.workdir.push()

    def fresh(self) -> State:
        """A new state, initialised directly in its shardings."""
        begin = sharding.place(
            self.begin_with, sharding.tree_shardings(self.begin_with, self.mesh)
        )
        init = jax.jit(self.stage.init, out_shardings=self.placement)
        return init(self.init_key, begin)

    def steps(
        self, step: int, state: State, feed: Feed, stop: StopFlag
    ) -> tuple[int, State, Reason, str]:
        """The loop itself: (last step, state, why it ended, message)."""
        settings, enter, late = self.settings, self.goodput.enter, None
        batch = self.next_batch(step, feed, stop)
        train_step = None if batch is None else self.compile(state, batch, stop)
        if batch is None or train_step is None:
            assert stop.reason is not None
            return step, state, stop.reason, "no step was done, so nothing is saved"
        meter = Meter(step, settings.batch_size, lambda: feed.waited)
        guard, save_postponed = Guard(settings.max_bad_steps), False
        try:
            while True:
                enter("step")
                self.profiler.before(step + 1, state)
                state, metrics = train_step(state, self.frozen, batch, self.step_key)
                step += 1
                # The devices work on this step while the last one's metrics are read.
                self.note(late, meter, guard)
                late = (step, metrics, feed.waited)
                last = step == settings.steps
                saves = last or save_postponed or _due(step, settings.checkpoint_every)
                draws = _due(step, settings.samples_every, last)
                validates = self.validation is not None and _due(
                    step, settings.validate_every, last
                )
                if saves or draws or validates:  # all wait for this step
                    self.note(late, meter, guard)
                    late = None
                if saves:
                    # After skipped updates the state may be unusable: save later.
                    save_postponed = guard.streak > 0 and not last
                    if not save_postponed:
                        self.save(step, state)
                if draws:
                    with meter.paused(), self.goodput.phase("draw"):
                        sheet = self.sampler.sheet(step, state, self.frozen)
                        self.log.sheet(step, sheet)
                if validates:
                    with meter.paused():
                        self.validate(step, state)
                if last:
                    return step, state, "done", ""
                batch = self.next_batch(step, feed, stop)
                if batch is None:
                    assert stop.reason is not None
                    self.note(late, meter, guard)
                    if guard.streak:
                        message = (
                            f"not saved, the last {guard.streak} updates are skipped"
                        )
                        return step, state, stop.reason, f"{stop.reason}, {message}"
                    self.save(step, state)
                    return step, state, stop.reason, ""
        except NotFinite as error:
            return step, state, "nan", str(error)

    def save(self, step: int, state: State) -> None:
        """Save a checkpoint, unless another start has taken the workdir over."""
        self.lock.check()
        with self.goodput.phase("save"):
            self.saves.save(step, state)
        self.log.flush()

    def validate(self, step: int, state: State) -> None:
        """Measure the held-out pictures; the best weights so far are kept."""
        assert self.validation is not None
        name = self.settings.best
        with self.goodput.phase("draw"):
            measured = self.validation.measure(step, state, self.frozen)
            self.log.metrics(step, measured.values)
            self.log.sheet(step, measured.sheet_hwc, "val")
        value, best = measured.values[f"val_{name}"], self.record.best
        so_far = best["value"] if best and best["by"] == name else None
        # Only the first process knows what earlier starts reached.
        first = jax.process_index() == 0
        if anyone(first and better(name, value, so_far)):
            self.export(state, BEST)
            self.record.update(best={"step": step, "by": name, "value": value})

    def next_batch(self, step: int, feed: Feed, stop: StopFlag) -> Batch | None:
        """The next batch, or None when asked to stop."""
        if stop.agreed(step):
            return None
        self.goodput.enter("data")
        try:
            return feed.next()
        except Exception:
            # Ctrl-C also reaches the data workers, which end first.
            if stop.reason and stop.alone:
                return None
            raise

    def compile(self, state: State, batch: Batch, stop: StopFlag) -> Any:
        """The compiled step; None when a signal arrives meanwhile."""
        self.goodput.enter("compile")
        arguments = compiled_step.Arguments(state, self.frozen, batch, self.step_key)
        programs = compiled_step.traced(self.stage, self.where, arguments)
        options = compiler_options(self.settings.xla_flags)
        compiled = interruptible(
            lambda: compiled_step.compiled(programs, options), stop
        )
        seconds = self.goodput.seconds()["compile"]
        if compiled is not None:
            self.record.update(compile_seconds=round(seconds, 2))
            self.log.say(f"compiled the step in {seconds:.1f} s")
            for line in sharding.report(self.trees(state), self.where).lines():
                self.log.say(line)
            self.meet("compiled")
        return compiled

    def trees(self, state: State) -> dict[str, Any]:
        """All that stays on the devices, by role."""
        return {"": state, "frozen": self.frozen}

    def note(
        self, late: tuple[int, Metrics, float] | None, meter: Meter, guard: Guard
    ) -> None:
        """Read and log the metrics of one finished step; the guard may stop the run."""
        if late is None:
            return
        self.trained = True
        self.lock.check()
        step, metrics, waited = late
        values = {name: float(v) for name, v in jax.device_get(metrics).items()}
        meter.add(values)
        if _due(step, self.settings.log_every, step == self.settings.steps):
            line = meter.line(step, values, waited)
            left = self.settings.steps - step
            line["eta_seconds"] = line["seconds_per_step"] * left
            line["goodput"] = self.goodput.fraction()
            line["since_commit"] = self.saves.manager.uncommitted_seconds
            self.log.metrics(step, line)
        self.log.advance()
        self.saves.manager.poll()
        self.record.refresh(step)
        self.workdir.refresh()
        stuck = guard.check(step, values)
        if guard.streak:
            self.saves.skipped()
        if stuck:
            raise NotFinite(stuck)

    def nothing_to_do(self, start: int, state: State) -> RunResult:
        """The run is done already; weights that are missing are written."""
        steps = self.settings.steps
        if start == steps and not anyone(self.workdir.exists(WEIGHTS)):
            self.export(state)
        message = f"nothing to do: step {start} of {steps} was reached before"
        self.log.say(message)
        return RunResult(start, "done", state, message)

    def export(self, state: State, name: str = WEIGHTS) -> None:
        """Write the weights folder; the first process does."""
        with self.goodput.phase("export"):
            state = distributed.gather_to_host(state, skip="opt")
            frozen = distributed.gather_to_host(self.frozen)
            if jax.process_index() == 0:
                self.workdir.clear(name)
                self.stage.export(state, frozen, self.workdir.local / name)
            self.meet("exported")


def _due(step: int, every: int, last: bool = False) -> bool:
    return every > 0 and (step % every == 0 or last)
