"""Files that cannot be read just now: tried again, then an error that is no damage.

A store that is away, a disk that fails or a limit of the system says nothing about a
picture. Such errors have an `errno`; what decoders raise of damaged files has none.
No jax: worker processes import this file.
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


def patiently(read: Callable[[], T], name: str) -> T:
    """What `read` returns, of which errors of the system are tried again.

    Raises:
        TryAgainError, UsageError: it cannot be read (`unavailable`).
        OSError: without an errno, as decoders raise it.
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
    """Read a file through, to know whether the system gives it; its bytes are not kept.

    For libraries whose errors do not tell a damaged file from one that is away. URLs
    are left to the library.

    Raises:
        TryAgainError, UsageError: it cannot be read (`unavailable`).
    """
    if "://" in str(path):
        return

    def read() -> None:
        with open(path, "rb", buffering=0) as file:
            while file.read(CHUNK):
                pass

    patiently(read, str(path))


def unavailable(name: str, error: OSError) -> GendrError:
    """The error to stop with: whatever is the cause, it is not the picture."""
    why = error.strerror or type(error).__name__
    if error.errno in DENIED:
        return UsageError(f"{name} cannot be read ({why}). Check its permissions.")
    if error.errno in LIMITS:
        return TryAgainError(
            f"{name} cannot be opened ({why}). Raise the limit with ulimit -n, then "
            "start again."
        )
    return TryAgainError(
        f"{name} cannot be read ({why}) in {len(WAITS) + 1} tries. See that the "
        "folder and its disk are there, then start again."
    )
