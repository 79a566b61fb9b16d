"""Checkpoints of a training run: saved in the background, verified when read.

What lives here: `Manager`, thin over Orbax, and `describe` for `gendr inspect`. What
does not: what a run may change between two starts (`train/run/resume.py`), the weights
folder a user takes away (`folder.py`).

On disk a state is a nested dict with string keys, the path of every array, so that a
checkpoint can be read without the classes that made it. Beside the arrays stands a
manifest with shape, dtype and digest of each: Orbax itself returns wrong values for a
flipped byte, and casts in silence. A step that does not verify is set aside, and the
newest one that does is used.
"""

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from gendr_jax.checkpoints import manifest
from gendr_jax.checkpoints.barrier import SECONDS, anyone, barrier
from gendr_jax.checkpoints.manifest import Meta
from gendr_jax.errors import InputError, UsageError
from gendr_jax.sharding import path_name
from gendr_jax.weights.remote_paths import move_folder, place

FOLDER = "checkpoints"
_STATE = "state"


class _Broken(Exception):
    """A checkpoint that cannot be read or does not hold what was saved."""


class Manager:
    """The checkpoints under `folder`. Close it when done.

    Saving runs in the background, one at a time. All processes call every method. In an
    object store, which cannot rename, a step counts once its commit file is written.

    Args:
        folder: a path, or a URL of an object store.
        keep: the newest so many are kept; besides them, for ever:
        keep_every: those whose step is a multiple of it (0: none).
        keep_seconds: one in so many seconds (0: none).
        barrier_seconds: how long processes wait for one another.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        keep: int = 3,
        keep_every: int = 0,
        keep_seconds: int = 0,
        barrier_seconds: float = SECONDS,
    ):
        self._folder = place(folder)
        self._barrier_seconds = barrier_seconds
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(keep)]
        kept += [policies.EveryNSteps(keep_every)] * (keep_every > 0)
        kept += [policies.EveryNSeconds(keep_seconds)] * (keep_seconds > 0)
        self._kept = policies.AnyPreservationPolicy(kept)
        self._pending: Any = None
        self._committed = time.monotonic()
        self._open()

    def _open(self) -> None:
        training = ocp.training
        self._orbax = training.Checkpointer(
            self._folder,
            save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=self._kept,
            cleanup_tmp_directories=True,
        )

    @property
    def steps(self) -> list[int]:
        """Committed steps, oldest first; not yet verified."""
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    @property
    def uncommitted_seconds(self) -> float:
        """Since the last step was committed, or since the start: what a crash costs."""
        return time.monotonic() - self._committed

    def save(self, step: int, state: Any, *, clock: Meta, meta: Meta) -> bool:
        """Start to save `state` as `step`; False when it is not saved.

        A step that is there already is left. One that is older than the newest is not
        written, with a warning: it would be taken for a step that training came from.

        Args:
            step: number of finished steps.
            state: pytree of arrays. May be donated as soon as this returns.
            clock: integers that, with the arrays, decide how training goes on (seed,
                position in the data). Part of the fingerprint.
            meta: plain JSON, kept beside the arrays.

        Raises:
            FloatingPointError: some array is not finite; nothing was written.
            OSError, RuntimeError: the save before this one failed.
        """
        self.wait()
        steps = self.steps
        if steps and step <= steps[-1]:
            if step not in steps:
                text = f"step {step} is older than checkpoint {steps[-1]}: not saved"
                warnings.warn(text, stacklevel=2)
            return False
        described = manifest.make(step, state, clock, meta)
        self._pending = self._orbax.save_checkpointables_async(
            step,
            {_STATE: _nest(_named(state))},
            force=True,
            custom_metadata=described,
        )
        if self._pending is None:
            raise RuntimeError(f"Orbax refused to save step {step} in {self._folder}")
        return True

    def poll(self) -> None:
        """Raise what went wrong in the background, if anything has."""
        if self._pending is not None:
            try:
                self._pending.result(timeout=0)
            except TimeoutError:
                return
            self._pending = None
            self._committed = time.monotonic()

    def wait(self) -> None:
        """Until the save in the background is on disk; raises what went wrong."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()
            self._committed = time.monotonic()

    def close(self) -> None:
        """Wait, then give up threads and files."""
        try:
            self.wait()
        finally:
            self._orbax.close()

    def restore(
        self, abstract: Any, accept: Callable[[Meta], None] = lambda meta: None
    ) -> tuple[int, Any] | None:
        """(step, state) of the newest checkpoint that verifies, or None if none exist.

        Args:
            abstract: like the state, ShapeDtypeStructs with the shardings to restore
                onto; the mesh that saved the checkpoint does not matter.
            accept: called with the `meta` of a checkpoint before its arrays are read;
                raises UsageError to refuse it.

        Raises:
            UsageError: the checkpoint holds other arrays than `abstract`, `accept`
                refuses it, or all checkpoints are damaged.
        """
        bad: dict[int, str] = {}
        for step in reversed(self.steps):
            try:
                described = _described(self._orbax, step)
                accept(described["meta"])
                manifest.check_like(described["arrays"], abstract, step)
                state = self._load(step, described, abstract)
            except _Broken as error:
                bad[step] = str(error)
                warnings.warn(f"checkpoint {step} is damaged: {error}", stacklevel=2)
            else:
                self._set_aside(bad)
                return step, state
        if bad:
            raise UsageError(
                f"every checkpoint under {self._folder} is damaged "
                f"({'; '.join(f'{s}: {e}' for s, e in bad.items())}). "
                "Start again with an empty --workdir."
            )
        return None

    def _load(self, step: int, described: Meta, abstract: Any) -> Any:
        flat = _read(self._orbax, step, _named(abstract), described)
        leaves, treedef = jax.tree_util.tree_flatten_with_path(abstract)
        return treedef.unflatten([flat[path_name(path)] for path, _ in leaves])

    def _set_aside(self, steps: Mapping[int, str]) -> None:
        """Rename damaged steps, so that training can save under their numbers."""
        if not steps:
            return
        self._orbax.close()
        if jax.process_index() == 0:
            for step in steps:
                number = 0
                while (target := self._folder / f"{step}.damaged-{number}").exists():
                    number += 1
                move_folder(self._folder / str(step), target)
        barrier("set aside damaged checkpoints", self._barrier_seconds)
        self._open()


