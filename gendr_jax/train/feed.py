"""Batches on their way to the devices: waiting is measured, iterators are closed.

What lives here: host batches to global arrays. What does not: the pictures
(`data/pipeline.py`), the step.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gendr_jax.errors import UsageError
from gendr_jax.sharding import batch_sharding
from gendr_jax.train.stage import Batch

# start -> iterator of {name: array [batch of this process, ...]}, endless
Batches = Callable[[int], Iterator[Mapping[str, np.ndarray]]]


class Feed:
    """The batches from `start` on, as arrays spread over the mesh. Close it when done.

    `waited` is the time in seconds spent in waiting for the data.
    """

    def __init__(self, batches: Batches, start: int, mesh: Mesh):
        self._batches = iter(batches(start))
        self._sharding = batch_sharding(mesh)
        self.waited = 0.0

    def next(self) -> Batch:
        """The next batch.

        Raises:
            UsageError: the data ended, or a batch does not divide over the devices.
        """
        begun = time.perf_counter()
        try:
            batch = next(self._batches)
        except StopIteration:
            raise UsageError(
                "the data ended before the last step. Give an endless source."
            ) from None
        self.waited += time.perf_counter() - begun
        return spread(batch, self._sharding)

    def close(self) -> None:
        """Stop the workers that read ahead."""
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
        if hasattr(iterator, "close"):
            iterator.close()
    devices = max(mesh.size // jax.process_count(), 1)
    wanted = -(-rows // jax.process_count())
    number = min(-(-wanted // devices) * devices, len(next(iter(batch.values()))))
    return spread({k: v[:number] for k, v in batch.items()}, batch_sharding(mesh))


def spread(batch: Mapping[str, np.ndarray], sharding: Any) -> Batch:
    """The rows of this process as parts of global arrays."""
    total = {k: len(v) * jax.process_count() for k, v in batch.items()}
    devices = sharding.mesh.size
    for name, rows in total.items():
        if rows % devices:
            raise UsageError(
                f"a batch of {rows} ({name}) does not divide over {devices} devices. "
                f"Give a batch_size that is a multiple of {devices}."
            )
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(rows))
        for name, rows in batch.items()
    }
