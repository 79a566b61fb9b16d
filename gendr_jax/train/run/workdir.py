"""The workdir of a run: a local folder, or an object store with a local staging folder.

Checkpoints go to the object store directly, each process its own shards. All else is
small: it is written to a temporary folder, and `push` copies changed files. Objects
are created atomically, so nobody reads an incomplete file.
"""

import shutil
import tempfile
import time
import warnings
from pathlib import Path

import jax

from gendr_jax import files
from gendr_jax.checkpoints import manager
from gendr_jax.errors import GendrError, UsageError
from gendr_jax.weights.remote_paths import as_epath, is_remote

# Files that a later start reads; all others are only written.
_READ_BACK = ("run.json", "metrics.jsonl")
_LAST = ("gendr.json", "run.json")  # pushed last: they mark the others as complete
_PUSH_SECONDS = 30.0


def check(path: Path | str) -> None:
    """Refuse an unusable workdir early.

    Raises:
        UsageError: it is a file, or the object store cannot be used.
    """
    if as_epath(path).is_file():
        raise UsageError(f"--workdir {path} is a file. Give a folder.")


class Workdir:
    """A workdir. Close it when done.

    Attributes:
        local: the folder to write to.
        checkpoints: for `manager.Manager`.

    Raises:
        UsageError: as `check`.
    """

    def __init__(self, path: Path | str):
        check(path)
        self._remote = as_epath(path) if is_remote(path) else None
        self._url, self._abandoned = str(path), False
        self._sent: dict[Path, tuple[int, int]] = {}
        self._pushed = time.monotonic()
        if self._remote is None:
            self.local = Path(path)
            self.local.mkdir(parents=True, exist_ok=True)
            self.checkpoints = self.local / manager.FOLDER
            return
        self.local = Path(tempfile.mkdtemp(prefix="gendr_workdir_"))
        self.checkpoints = self._remote / manager.FOLDER
        if jax.process_index() == 0:
            for name in _READ_BACK:
                if (self._remote / name).exists():
                    content = (self._remote / name).read_bytes()
                    (self.local / name).write_bytes(content)

    def exists(self, name: str) -> bool:
        """Whether a file or folder has been written, now or by an earlier start."""
        return (self._remote or self.local).joinpath(name).exists()

    def refresh(self) -> None:
        """`push` at most every few seconds; a failure is a warning and is retried."""
        if time.monotonic() - self._pushed > _PUSH_SECONDS:
            self._pushed = time.monotonic()
            try:
                self.push()
            except GendrError as error:
                warnings.warn(str(error), stacklevel=2)

    def push(self) -> None:
        """Copy files that changed since the last time to the object store.

        Raises:
            GendrError: the object store refuses it.
        """
        if self._remote is None or self._abandoned:
            return
        try:
            self._push()
        except Exception as error:  # each client library raises kinds of its own
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise GendrError(
                f"{self._url} cannot be written ({reason}). Check the rights and the "
                "network, then start the same command again."
            ) from error

    def abandon(self) -> None:
        """Push no more: another start has taken the workdir over."""
        self._abandoned = True

    def _push(self) -> None:
        assert self._remote is not None
        files_to_push = [path for path in self.local.rglob("*") if path.is_file()]
        for path in sorted(files_to_push, key=lambda p: (p.name in _LAST, p)):
            name = path.relative_to(self.local)
            if any(files.is_temporary(p) for p in (name, *name.parents)):
                continue  # a file, or a folder of files, that is being written
            stat = path.stat()
            signature = (stat.st_mtime_ns, stat.st_size)
            if self._sent.get(name) == signature:
                continue
            target = self._remote / name.as_posix()
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "rb") as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            self._sent[name] = signature
        self._pushed = time.monotonic()

    def clear(self, name: str) -> None:
        """Remove what an earlier start left under `name` in the object store."""
        if self._remote is not None and (self._remote / name).exists():
            (self._remote / name).rmtree()

    def close(self) -> None:
        """Push the rest, then remove the staging folder."""
        if self._remote is not None:
            try:
                self.push()
            finally:
                shutil.rmtree(self.local, ignore_errors=True)