def describe(workdir: Path | str, *, verify: bool = True) -> dict[str, Any]:
    """What the newest good checkpoint of a training run holds, for `gendr inspect`.

    Args:
        workdir: the folder given to `gendr train --workdir`.
        verify: read every array and compare it with its digest; without it a
            checkpoint counts as good when its manifest can be read.

    Returns:
        step; roles {name: {"arrays", "elements"}}; parameters (elements of all
        arrays); dtypes; fingerprint; config of the run; damaged {step: why}.

    Raises:
        InputError: no checkpoints, or none that is good.
    """
    folder = place(workdir) / FOLDER
    if not folder.is_dir():
        raise InputError(f"{workdir} has no checkpoints. Give a training workdir.")
    damaged: dict[int, str] = {}
    with ocp.training.Checkpointer(folder) as orbax:
        for step in sorted((c.step for c in orbax.checkpoints), reverse=True):
            try:
                described = _described(orbax, step)
                if verify:
                    wanted = manifest.abstract_arrays(described["arrays"])
                    _read(orbax, step, wanted, described)
                return {**manifest.summary(described), "damaged": damaged}
            except _Broken as error:
                damaged[step] = str(error)
    reasons = "; ".join(f"{step}: {why}" for step, why in damaged.items())
    raise InputError(
        f"{folder} has no good checkpoint ({reasons or 'it is empty'}). "
        "Train with this --workdir first."
    )


def _described(orbax: Any, step: int) -> dict[str, Any]:
    """The manifest of a step, checked against its own fingerprint."""
    try:
        found = dict(orbax.metadata(step).custom_metadata)
        good = found["fingerprint"] == manifest.whole(found["arrays"], found["clock"])
    except Exception as error:  # Orbax raises many kinds for many kinds of damage
        raise _Broken(f"its manifest cannot be read ({_reason(error)})") from error
    if not good or found["step"] != step:
        raise _Broken("its manifest was changed")
    return found


def _read(
    orbax: Any, step: int, named: dict[str, Any], described: Meta
) -> dict[str, Any]:
    """{path: array} placed as `named` says, every digest compared."""
    failure = None
    try:
        loaded = orbax.load_checkpointables(step, {_STATE: _nest(named)})
    except Exception as error:  # as above
        failure = error
    # Each process reads its own files: all have to give up the step, or none.
    if anyone(failure is not None):
        why = _reason(failure) if failure else "by another process"
        raise _Broken(f"its arrays cannot be read ({why})") from failure
    arrays = _named(loaded[_STATE])
    wrong = manifest.wrong(described["arrays"], arrays)
    if wrong:
        raise _Broken(f"arrays differ from what was saved: {manifest.some(wrong)}")
    return arrays


def _named(tree: Any) -> dict[str, Any]:
    """{path: array} of any pytree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}


def _nest(named: Mapping[str, Any]) -> dict[str, Any]:
    """{path: array} as nested dicts with string keys, the form on disk."""
    nested: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = name.split("/")
        inner = nested
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = leaf
    return nested


def _reason(error: BaseException) -> str:
    """The innermost cause in one short line: Orbax hides it behind others."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"
