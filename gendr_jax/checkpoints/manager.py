"""Checkpoints of a training run: saved in the background, verified when read.

On disk a state is a nested dict with string keys, the path of every array, so that a
checkpoint can be read without the classes that made it. Beside the arrays stands a
manifest with shape, dtype and digest of each: Orbax itself returns wrong values for a
flipped byte, and casts in silence. A step that does not verify is set aside, and the
newest one that does is used.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from gendr_jax.checkpoints import manifest
from gendr_jax.checkpoints.barrier import SECONDS, anyone, barrier
from gendr_jax.checkpoints.manifest import Meta
from gendr_jax.errors import GendrError, InputError, UsageError
from gendr_jax.sharding import path_name
from gendr_jax.weights.remote_paths import as_epath, move_folder

FOLDER = "checkpoints"
_STATE = "state"


class _Broken(Exception):
    """A checkpoint that cannot be read or does not hold what was saved."""


class SaveFailed(GendrError):
    """A checkpoint could not be written; older ones are as they were."""


class _Protected:
    """A preservation policy of Orbax: some steps are kept whatever the others say."""

    def __init__(self) -> None:
        self.steps: set[int] = set()

    def should_preserve(self, checkpoints: Any, *, context: Any) -> Sequence[bool]:
        return [checkpoint.step in self.steps for checkpoint in checkpoints]


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
        self._folder = as_epath(folder)
        self._barrier_seconds = barrier_seconds
        policies = ocp.training.preservation_policies
        self._protected = _Protected()
        self._kept = policies.AnyPreservationPolicy(
            [
                policies.LatestN(keep),
                *([policies.EveryNSteps(keep_every)] if keep_every > 0 else []),
                *([policies.EveryNSeconds(keep_seconds)] if keep_seconds > 0 else []),
                self._protected,
            ]
        )
        self._pending: Any = None
        self._committed = time.monotonic()
        self._open()

    def _open(self) -> None:
        training = ocp.training
        # Orbax's policies take another class of metadata than its protocols state.
        self._orbax = training.Checkpointer(
            self._folder,
            save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),  # ty: ignore[invalid-argument-type]
            preservation_policy=self._kept,  # ty: ignore[invalid-argument-type]
            cleanup_tmp_directories=True,
        )

    @property
    def steps(self) -> list[int]:
        """Committed steps, oldest first; not yet verified."""
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    def protect(self, step: int | None) -> None:
        """Keep this step whatever else is kept; None gives up the one before."""
        self._protected.steps = set() if step is None else {step}

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
            SaveFailed: this save cannot begin, or the one before it failed.
        """
        self.wait()
        steps = self.steps
        if steps and step <= steps[-1]:
            if step not in steps:
                text = f"step {step} is older than checkpoint {steps[-1]}: not saved"
                warnings.warn(text, stacklevel=2)
            return False
        described = manifest.make(step, state, clock, meta)
        try:
            self._pending = self._orbax.save_checkpointables_async(
                step,
                {_STATE: _nest(_named(state))},
                force=True,
                custom_metadata=described,
            )
        except Exception as error:  # Orbax raises many kinds
            raise self._failed(error) from error
        if self._pending is None:
            raise RuntimeError(f"Orbax refused to save step {step} in {self._folder}")
        return True

    def poll(self) -> None:
        """Raise SaveFailed if something has gone wrong in the background."""
        if self._pending is not None:
            self._settle(timeout=0)

    def wait(self) -> None:
        """Until the save in the background is on disk.

        Raises:
            SaveFailed: it is not.
        """
        if self._pending is not None:
            self._settle(timeout=None)

    def _settle(self, timeout: float | None) -> None:
        pending, self._pending = self._pending, None
        try:
            pending.result(timeout=timeout)
        except TimeoutError as error:
            if timeout is None:
                raise self._failed(error) from error
            self._pending = pending
            return
        except Exception as error:  # Orbax raises many kinds
            raise self._failed(error) from error
        self._committed = time.monotonic()

    def _failed(self, error: Exception) -> SaveFailed:
        return SaveFailed(
            f"a checkpoint cannot be written to {self._folder} ({_reason(error)}). "
            "Older ones are intact: make room or mend the store, then start the same "
            "command again."
        )

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
                state = _restored(self._orbax, step, abstract, accept)
            except _Broken as error:
                bad[step] = str(error)
                warnings.warn(f"checkpoint {step} is damaged: {error}", stacklevel=2)
            else:
                self._set_aside(list(bad), "damaged")
                return step, state
        if bad:
            raise UsageError(
                f"every checkpoint under {self._folder} is damaged "
                f"({'; '.join(f'{s}: {e}' for s, e in bad.items())}). "
                "Start again with an empty --workdir."
            )
        return None

    def rewind(
        self,
        step: int,
        abstract: Any,
        accept: Callable[[Meta], None] = lambda meta: None,
    ) -> tuple[int, Any]:
        """(step, state) of this checkpoint; newer ones are renamed `N.abandoned-K`.

        Raises:
            UsageError: as `restore`, or there is no such checkpoint, or it is damaged.
        """
        if step not in self.steps:
            raise UsageError(
                f"there is no checkpoint {step} under {self._folder}, there are "
                f"{', '.join(map(str, self.steps)) or 'none'}. Give one of them."
            )
        try:
            state = _restored(self._orbax, step, abstract, accept)
        except _Broken as error:
            raise UsageError(
                f"checkpoint {step} under {self._folder} is damaged ({error}). Give "
                "another step."
            ) from error
        self._set_aside([newer for newer in self.steps if newer > step], "abandoned")
        return step, state

    def _set_aside(self, steps: Sequence[int], why: str) -> None:
        """Rename steps, so that training can save under their numbers."""
        if not steps:
            return
        self._orbax.close()
        if jax.process_index() == 0:
            for step in steps:
                number = 0
                while (target := self._folder / f"{step}.{why}-{number}").exists():
                    number += 1
                move_folder(self._folder / str(step), target)
        barrier(f"set aside {why} checkpoints", self._barrier_seconds)
        self._open()


