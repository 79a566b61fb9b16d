"""Input pipeline: a source of photographs to batches of random crops, by grain.

All hosts compute one global order and each takes its rows of every batch, so sample k,
its crop and its flip are the same for any number of hosts and worker processes, and the
integer `start` is all that a checkpoint has to save. No jax: worker processes import
this file.

    pictures -> shuffle (again each epoch) -> repeat -> mix -> crop, flip
             -> rows of this host -> batch
"""

import logging
import threading
from collections.abc import Generator
from typing import Any

import grain
import numpy as np
from absl import flags

from gendr_jax.data.open_source import Mixture
from gendr_jax.data.sources import Source, check_rejected
from gendr_jax.errors import InputError, UsageError

Batch = dict[str, np.ndarray]
Sample = dict[str, np.ndarray | np.uint32]
SMALL = ("skip", "pad", "error")
ENDLESS = 2**62  # samples; grain adds to lengths, which must stay below 2**63
_log = logging.getLogger(__name__)


def batches(
    source: Source,
    *,
    batch_size: int,
    crop: int,
    seed: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    small: str = "skip",
) -> Generator[Batch, None, None]:
    """Endless batches from the `start`-th global batch on.

    Process p holds rows p b .. (p + 1) b of every global batch, b = batch_size /
    process_count, so the processes' batches put together in order are the same array
    for every number of processes. Close the iterator (`.close()`) to end its threads
    and workers.

    Args:
      batch_size: samples in a global batch.
      crop: side of the square crops in pixels.
      seed: of the order, the crops and the flips.
      start: number of global batches to skip; they are not read.
      workers: number of decoding processes; 0 decodes in threads of this process.
      small: what to do with pictures smaller than the crop: "skip" them, "pad" them by
        reflection, or stop with an "error".

    Yields: {"hq": uint8 [b, crop, crop, 3], "index": uint32 [b]}, the index being the
      sample's position in the global order (start * batch_size, ...), modulo 2^32.

    Raises:
      UsageError: settings out of range, no picture large enough, or, while reading,
        more damaged files than `sources.check_rejected` allows.
    """
    _check(batch_size, crop, start, process_index, process_count, workers, small)
    reader = _Reader(source, _usable(source, crop, small), crop)
    pictures = _pictures(source, reader.bounds, seed % 2**32)
    order = pictures.map_with_index(_with_index).random_map(reader.crop)
    share = _Share(order, start, batch_size, process_index, process_count)
    samples = grain.MapDataset.source(share)
    # Batched before it becomes an iterator: worker processes then take turns by batch,
    # and the order does not depend on their number.
    host_batches = samples.batch(batch_size // process_count)
    dataset = host_batches.to_iter_dataset(
        grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
    )
    if workers:
        # grain's worker processes read absl flags, which only absl.app.run parses
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return _stream(dataset)


def _stream(dataset: grain.IterDataset) -> Generator[Batch, None, None]:
    """Batches as numpy arrays that own their memory; closes the iterator at the end.

    Worker processes send arrays in shared memory that is freed with them, hence the
    copy. Threads and processes that go on running would keep a failed program alive.
    """
    iterator = iter(dataset)
    try:
        for batch in iterator:
            yield {name: np.array(value) for name, value in batch.items()}
    finally:
        iterator.close()


def _pictures(source: Source, bounds: np.ndarray, seed: int) -> grain.MapDataset:
    """Endless positions among the usable pictures, shuffled per mixture member."""
    if not isinstance(source, Mixture):
        return _shuffled(0, int(bounds[-1]), seed)
    seeds = np.random.SeedSequence(seed).generate_state(len(source.shares))
    orders = [
        _shuffled(int(first), int(end), int(member_seed))
        for first, end, member_seed in zip(bounds, bounds[1:], seeds, strict=False)
    ]
    return grain.MapDataset.source(_Mixed(orders, source.shares)).seed(seed)


def _shuffled(first: int, end: int, seed: int) -> grain.MapDataset:
    return grain.MapDataset.range(first, end).seed(seed).shuffle().repeat(None)


class _Mixed:
    """Orders of the members interleaved by exact shares, with random access."""

    def __init__(self, orders: list[grain.MapDataset], shares: tuple[int, ...]):
        self._orders, self._shares = orders, shares

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> int:
        member, i = take_turns(index, self._shares)
        picture = self._orders[member][i]
        assert picture is not None  # None is a sample that was filtered out
        return picture

    def __repr__(self) -> str:
        return f"Mixed(shares {self._shares})"


def take_turns(k: int, shares: tuple[int, ...]) -> tuple[int, int]:
    """(member, index in its order) of sample k of a mixture, spread evenly.

    Of the first k samples, k (total - share) // total are not of member 0; these are
    divided among the other members in the same way.
    """
    total = sum(shares)
    for member, share in enumerate(shares):
        others_before, others_next = (n * (total - share) // total for n in (k, k + 1))
        if others_before == others_next:
            return member, k - others_before
        k, total = others_before, total - share
    raise AssertionError("the last member takes all remaining samples")


class _Share:
    """One process' rows of every global batch, with random access."""

    def __init__(self, order: Any, start: int, batch: int, index: int, count: int):
        self._order, self._start, self._batch = order, start, batch
        self._rows = batch // count
        self._first = index * self._rows

    def __len__(self) -> int:
        return ENDLESS // self._batch * self._rows - self._start * self._rows

    def __getitem__(self, index: int) -> Sample:
        k, row = divmod(index, self._rows)
        return self._order[(self._start + k) * self._batch + self._first + row]

    def __repr__(self) -> str:
        return f"Share(rows {self._first}..{self._first + self._rows} of {self._batch})"


class _Reader:
    """Random crops of the usable pictures; damaged files are replaced by the next one.

    The replacement depends on the files alone, not on when or by whom the damage was
    noticed, so every host and worker process picks the same one. In a mixture it is a
    picture of the same member.
    """

    def __init__(self, source: Source, usable: np.ndarray, side: int):
        self._source, self._usable, self._side = source, usable, side
        ends = source.bounds if isinstance(source, Mixture) else [0, len(source)]
        self.bounds = np.searchsorted(usable, ends)
        self._rejected: dict[int, str] = {}
        self._lock = threading.Lock()

    def crop(self, sample: dict[str, int], rng: np.random.Generator) -> Sample:
        pixels_hwc = self._read(sample["picture"])
        side = self._side
        missing = [max(0, side - n) for n in pixels_hwc.shape[:2]]
        if any(missing):
            pads = [(n // 2, n - n // 2) for n in missing]
            pixels_hwc = np.pad(pixels_hwc, (*pads, (0, 0)), mode="reflect")
        height, width = pixels_hwc.shape[:2]
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        crop_hwc = pixels_hwc[top : top + side, left : left + side]
        if rng.integers(2):
            crop_hwc = crop_hwc[:, ::-1]
        return {
            "hq": np.ascontiguousarray(crop_hwc),
            "index": np.uint32(sample["index"]),
        }

    def _read(self, position: int) -> np.ndarray:
        member = int(np.searchsorted(self.bounds, position, side="right"))
        first, end = int(self.bounds[member - 1]), int(self.bounds[member])
        for k in range(end - first):
            candidate = first + (position - first + k) % (end - first)
            if candidate in self._rejected:
                continue
            try:
                return self._source[int(self._usable[candidate])]
            except InputError as error:
                self._reject(candidate, str(error), range(first, end))
        raise AssertionError("check_rejected stops before every picture is rejected")

    def _reject(self, position: int, reason: str, member: range) -> None:
        with self._lock:
            if position not in self._rejected:
                self._rejected[position] = reason
                _log.warning("skipped %s (%d so far)", reason, len(self._rejected))
            rejected = {str(k): why for k, why in self._rejected.items() if k in member}
            check_rejected(rejected, len(member))

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _with_index(index: int, picture: int) -> dict[str, int]:
    return {"picture": picture, "index": index % 2**32}


def _usable(source: Source, crop: int, small: str) -> np.ndarray:
    """Indices of the pictures that are large enough to crop."""
    # padding by reflection needs a second pixel
    min_side = 2 if small == "pad" else crop
    fits = np.asarray(source.sides_n) >= min_side
    if small == "error" and not fits.all():
        i = int(np.argmin(fits))
        raise UsageError(
            f"{source.names[i]} has a side of {source.sides_n[i]} pixels, the crop "
            f"needs {crop}. Remove it, or choose small='skip' or 'pad'."
        )
    for member in source.members if isinstance(source, Mixture) else [source]:
        largest = max(member.sides_n, default=0)
        if largest < min_side:
            raise UsageError(
                f"none of {len(member)} pictures has sides of {min_side} pixels or "
                f"more (the largest has {largest}). Lower the crop."
            )
    if not fits.all():
        left_out = int((~fits).sum())
        _log.warning("left out %d pictures smaller than %d pixels", left_out, min_side)
    return np.flatnonzero(fits)


def _check(
    batch_size: int,
    crop: int,
    start: int,
    process_index: int,
    process_count: int,
    workers: int,
    small: str,
) -> None:
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise UsageError(
            f"a batch of {batch_size} cannot be shared by {process_count} processes. "
            "Use a multiple of their number."
        )
    if not 0 <= process_index < process_count:
        raise UsageError(
            f"process_index is {process_index}, not in 0..{process_count - 1}. Count "
            "from 0."
        )
    if crop < 1 or start < 0 or workers < 0:
        raise UsageError(
            f"crop {crop} must be positive, start {start} and workers {workers} not "
            "negative. Correct them."
        )
    if small not in SMALL:
        raise UsageError(
            f"small is {small!r}, not one of {', '.join(SMALL)}. Change it."
        )
