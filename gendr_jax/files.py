"""Atomic writes: files and folders that appear complete or not at all.

Everything is written to a temporary name in the folder of its target and renamed when
it is complete. A process that was killed leaves such a name behind; the next process
that writes to the same folder removes it.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PREFIX = ".gendr-"
OTHER_HOST_SECONDS = 24 * 3600.0  # no single file is written for so long

_NAME = re.compile(
    re.escape(PREFIX) + r"(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)-\d+\."
)
_counter = itertools.count()
_lock = threading.Lock()
_cleared: set[Path] = set()


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary path that is renamed to `path` when the block ends without an error.

    The temporary name ends in the suffix of `path`, for writers that choose the format
    by it. An older file at `path` stays until the new one is complete; a symbolic link
    at `path` stays a link, its target is replaced.

    Args:
        durable: the file's bytes reach the disk before the name does (fsync).

    Raises:
        OSError: as writing raises it; nothing is left behind.
    """
    path = _target(Path(path))
    temporary = temporary_name(path)
    try:
        yield temporary
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable:
            _sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the name `path` when the block ends without error.

    An older folder at `path` is removed after the exchange, and put back if the
    exchange fails. Whether it may be replaced is the caller's decision.
    """
    path = _target(Path(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = temporary_name(path), temporary_name(path)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.replace(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """`text` as UTF-8 to `path`, complete or not at all."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes, *, durable: bool = False) -> None:
    """`data` to `path`, complete or not at all."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """`value` as indented JSON to `path`, complete or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_text(path, text, durable=durable)


def temporary_name(path: Path) -> Path:
    """A name in the folder of `path`, with its suffix, that nobody else uses.

    The first call for a folder removes what killed processes left there.
    """
    with _lock:
        number, is_first_use = next(_counter), path.parent not in _cleared
        _cleared.add(path.parent)
    if is_first_use:
        clear_stale(path.parent)
    start = process_start(os.getpid()) or 0
    # Without the target's own name, which may be as long as the file system allows.
    owner = f"{PREFIX}{this_host()}-{os.getpid()}-{start}-{number}"
    return path.with_name(f"{owner}.tmp{path.suffix}")


def is_temporary(path: Path) -> bool:
    """Whether `path` is a name that `temporary_name` makes; folder walks skip these."""
    return _NAME.match(path.name) is not None


def clear_stale(folder: Path) -> None:
    """Remove the temporary files and folders in `folder` whose process is dead."""
    try:
        names = [n for n in os.listdir(folder) if n.startswith(PREFIX)]
    except OSError:
        return
    for name in names:
        match = _NAME.match(name)
        if match and _is_stale(folder / name, match):
            with contextlib.suppress(OSError):
                if (folder / name).is_dir() and not (folder / name).is_symlink():
                    shutil.rmtree(folder / name, ignore_errors=True)
                else:
                    (folder / name).unlink()


def _is_stale(path: Path, match: re.Match[str]) -> bool:
    if match["host"] != this_host():
        # Processes of other hosts cannot be checked: on shared folders age decides.
        with contextlib.suppress(OSError):
            return time.time() - path.lstat().st_mtime > OTHER_HOST_SECONDS
        return False
    pid = int(match["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # alive, of another user
    # A new process may have the id of a dead one.
    start = process_start(pid)
    return start is not None and str(start) != match["start"]


def _target(path: Path) -> Path:
    """Where a write to `path` goes: the end of a chain of symbolic links."""
    return path.resolve() if path.is_symlink() else path.absolute()


@functools.cache
def this_host() -> str:
    """Eight hexadecimal digits that stand for this machine since its last boot.

    Containers with process ids of their own count as machines of their own.
    """
    name, boot = socket.gethostname(), Path("/proc/sys/kernel/random/boot_id")
    with contextlib.suppress(OSError):
        name += boot.read_text() + os.readlink("/proc/self/ns/pid")
    return _digest(name)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def process_start(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None without /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the command in parentheses and may hold anything.
    return int(stat.rpartition(")")[2].split()[19])


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
