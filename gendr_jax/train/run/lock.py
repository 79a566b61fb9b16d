"""The lock file of a workdir, which its owner touches regularly from a thread.

An owner on this machine is alive if its process is. An owner on another machine is
alive if the file changes within a minute: the clocks of two machines are not compared.
"""

import contextlib
import datetime
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from gendr_jax import files
from gendr_jax.checkpoints.barrier import anyone
from gendr_jax.errors import GendrError, TryAgainError
from gendr_jax.weights.remote_paths import as_epath, is_remote

NAME = "lock.json"
BEAT_SECONDS = 10.0
SILENT_SECONDS = 60.0  # after so long without a beat an owner elsewhere is dead
_SETTLE_SECONDS = 2.0  # two starts that take over at once: the last writer wins


class LockLost(GendrError):
    """Another start has taken the workdir over; this one must not write to it."""


class Lock:
    """The lock of `workdir`, held while the `with` block runs; the first process's.

    Args:
        workdir: a folder, made if absent, or the URL of an object store.
        take_over: take the lock from a run that holds it.
        log: called with a line when a start has to wait.

    Raises (on entry, on all processes):
        TryAgainError: another run is training there.
    """

    def __init__(
        self,
        workdir: Path | str,
        *,
        take_over: bool = False,
        log: Callable[[str], None] = lambda line: None,
    ):
        self._workdir, self._remote = str(workdir), is_remote(workdir)
        self._path = as_epath(workdir) / NAME
        self._take_over, self._log = take_over, log
        self._id, self._lost, self._since = uuid.uuid4().hex, "", ""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._held = False

    def __enter__(self) -> "Lock":
        refused: TryAgainError | None = None
        if jax.process_index() == 0:
            try:
                self._acquire()
            except TryAgainError as error:
                refused = error
        if anyone(refused is not None):
            raise refused or TryAgainError(
                f"another run is training in {self._workdir}, says the first process."
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()
        if not self._held:
            return
        self._thread.join(BEAT_SECONDS)
        with contextlib.suppress(OSError):
            if not self._lost and _id(self._read()[0]) == self._id:
                self._path.unlink()

    def check(self) -> None:
        """Raise LockLost once another start has taken the workdir over."""
        if self._lost:
            raise LockLost(
                f"{self._lost} took {self._workdir} over with --take-over. This run "
                "wrote nothing since; start it again when that one has ended."
            )

    def _acquire(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while not self._create():
            owner, last_beat = self._read()
            if owner is None:
                continue  # released just now
            if self._take_over or self._gone(owner, last_beat):
                self._write()
                time.sleep(_SETTLE_SECONDS)  # did another start do the same?
                owner, _ = self._read()
                if owner is not None and _id(owner) == self._id:
                    break
            if owner is not None:
                raise self._refusal(owner)
        self._held = True
        self._thread.start()

    def _gone(self, owner: dict[str, Any], last_beat: Any) -> bool:
        """Whether the owner no longer runs."""
        if owner.get("machine") == files.this_host():
            if owner.get("folder") != self._folder():
                return True  # the file came here with a copy of its workdir
            started = files.process_start(owner["pid"])
            return started is None or started != owner["process_start"]
        self._log(
            f"{_name(owner)} was training in {self._workdir}: waiting up to "
            f"{SILENT_SECONDS:.0f} s for its heartbeat"
        )
        until = time.monotonic() + SILENT_SECONDS
        while time.monotonic() < until:
            time.sleep(min(1.0, SILENT_SECONDS / 10))
            owner_now, beat_now = self._read()
            if owner_now is None or beat_now != last_beat:
                return owner_now is None
        return True

    def _refusal(self, owner: dict[str, Any]) -> TryAgainError:
        return TryAgainError(
            f"another run is training in {self._workdir}: {_name(owner)}, since "
            f"{owner.get('since', 'an unknown time')}. Stop it first, or add "
            "--take-over, which ends it."
        )

    def _create(self) -> bool:
        """Make the file unless there is one."""
        if self._remote:
            if self._path.exists():
                return False
            self._write()
            time.sleep(_SETTLE_SECONDS)
            return _id(self._read()[0]) == self._id
        target = Path(self._path)
        temporary = files.temporary_name(target)
        try:
            temporary.write_text(self._text())
            os.link(temporary, target)
        except FileExistsError:
            return False
        except PermissionError:  # a file system without links
            if target.exists():
                return False
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _write(self) -> None:
        if self._remote:
            self._path.write_text(self._text())
        else:
            files.write_text(Path(self._path), self._text())

    def _text(self) -> str:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._since = self._since or now
        owner = {
            "id": self._id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "machine": files.this_host(),
            "process_start": files.process_start(os.getpid()),
            "folder": self._folder(),
            "since": self._since,
            "beat": now,
        }
        return json.dumps(owner, indent=1) + "\n"

    def _folder(self) -> str:
        """Identifies the workdir by inode, unlike a copy of it on the same machine."""
        if self._remote:
            return self._workdir
        stat = os.stat(Path(self._path).parent)
        return f"{stat.st_dev}:{stat.st_ino}"

    def _read(self) -> tuple[dict[str, Any] | None, Any]:
        """(owner, a value that changes with each beat); (None, None) without a file."""
        try:
            text = self._path.read_text()
            stat = None if self._remote else os.stat(self._path).st_mtime_ns
            return json.loads(text), (text, stat)
        except FileNotFoundError:
            return None, None
        except ValueError:  # an empty or foreign file
            return {}, None

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                owner, _ = self._read()
                if owner is not None and _id(owner) != self._id:
                    self._lost = _name(owner)
                    return
                if self._remote or owner is None:
                    self._write()
                else:
                    os.utime(self._path)  # works on a full disk too


def _id(owner: dict[str, Any] | None) -> str:
    return (owner or {}).get("id", "")


def _name(owner: dict[str, Any]) -> str:
    return f"process {owner.get('pid', '?')} on {owner.get('host', 'another machine')}"