def find(path: Path | str) -> tuple[Any, int | None]:
    """(workdir, step) of `WORKDIR/checkpoints/STEP`; the step is None for a workdir.

    Raises:
        UsageError: there is no such checkpoint, or no checkpoints at all.
    """
    folder, step = as_epath(path), None
    if folder.name.isdigit() and folder.parent.name == FOLDER:
        folder, step = folder.parent.parent, int(folder.name)
    there = folder / FOLDER / str(step) if step is not None else folder / FOLDER
    if not there.is_dir():
        raise UsageError(
            f"{path} holds no checkpoint. Give a training workdir, or one of its "
            f"checkpoints, as in {folder}/{FOLDER}/1000."
        )
    return folder, step


def load(
    path: Path | str,
    abstract: Any,
    accept: Callable[[Meta], None] = lambda meta: None,
    step: int | None = None,
) -> tuple[int, Any]:
    """(step, state) of a checkpoint of a run that may be at work: nothing is changed.

    Args:
        path: a workdir, of which the newest good checkpoint is taken, or
            `WORKDIR/checkpoints/STEP`.
        abstract, accept: as `Manager.restore`.
        step: of a workdir, this checkpoint.

    Raises:
        UsageError: as `Manager.restore`, or there is no such checkpoint.
        InputError: it is damaged, or all are.
    """
    folder, named = find(path)
    step = named if step is None else step
    with ocp.training.Checkpointer(folder / FOLDER) as orbax:
        steps = sorted((c.step for c in orbax.checkpoints), reverse=True)
        if step is not None and step not in steps:
            raise UsageError(
                f"there is no checkpoint {step} in {folder}, there are "
                f"{', '.join(map(str, sorted(steps))) or 'none'}. Give one of them."
            )
        damaged = {}
        for one in steps if step is None else [step]:
            try:
                return one, _restored(orbax, one, abstract, accept)
            except _Broken as error:
                damaged[one] = str(error)
    reasons = "; ".join(f"{one}: {why}" for one, why in damaged.items())
    raise InputError(
        f"{folder} has no good checkpoint ({reasons or 'it has none yet'}). Give "
        "another one."
    )


def config_of(path: Path | str, step: int | None = None) -> tuple[int, dict[str, Any]]:
    """(step, settings of the run) of a checkpoint, from its manifest alone.

    Args:
        path, step: as `load`; without a step the newest whose manifest can be read.

    Raises:
        UsageError, InputError: as `load`.
    """
    folder, named = find(path)
    step = named if step is None else step
    with ocp.training.Checkpointer(folder / FOLDER) as orbax:
        steps = sorted((c.step for c in orbax.checkpoints), reverse=True)
        for one in steps if step is None else [s for s in steps if s == step]:
            try:
                return one, dict(_described(orbax, one)["meta"]["config"])
            except _Broken:
                continue
    raise InputError(
        f"{folder} has no good checkpoint {'' if step is None else step}, it has "
        f"{', '.join(map(str, sorted(steps))) or 'none'}. Give another one."
    )


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
    folder = as_epath(workdir) / FOLDER
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
        good = found["fingerprint"] == manifest.fingerprint_of(
            found["arrays"], found["clock"]
        )
    except Exception as error:  # Orbax raises many kinds for many kinds of damage
        raise _Broken(f"its manifest cannot be read ({_reason(error)})") from error
    if not good or found["step"] != step:
        raise _Broken("its manifest was changed")
    return found


def _restored(
    orbax: Any, step: int, abstract: Any, accept: Callable[[Meta], None]
) -> Any:
    """The state of a step, placed and typed as `abstract` says."""
    described = _described(orbax, step)
    accept(described["meta"])
    manifest.check_like(described["arrays"], abstract, step)
    flat = _read(orbax, step, _named(abstract), described)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(abstract)
    return treedef.unflatten([flat[path_name(path)] for path, _ in leaves])


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
