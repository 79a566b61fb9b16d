"""The checkpoints of one run: their metadata, and which of them can be resumed."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gendr_jax.checkpoints import manager
from gendr_jax.checkpoints.manifest import fingerprint
from gendr_jax.train.run.resume import Rules, check_resumable, defaults, plain
from gendr_jax.train.run_settings import RunSettings
from gendr_jax.train.stage import Frozen, State


class NotFinite(Exception):
    """Training cannot go on: updates or weights are not finite."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """The checkpoint from which a start continues.

    Attributes:
        step, state: of the checkpoint.
        changes: {setting: "old -> new"} since it was written.
        data: "old -> new" where the data source is another one, else "".
    """

    step: int
    state: State
    changes: dict[str, str]
    data: str


class Saves:
    """Saves and restores the states of a run under `folder`. Close it when done.

    Updates may be skipped long before the run stops for it, and a state after a skip
    may be unusable: the newest checkpoint before a skip is kept until `keep` others
    were written in a row without one.
    """

    def __init__(self, folder: Any, settings: RunSettings, frozen: Frozen):
        self._settings = settings
        self._meta = {
            "config": plain(settings.config),
            "frozen": fingerprint(frozen),
            "seed": settings.seed,
            "data": settings.data,
        }
        self.manager = manager.Manager(
            folder,
            keep=settings.keep,
            keep_every=settings.keep_every,
            keep_seconds=settings.keep_seconds,
            barrier_seconds=settings.barrier_seconds,
        )
        self.close = self.manager.close
        self._before_skip: int | None = None
        self._saves_since = 0

    def restore(
        self, abstract: Any, accept: bool, from_step: int | None = None
    ) -> Restored | None:
        """The newest good checkpoint, or that of `from_step`; None if there is none.

        Args:
            accept: the user accepts changes that need it.

        Raises:
            UsageError: this run cannot resume from it.
        """
        accepted = _Accepted(self._meta, self._settings, accept)
        if from_step is not None:
            step_and_state = self.manager.rewind(from_step, abstract, accepted)
        else:
            step_and_state = self.manager.restore(abstract, accepted)
        if step_and_state is None:
            return None
        self._protect(accepted.meta.get("before_skip"))
        return Restored(*step_and_state, accepted.changes, accepted.data)

    def fork(self, path: str, abstract: Any) -> Restored:
        """A checkpoint of another run, which is only read.

        Raises:
            UsageError, InputError: it cannot be used.
        """
        accepted = _Accepted(self._meta, self._settings, False, fork=True)
        step_and_state = manager.load(path, abstract, accepted)
        return Restored(*step_and_state, accepted.changes, accepted.data)

    def skipped(self) -> None:
        """An update was skipped: protect the newest checkpoint from before it."""
        self._saves_since = 0
        if self._before_skip is None and self.manager.steps:
            self._protect(self.manager.steps[-1])

    def save(self, step: int, state: State) -> None:
        """Start to save; weights that are not finite are never written.

        Raises:
            NotFinite: they are not.
            manager.SaveFailed: it, or the save before it, cannot be written.
        """
        self._saves_since += 1
        if self._saves_since > self._settings.keep:
            self._protect(None)
        meta = self._meta | {"before_skip": self._before_skip}
        try:
            # With the arrays, these decide how a run continues.
            clock = {"seed": self._settings.seed, "data_index": step}
            self.manager.save(step, state, clock=clock, meta=meta)
        except FloatingPointError as error:
            raise NotFinite(f"the state of step {step} is {error}") from error

    def _protect(self, step: int | None) -> None:
        self._before_skip, self._saves_since = step, 0
        self.manager.protect(step)


class _Accepted:
    """Called with the metadata of a checkpoint: refuses it, or records what changed."""

    def __init__(
        self,
        now: Mapping[str, Any],
        settings: RunSettings,
        accept: bool,
        fork: bool = False,
    ):
        self._now = {**now, "defaults": defaults(settings.config)}
        self._rules = Rules(
            settings.may_change, settings.with_consent, accept=accept, fork=fork
        )
        self.meta: Mapping[str, Any] = {}
        self.changes: dict[str, str] = {}
        self.data = ""

    def __call__(self, meta: Mapping[str, Any]) -> None:
        self.changes = check_resumable(meta, self._now, self._rules)
        before, now = meta.get("data"), self._now["data"]
        self.data = f"{before} -> {now}" if before and now and before != now else ""
        self.meta = meta
