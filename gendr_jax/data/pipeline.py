"""Source to batches of crops, in one global order that a single integer describes.

The order is made for the whole job first and shared out to hosts last, so sample k, its
crop and its flip are the same for any number of hosts and worker processes, and `start`
is all there is to save. No jax: worker processes import this file.

    pictures -> shuffle (anew each epoch) -> repeat -> mix -> crop, flip -> my share
             -> batch
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
      start: how many global batches were taken before; nothing is replayed.
      workers: processes that decode; 0 decodes in threads of this one.
      small: what to do with pictures smaller than the crop: "skip" them, "pad" them by
        reflection, or stop with an "error".

    Yields: {"hq": uint8 [b, crop, crop, 3], "index": uint32 [b]}, the index being the
      sample's place in the global order (start * batch_size, ...), modulo 2^32.

    Raises:
      UsageError: settings that do not fit, no picture large enough, or, while reading,
        more damaged files than `sources.check_rejected` allows.
    """
    _check(batch_size, crop, start, process_index, process_count, workers, small)
    reader = _Reader(source, _usable(source, crop, small), crop)
    pictures = _pictures(source, reader.bounds, seed % 2**32)
    order = pictures.map_with_index(_with_index).random_map(reader.crop)
    share = _Share(order, start, batch_size, process_index, process_count)
    samples = grain.MapDataset.source(share)
    # Batched before it becomes an iterator: worker processes then share out whole
    # batches, and the order does not depend on how many there are.
    whole = samples.batch(batch_size // process_count)
    ready = whole.to_iter_dataset(
        grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
    )
    if workers:
        # grain's worker processes read absl flags, which only absl.app.run parses
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        ready = ready.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return _stream(ready)


def _stream(ready: grain.IterDataset) -> Generator[Batch, None, None]:
    """Plain arrays, and an orderly end.

    What worker processes send lies in shared memory that goes away with them, hence
    the copy; threads and processes left running would keep a failed program alive.
    """
    iterator = iter(ready)
    try:
        for batch in iterator:
            yield {name: np.array(value) for name, value in batch.items()}
    finally:
        iterator.close()


def _pictures(source: Source, bounds: np.ndarray, seed: int) -> grain.MapDataset:
    """Positions among the usable pictures, endless; a part has an order of its own."""
    if not isinstance(source, Mixture):
        return _shuffled(0, int(bounds[-1]), seed)
    seeds = np.random.SeedSequence(seed).generate_state(len(source.shares))
    parts = [
        _shuffled(int(first), int(end), int(own))
        for first, end, own in zip(bounds, bounds[1:], seeds, strict=False)
    ]
    return grain.MapDataset.source(_Mixed(parts, source.shares)).seed(seed)


def _shuffled(first: int, end: int, seed: int) -> grain.MapDataset:
    return grain.MapDataset.range(first, end).seed(seed).shuffle().repeat(None)


class _Mixed:
    """Endless orders interleaved in exact shares, as a random-access sequence."""

    def __init__(self, parts: list[grain.MapDataset], shares: tuple[int, ...]):
        self._parts, self._shares = parts, shares

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> int:
        part, i = take_turns(index, self._shares)
        picture = self._parts[part][i]
        assert picture is not None  # None is a sample that was filtered out
        return picture

    def __repr__(self) -> str:
        return f"Mixed(shares {self._shares})"


def take_turns(k: int, shares: tuple[int, ...]) -> tuple[int, int]:
    """(part, index in it) of sample k when parts take turns as evenly as they can.

    Of the first k samples, those not of part 0 number k (total - share) // total; the
    rest of the parts share these in the same way.
    """
    total = sum(shares)
    for part, share in enumerate(shares):
        left, left_next = (n * (total - share) // total for n in (k, k + 1))
        if left == left_next:
            return part, k - left
        k, total = left, total - share
    raise AssertionError("the last part takes all that is left")


class _Share:
    """One process' rows of every global batch, as a random-access sequence."""

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
    """Crops of the usable pictures; a damaged file gives way to the next good one.

    Which picture takes its place depends on the files alone, not on when or where
    the damage was found, so every host and every worker does the same. In a mixture it
    is one of the same part.
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
        short = [max(0, side - n) for n in pixels_hwc.shape[:2]]
        if any(short):
            pads = [(n // 2, n - n // 2) for n in short]
            pixels_hwc = np.pad(pixels_hwc, (*pads, (0, 0)), mode="reflect")
        height, width = pixels_hwc.shape[:2]
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        hq = pixels_hwc[top : top + side, left : left + side]
        if rng.integers(2):
            hq = hq[:, ::-1]
        return {"hq": np.ascontiguousarray(hq), "index": np.uint32(sample["index"])}

    def _read(self, position: int) -> np.ndarray:
        part = int(np.searchsorted(self.bounds, position, side="right"))
        first, end = int(self.bounds[part - 1]), int(self.bounds[part])
        for k in range(end - first):
            place = first + (position - first + k) % (end - first)
            if place in self._rejected:
                continue
            try:
                return self._source[int(self._usable[place])]
            except InputError as error:
                self._reject(place, str(error), range(first, end))
        raise AssertionError("check_rejected stops before every picture is rejected")

    def _reject(self, place: int, reason: str, part: range) -> None:
        with self._lock:
            if place not in self._rejected:
                self._rejected[place] = reason
                _log.warning("skipped %s (%d so far)", reason, len(self._rejected))
            here = {str(k): why for k, why in self._rejected.items() if k in part}
            check_rejected(here, len(part))

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
    """Indices of the pictures that crops may come from."""
    # reflection needs a second pixel to reflect
    least = 2 if small == "pad" else crop
    fits = np.asarray(source.sides_n) >= least
    if small == "error" and not fits.all():
        i = int(np.argmin(fits))
        raise UsageError(
            f"{source.names[i]} has a side of {source.sides_n[i]} pixels, the crop "
            f"needs {crop}. Remove it, or choose small='skip' or 'pad'."
        )
    for part in source.parts if isinstance(source, Mixture) else [source]:
        largest = max(part.sides_n, default=0)
        if largest < least:
            raise UsageError(
                f"none of {len(part)} pictures has sides of {least} pixels or more "
                f"(the largest has {largest}). Lower the crop."
            )
    if not fits.all():
        left_out = int((~fits).sum())
        _log.warning("left out %d pictures smaller than %d pixels", left_out, least)
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
            "Make it a multiple."
        )
    if not 0 <= process_index < process_count:
        raise UsageError(
            f"process {process_index} is not one of {process_count}. Count from 0."
        )
    if crop < 1 or start < 0 or workers < 0:
        raise UsageError(
            f"crop {crop} must be positive, start {start} and workers {workers} not "
            "negative. Correct them."
        )
    if small not in SMALL:
        raise UsageError(f"small={small!r} is unknown. Use one of {', '.join(SMALL)}.")
