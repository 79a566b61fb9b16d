"""Checkpoints of a training run: saved in the background, verified when read.

On disk a state is a nested dict with string keys, the path of every array, so that a
checkpoint can be read without the classes that made it. Its metadata holds a manifest
with shape, dtype and digest of each array: Orbax itself returns wrong values for a
flipped byte, and casts without a warning. A step that does not verify is renamed, and
the newest one that does is used.
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


class _Damaged(Exception):
    """A checkpoint that cannot be read or does not hold what was saved."""


class SaveFailed(GendrError):
    """A checkpoint could not be written; older ones are unchanged."""


class _Protected:
    """A preservation policy of Orbax: these steps are never deleted."""

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
        keep: how many of the newest are kept.
        keep_every: steps that are multiples of it are never deleted (0: none).
        keep_seconds: one step in so many seconds is never deleted (0: none).
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
        self._preservation = policies.AnyPreservationPolicy(
            [
                policies.LatestN(keep),
                *([policies.EveryNSteps(keep_every)] if keep_every > 0 else []),
                *([policies.EveryNSeconds(keep_seconds)] if keep_seconds > 0 else []),
                self._protected,
            ]
        )
        self._pending: Any = None
        self._committed_at = time.monotonic()
        self._open()

    def _open(self) -> None:
        training = ocp.training
        # Reopened after renames: Orbax lists the steps only when it is created. Its
        # policies take another class of metadata than its protocols state.
        self._orbax = training.Checkpointer(
            self._folder,
            save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),  # ty: ignore[invalid-argument-type]
            preservation_policy=self._preservation,  # ty: ignore[invalid-argument-type]
            cleanup_tmp_directories=True,
        )

    @property
    def steps(self) -> list[int]:
        """Committed steps, oldest first; not yet verified."""
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    def protect(self, step: int | None) -> None:
        """Never delete this step, and the one protected before no longer."""
        self._protected.steps = set() if step is None else {step}

    @property
    def uncommitted_seconds(self) -> float:
        """Seconds since the last commit, or the start: what a crash would lose."""
        return time.monotonic() - self._committed_at

    def save(self, step: int, state: Any, *, clock: Meta, meta: Meta) -> bool:
        """Start to save `state` as `step`; False when it is not saved.

        A step that exists is not written again. One older than the newest is not
        written, with a warning: a later start would take it for an ancestor.

        Args:
            step: number of finished steps.
            state: pytree of arrays. May be donated as soon as this returns.
            clock: integers that, with the arrays, decide how training goes on (seed,
                position in the data). Part of the fingerprint.
            meta: plain JSON, saved with the arrays.

        Raises:
            FloatingPointError: some array is not finite; nothing was written.
            SaveFailed: this save cannot begin, or the one before it failed.
        """
        self.wait()
        steps = self.steps
        if steps and step <= steps[-1]:
            if step not in steps:
                message = f"step {step} is older than checkpoint {steps[-1]}: not saved"
                warnings.warn(message, stacklevel=2)
            return False
        manifest_json = manifest.make(step, state, clock, meta)
        try:
            self._pending = self._orbax.save_checkpointables_async(
                step,
                {_STATE: _nest(_by_path(state))},
                force=True,
                custom_metadata=manifest_json,
            )
        except Exception as error:  # Orbax raises many kinds
            raise self._failed(error) from error
        if self._pending is None:
            raise RuntimeError(f"Orbax refused to save step {step} in {self._folder}")
        return True

    def poll(self) -> None:
        """Raise SaveFailed if the save in the background has failed."""
        if self._pending is not None:
            self._settle(timeout=0)

    def wait(self) -> None:
        """Wait until the save in the background is on disk.

        Raises:
            SaveFailed: it could not be written.
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
        self._committed_at = time.monotonic()

    def _failed(self, error: Exception) -> SaveFailed:
        return SaveFailed(
            f"a checkpoint cannot be written to {self._folder} ({_reason(error)}). "
            "Older ones are intact: free disk space or restore access to the store, "
            "then start the same command again."
        )

    def close(self) -> None:
        """Wait for the save, then release threads and files."""
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
        damaged: dict[int, str] = {}
        for step in reversed(self.steps):
            try:
                state = _read_state(self._orbax, step, abstract, accept)
            except _Damaged as error:
                damaged[step] = str(error)
                warnings.warn(f"checkpoint {step} is damaged: {error}", stacklevel=2)
            else:
                self._set_aside(list(damaged), "damaged")
                return step, state
        if damaged:
            raise UsageError(
                f"every checkpoint under {self._folder} is damaged "
                f"({'; '.join(f'{s}: {e}' for s, e in damaged.items())}). "
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
            state = _read_state(self._orbax, step, abstract, accept)
        except _Damaged as error:
            raise UsageError(
                f"checkpoint {step} under {self._folder} is damaged ({error}). Give "
                "another step."
            ) from error
        self._set_aside([newer for newer in self.steps if newer > step], "abandoned")
        return step, state

    def _set_aside(self, steps: Sequence[int], suffix: str) -> None:
        """Rename steps, so that training can save under their numbers."""
        if not steps:
            return
        self._orbax.close()
        # One process renames; the barrier keeps the others from listing too early.
        if jax.process_index() == 0:
            for step in steps:
                number = 0
                while (target := self._folder / f"{step}.{suffix}-{number}").exists():
                    number += 1
                move_folder(self._folder / str(step), target)
        barrier(f"set aside {suffix} checkpoints", self._barrier_seconds)
        self._open()


def find(path: Path | str) -> tuple[Any, int | None]:
    """(workdir, step) of `WORKDIR/checkpoints/STEP`; the step is None for a workdir.

    Raises:
        UsageError: there is no such checkpoint, or no checkpoints at all.
    """
    folder, step = as_epath(path), None
    if folder.name.isdigit() and folder.parent.name == FOLDER:
        folder, step = folder.parent.parent, int(folder.name)
    checkpoint_folder = (
        folder / FOLDER / str(step) if step is not None else folder / FOLDER
    )
    if not checkpoint_folder.is_dir():
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
    """(step, state) of a checkpoint, read-only: its run may still be training.

    Args:
        path: a workdir (its newest good checkpoint), or `WORKDIR/checkpoints/STEP`.
        abstract, accept: as `Manager.restore`.
        step: of a workdir, this checkpoint.

    Raises:
        UsageError: as `Manager.restore`, or there is no such checkpoint.
        InputError: it is damaged, or all are.
    """
    folder, step_in_path = find(path)
    step = step_in_path if step is None else step
    with ocp.training.Checkpointer(folder / FOLDER) as orbax:
        steps = sorted((c.step for c in orbax.checkpoints), reverse=True)
        if step is not None and step not in steps:
            raise UsageError(
                f"there is no checkpoint {step} in {folder}, there are "
                f"{', '.join(map(str, sorted(steps))) or 'none'}. Give one of them."
            )
        damaged = {}
        # The newest first; a damaged one is passed over, as its run would do.
        for candidate in steps if step is None else [step]:
            try:
                return candidate, _read_state(orbax, candidate, abstract, accept)
            except _Damaged as error:
                damaged[candidate] = str(error)
    reasons = "; ".join(
        f"{candidate}: {reason}" for candidate, reason in damaged.items()
    )
    raise InputError(
        f"{folder} has no good checkpoint ({reasons or 'it has none yet'}). Give "
        "another workdir or step."
    )


def config_of(path: Path | str, step: int | None = None) -> tuple[int, dict[str, Any]]:
    """(step, settings of the run) of a checkpoint, from its manifest alone.

    Args:
        path, step: as `load`; without a step the newest whose manifest can be read.

    Raises:
        UsageError, InputError: as `load`.
    """
    folder, step_in_path = find(path)
    step = step_in_path if step is None else step
    with ocp.training.Checkpointer(folder / FOLDER) as orbax:
        steps = sorted((c.step for c in orbax.checkpoints), reverse=True)
        for candidate in steps if step is None else [s for s in steps if s == step]:
            try:
                return candidate, dict(
                    _read_manifest(orbax, candidate)["meta"]["config"]
                )
            except _Damaged:
                continue
    raise InputError(
        f"{folder} has no good checkpoint {'' if step is None else step}, it has "
        f"{', '.join(map(str, sorted(steps))) or 'none'}. Give another workdir or step."
    )


def describe(workdir: Path | str, *, verify: bool = True) -> dict[str, Any]:
    """What the newest good checkpoint of a training run holds, for `gendr inspect`.

    Args:
        workdir: the folder of `gendr train --workdir`.
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
                manifest_json = _read_manifest(orbax, step)
                if verify:
                    abstract = manifest.abstract_arrays(manifest_json["arrays"])
                    _read_arrays(orbax, step, abstract, manifest_json)
                return {**manifest.summary(manifest_json), "damaged": damaged}
            except _Damaged as error:
                damaged[step] = str(error)
    reasons = "; ".join(f"{step}: {reason}" for step, reason in damaged.items())
    raise InputError(
        f"{folder} has no good checkpoint ({reasons or 'it is empty'}). "
        "Train with this --workdir first."
    )


def _read_manifest(orbax: Any, step: int) -> dict[str, Any]:
    """The manifest of a step, checked against its own fingerprint."""
    try:
        manifest_json = dict(orbax.metadata(step).custom_metadata)
        intact = manifest_json["fingerprint"] == manifest.fingerprint_of(
            manifest_json["arrays"], manifest_json["clock"]
        )
    except Exception as error:  # Orbax raises many kinds for many kinds of damage
        raise _Damaged(f"its manifest cannot be read ({_reason(error)})") from error
    if not intact or manifest_json["step"] != step:
        raise _Damaged("its manifest was changed")
    return manifest_json


def _read_state(
    orbax: Any, step: int, abstract: Any, accept: Callable[[Meta], None]
) -> Any:
    """The state of a step with the structure, dtypes and shardings of `abstract`."""
    manifest_json = _read_manifest(orbax, step)
    accept(manifest_json["meta"])
    manifest.check_like(manifest_json["arrays"], abstract, step)
    by_path = _read_arrays(orbax, step, _by_path(abstract), manifest_json)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(abstract)
    return treedef.unflatten([by_path[path_name(path)] for path, _ in leaves])


def _read_arrays(
    orbax: Any, step: int, abstract: dict[str, Any], manifest_json: Meta
) -> dict[str, Any]:
    """{path: array} with the shardings of `abstract`, every digest compared."""
    failure = None
    try:
        loaded = orbax.load_checkpointables(step, {_STATE: _nest(abstract)})
    except Exception as error:  # as above
        failure = error
    # Each process reads its own files, and all must agree whether the step is damaged:
    # otherwise some would go on to an older one and the rest wait for them for ever.
    if anyone(failure is not None):
        reason = _reason(failure) if failure else "by another process"
        raise _Damaged(f"its arrays cannot be read ({reason})") from failure
    arrays = _by_path(loaded[_STATE])
    differing = manifest.wrong(manifest_json["arrays"], arrays)
    if differing:
        raise _Damaged(
            f"arrays differ from what was saved: {manifest.first_few(differing)}"
        )
    return arrays


def _by_path(tree: Any) -> dict[str, Any]:
    """{path: array} of any pytree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}


def _nest(by_path: Mapping[str, Any]) -> dict[str, Any]:
    """{path: array} as nested dicts with string keys, the form on disk."""
    nested: dict[str, Any] = {}
    for name, leaf in by_path.items():
        *parents, leaf_name = name.split("/")
        branch = nested
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf_name] = leaf
    return nested


def _reason(error: BaseException) -> str:
    """The innermost cause in one short line: Orbax wraps it in other exceptions."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"
