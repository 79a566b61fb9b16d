"""What sources of records share: files opened within the limit, names, one look.

A process may open so many files at once (`ulimit -n`) and a dataset may have more, so
readers of ArrayRecord files are kept in one pool, from which the one that was not used
for longest is closed. No jax: worker processes import this file.
"""

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, overload

import numpy as np
from array_record.python import array_record_module  # ty: ignore[missing-module-member]  compiled, no stub

from gendr_jax.data import patience
from gendr_jax.errors import GendrError, InputError, UsageError

THREADS = 16
MOST_OPEN = 1024  # readers; each has buffers, too
READER = "readahead_buffer_size:0"
READER_BYTES = 32768
_log = logging.getLogger(__name__)


class Names(Sequence[str]):
    """The names of records, each made when asked for: millions need no memory."""

    def __init__(self, count: int, name: Callable[[int], str]):
        self._count, self._name = count, name

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, i: int) -> str: ...

    @overload
    def __getitem__(self, i: slice) -> list[str]: ...

    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self._name(k) for k in range(*i.indices(self._count))]
        if not -self._count <= i < self._count:
            raise IndexError(i)
        return self._name(i % self._count)


class Pool:
    """Readers of ArrayRecord files, at most `most_idle` of them open and idle.

    A reader that a thread is using is never closed, however full the pool is.
    """

    def __init__(self, most_idle: int):
        self._most_idle = most_idle
        self._idle: OrderedDict[str, list[Any]] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    @contextlib.contextmanager
    def reader(self, path: str) -> Iterator[Any]:
        """One for this thread alone; of a block that fails it is closed."""
        with self._lock:
            kept = self._idle.get(path)
            found = kept.pop() if kept else None
            if found is not None:
                self._count -= 1
            if kept == []:
                del self._idle[path]
        found = found or _opened(path)
        try:
            yield found
        except BaseException:
            with contextlib.suppress(Exception):
                found.close()
            raise
        self._keep(path, found)

    def _keep(self, path: str, found: Any) -> None:
        surplus = []
        with self._lock:
            self._idle.setdefault(path, []).append(found)
            self._idle.move_to_end(path)
            self._count += 1
            while self._count > self._most_idle:
                oldest = next(iter(self._idle))
                surplus.append(self._idle[oldest].pop(0))
                self._count -= 1
                if not self._idle[oldest]:
                    del self._idle[oldest]
        for one in surplus:
            one.close()


def _opened(path: str) -> Any:
    reader = array_record_module.ArrayRecordReader(
        path, options=READER, file_reader_buffer_size=READER_BYTES
    )
    if not reader.ok():  # of a file that is not there, it would say: no records
        raise RuntimeError("it is truncated, empty or another kind of file")
    return reader


def reader_limit() -> int:
    """How many readers may stay open: half of what the system leaves this process."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (ImportError, OSError):  # a system without such limits
        return MOST_OPEN
    if limit == resource.RLIM_INFINITY:
        return MOST_OPEN
    return max(1, min(MOST_OPEN, limit // 2 - THREADS))


_pool = Pool(reader_limit())


def count_records(path: str | Path) -> int:
    """How many records an ArrayRecord file has.

    Raises:
      UsageError: it is truncated or not an ArrayRecord file.
      TryAgainError: it cannot be read just now (patience.py).
    """

    def damaged(error: Exception) -> GendrError:
        return UsageError(
            f"{path} cannot be opened as an ArrayRecord file "
            f"({one_line(error) or 'it is truncated'}). Copy or write it again."
        )

    return _judged(path, lambda reader: reader.num_records(), damaged)


def read_record(path: str | Path, i: int) -> bytes:
    """Record `i` of an ArrayRecord file.

    Raises:
      InputError: the record is damaged; its checksum is ArrayRecord's own.
      TryAgainError, UsageError: the file cannot be read just now (patience.py).
    """

    def damaged(error: Exception) -> GendrError:
        return InputError(
            f"{path}: record {i}: {one_line(error) or 'it cannot be read'}"
        )

    return _judged(path, lambda reader: reader.read([i])[0], damaged)


def _judged(
    path: str | Path,
    work: Callable[[Any], Any],
    damaged: Callable[[Exception], GendrError],
) -> Any:
    """What `work` makes of a reader; `damaged` where decoding fails a second time.

    Errors of array_record are RuntimeError or ValueError, whether a checksum is wrong
    or the disk is away, and some have no message. So the file is read through without
    it: what the system cannot give is no damage.
    """
    try:
        with _pool.reader(str(path)) as reader:
            return work(reader)
    except MemoryError:
        raise
    except Exception:
        patience.require_readable(path)
    try:
        with _pool.reader(str(path)) as reader:
            return work(reader)
    except MemoryError:
        raise
    except Exception as error:
        raise damaged(error) from error


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
