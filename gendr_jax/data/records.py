"""What sources of records share: names read when asked for, one look at every record.

No jax: worker processes import this file.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grain
import numpy as np

from gendr_jax.errors import InputError, UsageError

THREADS = 16
_log = logging.getLogger(__name__)


class Names(Sequence):
    """The names of records, each made when asked for: millions need no memory."""

    def __init__(self, count: int, name: Callable[[int], str]):
        self._count, self._name = count, name

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> str:
        if not -self._count <= i < self._count:
            raise IndexError(i)
        return self._name(i % self._count)


def open_file(path: str | Path) -> Any:
    """One ArrayRecord file as a random-access sequence of bytes.

    Raises:
      UsageError: it is missing, truncated or not an ArrayRecord file.
    """
    try:
        return grain.sources.ArrayRecordDataSource([str(path)])
    # array_record raises RuntimeError, with an empty message for a truncated file
    except Exception as error:
        raise UsageError(
            f"{path} cannot be opened as an ArrayRecord file "
            f"({one_line(error) or 'it is truncated'}). Copy or write it again."
        ) from error


def read_record(file: Any, i: int, path: str | Path) -> bytes:
    """Record `i` of a file from `open_file`.

    Raises:
      InputError: the record is damaged; its checksum is ArrayRecord's own.
    """
    try:
        return file[i]
    except Exception as error:
        raise InputError(
            f"{path}: record {i}: {one_line(error) or 'it cannot be read'}"
        ) from error


def look_at_all(
    count: int, look: Callable[[int], tuple[str, int]], what: str
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """(indices of good records, their shorter sides, {name: reason} of the others).

    Args:
      look: index -> (name, shorter side), or an InputError.
      what: of which the log speaks; all of its bytes are read once.
    """

    def one(i: int) -> tuple[str, int, str]:
        try:
            return *look(i), ""
        except InputError as error:
            return f"record {i}", 0, str(error)

    begun = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(one, range(count)))
    _log.info("%s: looked at %d records, %.1f s", what, count, time.monotonic() - begun)
    good = np.asarray([i for i, f in enumerate(found) if not f[2]], np.int64)
    sides = np.asarray([f[1] for f in found if not f[2]], np.int64)
    return good, sides, {name: reason for name, _, reason in found if reason}


def one_line(error: Exception) -> str:
    """The first line that says something."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line), "")
