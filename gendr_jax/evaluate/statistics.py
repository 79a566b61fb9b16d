"""Means over pictures, with intervals that say how much the choice of pictures matters.

The interval is the percentile bootstrap: pictures are drawn again with replacement
RESAMPLES times by a generator of a fixed seed, and of the means the middle 95 % is
taken. Methods on the same pictures are compared by their differences picture by
picture, whose interval is far narrower than those of the two means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES, SEED = 10_000, 0
PROTOCOL = (
    f"percentile bootstrap over pictures, {RESAMPLES} resamples, seed {SEED}; "
    "none for a single picture"
)
ROWS = 500  # of the resamples at once


@dataclass(frozen=True)
class Mean:
    """A mean over n pictures; `ci95` is None where n < 2."""

    mean: float
    ci95: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class Difference:
    """Of `a` and `b` on the pictures that both have: mean of a - b, and who is ahead.

    `above` counts pictures with a > b, `below` those with a < b.
    """

    mean: Mean
    above: int
    below: int


def mean(values: Sequence[float]) -> Mean | None:
    """Their mean and its interval; None of nothing."""
    x_n = np.asarray(values, np.float64)
    if not len(x_n):
        return None
    middle = float(x_n.mean())
    if len(x_n) < 2:
        return Mean(middle, None, 1)
    counts = _counts(len(x_n))
    means = np.concatenate(
        [
            counts[i : i + ROWS].astype(np.float64) @ x_n
            for i in range(0, RESAMPLES, ROWS)
        ]
    )
    low, high = np.percentile(means / len(x_n), [2.5, 97.5])
    return Mean(middle, (float(low), float(high)), len(x_n))


def difference(a: Sequence[float], b: Sequence[float]) -> Difference | None:
    """Paired: `a[i]` and `b[i]` are figures of one picture."""
    d_n = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    middle = mean(d_n.tolist())
    if middle is None:
        return None
    return Difference(middle, int((d_n > 0).sum()), int((d_n < 0).sum()))


@lru_cache(maxsize=4)
def _counts(n: int) -> np.ndarray:
    """How often each resample takes each picture: uint8 [RESAMPLES, n]."""
    rng = np.random.default_rng(SEED)
    counts = np.empty((RESAMPLES, n), np.uint8)
    for row in counts:
        row[:] = np.bincount(rng.integers(0, n, n), minlength=n)
    return counts
