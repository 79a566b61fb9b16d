"""Retry reads that the operating system refuses, and tell them from damaged files.

A network disk that is away, an I/O error or a limit of open files says nothing about a
picture. Such errors have an `errno`; those that decoders raise about damaged files have
none. No jax: worker processes import this file.
"""

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gendr_jax.errors import GendrError, TryAgainError, UsageError

T = TypeVar("T")
WAITS = (0.2, 1.0)  # seconds before a second and a third try
CHUNK = 1 << 22
DENIED = (errno.EACCES, errno.EPERM)
LIMITS = (errno.EMFILE, errno.ENFILE)


def with_retries(read: Callable[[], T], name: str) -> T:
    """The result of `read`, which is called again after an error with an errno.

    Raises:
        TryAgainError, UsageError: it cannot be read (`unavailable`).
        OSError: without an errno, as decoders raise it: not tried again.
    """
    for wait in WAITS:
        try:
            return read()
        except OSError as error:
            if error.errno is None:
                raise
            if error.errno in DENIED:
                raise unavailable(name, error) from error
        time.sleep(wait)
    try:
        return read()
    except OSError as error:
        if error.errno is None:
            raise
        raise unavailable(name, error) from error


def require_readable(path: str | Path) -> None:
    """Read all bytes of a file, to know whether the file system delivers them.

    For libraries whose errors do not distinguish a damaged file from an unreadable one.
    URLs are not checked.

    Raises:
        TryAgainError, UsageError: it cannot be read (`unavailable`).
    """
    if "://" in str(path):
        return

    def read() -> None:
        with open(path, "rb", buffering=0) as file:
            while file.read(CHUNK):
                pass

    with_retries(read, str(path))


def unavailable(name: str, error: OSError) -> GendrError:
    """The error for a file that the operating system does not deliver."""
    reason = error.strerror or type(error).__name__
    if error.errno in DENIED:
        return UsageError(f"{name} cannot be read ({reason}). Check its permissions.")
    if error.errno in LIMITS:
        return TryAgainError(
            f"{name} cannot be opened ({reason}). Raise the limit with ulimit -n, then "
            "start again."
        )
    return TryAgainError(
        f"{name} cannot be read after {len(WAITS) + 1} attempts ({reason}). Check that "
        "its folder and disk are available, then start again."
    )
