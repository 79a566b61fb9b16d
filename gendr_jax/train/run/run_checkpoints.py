"""The checkpoints of one run: what is written beside the arrays, and what is refused.

What lives here: `Saves`, the loop's hand on `manager.Manager`. What does not: when
to save (`loop.py`), what may change between starts (`resume.py`), files.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from gendr_jax.checkpoints import manager
from gendr_jax.checkpoints.manifest import fingerprint
from gendr_jax.train.run.resume import check_resumable, plain
from gendr_jax.train.settings import RunSettings
from gendr_jax.train.stage import Frozen, State


class NotFinite(Exception):
    """Training cannot go on: updates or weights are not finite."""


class Saves:
    """Saves and restores the states of a run under `folder`. Close it when done."""

    def __init__(self, folder: Any, settings: RunSettings, frozen: Frozen):
        self._settings = settings
        self._meta = {
            "config": plain(settings.config),
            "frozen": fingerprint(frozen),
            "seed": settings.seed,
        }
        self.manager = manager.Manager(
            folder,
            keep=settings.keep,
            keep_every=settings.keep_every,
            keep_seconds=settings.keep_seconds,
            barrier_seconds=settings.barrier_seconds,
        )
        self.close = self.manager.close

    def restore(self, abstract: Any) -> tuple[int, State] | None:
        """(step, state) of the newest good checkpoint, or None.

        Raises:
            UsageError: this run cannot go on from it.
        """
        return self.manager.restore(abstract, self._accept)

    def _accept(self, meta: Mapping[str, Any]) -> None:
        check_resumable(meta, self._meta, self._settings.may_change)

    def save(self, step: int, state: State) -> None:
        """Start to save; weights that are not finite are never written.

        Raises:
            NotFinite: they are not.
        """
        try:
            # What decides, besides the arrays, how a run goes on.
            clock = {"seed": self._settings.seed, "data_index": step}
            self.manager.save(step, state, clock=clock, meta=self._meta)
        except FloatingPointError as error:
            raise NotFinite(f"the state of step {step} is {error}") from error

    def save_if_finite(self, step: int, state: State) -> None:
        """The same at the end of a run that met numbers that are not finite.

        Updates were skipped, so the weights may well be those of the last good step;
        then a second start goes on beyond the bad ones.
        """
        with suppress(NotFinite):
            self.save(step, state)
