"""Batches prefetched to the devices by a thread, with the waiting time measured."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gendr_jax.errors import UsageError
from gendr_jax.sharding import batch_sharding, data_share, row_shards
from gendr_jax.train.stage import Batch

# start -> iterator of {name: array [batch of this process, ...]}, endless
Batches = Callable[[int], Iterator[Mapping[str, np.ndarray]]]
AHEAD = 2
CLOSE_SECONDS = 30.0
_log = logging.getLogger(__name__)


class Feed:
    """The batches from `start` on, as arrays spread over the mesh. Close it when done.

    A thread reads and copies them to the devices while the step runs; no more than
    `ahead` batches wait there. Their order is that of the iterator. `waited` is the
    time in seconds spent in waiting for the data.
    """

    def __init__(self, batches: Batches, start: int, mesh: Mesh, *, ahead: int = AHEAD):
        self._batches = iter(batches(start))
        self._sharding = batch_sharding(mesh)
        self._ready: queue.SimpleQueue[Batch | Exception] = queue.SimpleQueue()
        self._room = threading.Semaphore(ahead)
        self._closed = threading.Event()
        self._failure: Exception | None = None
        self.waited = 0.0
        self._thread = threading.Thread(target=self._work, name="feed", daemon=True)
        self._thread.start()

    def next(self) -> Batch:
        """The next batch.

        Raises:
            UsageError: the data ended, or a batch does not divide over the devices.
            Exception: whatever reading raised, after the batches that came before.
        """
        if self._failure is not None:
            raise self._failure
        begun = time.perf_counter()
        batch = self._ready.get()
        self.waited += time.perf_counter() - begun
        if isinstance(batch, Exception):
            self._failure = batch
            raise batch
        self._room.release()
        return batch

    def close(self) -> None:
        """Stop prefetching and the data workers; waits for a read in progress."""
        self._closed.set()
        self._room.release()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            _log.warning("a read of the data has hung for %.0f s", CLOSE_SECONDS)

    def _work(self) -> None:
        try:
            while True:
                # Before reading: at most `ahead` batches are in device memory.
                self._room.acquire()
                if self._closed.is_set():
                    break
                self._ready.put(spread(next(self._batches), self._sharding))
        except StopIteration:
            message = "the data ended before the last step. Give an endless source."
            self._ready.put(UsageError(message))
        except Exception as error:  # the step's thread raises it
            self._ready.put(error)
        finally:
            # here, because a generator cannot be closed while another thread is in it
            close = getattr(self._batches, "close", None)
            if close is not None:
                close()


def first_rows(batches: Batches, mesh: Mesh, rows: int) -> Batch:
    """At least `rows` samples of the very first batch: the same ones in every run.

    As many as divide over the devices; fewer when the batch is smaller.
    """
    iterator = iter(batches(0))
    try:
        batch = next(iterator)
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
    # Each process has 1 of `shares` of the rows; they must fill its devices evenly.
    _, shares = data_share(mesh)
    devices = max(row_shards(mesh) // shares, 1)
    wanted = -(-rows // shares)
    number = min(-(-wanted // devices) * devices, len(next(iter(batch.values()))))
    return spread({k: v[:number] for k, v in batch.items()}, batch_sharding(mesh))


def spread(batch: Mapping[str, np.ndarray], sharding: Any) -> Batch:
    """The rows of this process as shards of global arrays."""
    _, shares = data_share(sharding.mesh)
    total = {k: len(v) * shares for k, v in batch.items()}
    devices = row_shards(sharding.mesh)
    for name, rows in total.items():
        if rows % devices:
            raise UsageError(
                f"a batch of {rows} ({name}) does not divide over {devices} devices. "
                f"Give a batch_size that is a multiple of {devices}."
            )
    return {
        name: jax.make_array_from_process_local_data(
            sharding, np.asarray(rows), (total[name], *rows.shape[1:])
        )
        for name, rows in batch.items()
    }
