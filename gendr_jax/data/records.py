"""Read ArrayRecord files: a pool of open readers, record names, a scan of all records.

A dataset may have more files than a process may open (`ulimit -n`), so readers are kept
in one pool that closes the least recently used. No jax: worker processes import this
file.
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

from gendr_jax.data import retry
from gendr_jax.errors import GendrError, InputError, UsageError

THREADS = 16
MAX_OPEN = 1024  # readers; each has buffers, too
READER = "readahead_buffer_size:0"
READER_BYTES = 32768
_log = logging.getLogger(__name__)


class Names(Sequence[str]):
    """A lazy sequence of record names: millions of them need no memory."""

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
    """Open readers of ArrayRecord files, at most `max_idle` of them unused.

    A reader that a thread is using is never closed, however full the pool is.
    """

    def __init__(self, max_idle: int):
        self._max_idle = max_idle
        self._idle: OrderedDict[str, list[Any]] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    @contextlib.contextmanager
    def reader(self, path: str) -> Iterator[Any]:
        """A reader for this thread alone, closed if the block raises."""
        with self._lock:
            idle = self._idle.get(path)
            reader = idle.pop() if idle else None
            if reader is not None:
                self._count -= 1
            if idle == []:
                del self._idle[path]
        reader = reader or _opened(path)
        try:
            yield reader
        except BaseException:
            with contextlib.suppress(Exception):
                reader.close()
            raise
        self._keep(path, reader)

    def _keep(self, path: str, reader: Any) -> None:
        surplus = []
        with self._lock:
            self._idle.setdefault(path, []).append(reader)
            self._idle.move_to_end(path)
            self._count += 1
            while self._count > self._max_idle:
                oldest = next(iter(self._idle))
                surplus.append(self._idle[oldest].pop(0))
                self._count -= 1
                if not self._idle[oldest]:
                    del self._idle[oldest]
        for surplus_reader in surplus:
            surplus_reader.close()


def _opened(path: str) -> Any:
    reader = array_record_module.ArrayRecordReader(
        path, options=READER, file_reader_buffer_size=READER_BYTES
    )
    if not reader.ok():  # for a missing file it would report 0 records
        raise RuntimeError("it is truncated, empty or of another format")
    return reader


def reader_limit() -> int:
    """How many readers may stay open: half of the process' limit of open files."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (ImportError, OSError):  # Windows has no such limit
        return MAX_OPEN
    if limit == resource.RLIM_INFINITY:
        return MAX_OPEN
    return max(1, min(MAX_OPEN, limit // 2 - THREADS))


_pool = Pool(reader_limit())


def count_records(path: str | Path) -> int:
    """The number of records in an ArrayRecord file.

    Raises:
      UsageError: it is truncated or not an ArrayRecord file.
      TryAgainError: it cannot be read just now (retry.py).
    """

    def damaged(error: Exception) -> GendrError:
        return UsageError(
            f"{path} cannot be opened as an ArrayRecord file "
            f"({one_line(error) or 'it is truncated'}). Copy or write it again."
        )

    return _with_reader(path, lambda reader: reader.num_records(), damaged)


def read_record(path: str | Path, i: int) -> bytes:
    """Record `i` of an ArrayRecord file.

    Raises:
      InputError: the record is damaged; its checksum is ArrayRecord's own.
      TryAgainError, UsageError: the file cannot be read just now (retry.py).
    """

    def damaged(error: Exception) -> GendrError:
        return InputError(
            f"{path}: record {i}: {one_line(error) or 'it cannot be read'}"
        )

    return _with_reader(path, lambda reader: reader.read([i])[0], damaged)


def _with_reader(
    path: str | Path,
    work: Callable[[Any], Any],
    damaged: Callable[[Exception], GendrError],
) -> Any:
    """`work` of a reader of the file; the error `damaged` if it fails twice.

    array_record raises RuntimeError or ValueError both for a wrong checksum and for an
    unreachable disk, some without a message. So all bytes are read by plain I/O before
    the second attempt: if that fails, the file is unavailable, not damaged.
    """
    try:
        with _pool.reader(str(path)) as reader:
            return work(reader)
    except MemoryError:
        raise
    except Exception:
        retry.require_readable(path)
    try:
        with _pool.reader(str(path)) as reader:
            return work(reader)
    except MemoryError:
        raise
    except Exception as error:
        raise damaged(error) from error


def scan(
    count: int, inspect: Callable[[int], tuple[str, int]], label: str
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """(indices of good records, their shorter sides, {name: reason} of the others).

    Args:
      inspect: index -> (name, shorter side), or an InputError.
      label: names the dataset in the log.
    """

    def inspect_one(i: int) -> tuple[str, int, str]:
        try:
            return *inspect(i), ""
        except InputError as error:
            return f"record {i}", 0, str(error)

    start = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(inspect_one, range(count)))
    _log.info(
        "%s: scanned %d records in %.1f s", label, count, time.monotonic() - start
    )
    good = np.asarray(
        [i for i, result in enumerate(results) if not result[2]], np.int64
    )
    sides = np.asarray([result[1] for result in results if not result[2]], np.int64)
    return good, sides, {name: reason for name, _, reason in results if reason}


def one_line(error: Exception) -> str:
    """The first line of the message that is not empty."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line), "")
