"""Means over pictures with 95 % confidence intervals, and paired differences.

The interval of a mean is the percentile bootstrap over pictures: RESAMPLES resamples
with replacement by a generator of a fixed seed, and the middle 95 % of their means. Two
methods are compared by their differences on the same pictures, whose interval is much
narrower than those of the two means. It is Student's t: for few pictures the bootstrap
is too narrow, and finds a winner among equals in half of all pairs. Fewer than FEWEST
pictures have no interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES, SEED = 10_000, 0
FEWEST = 5  # pictures that the interval of a difference needs
PROTOCOL = (
    f"percentile bootstrap over pictures, {RESAMPLES} resamples, seed {SEED}; "
    "none for a single picture; of differences: Student's t of the pairs, none for "
    f"fewer than {FEWEST}"
)
ROWS = 500  # resamples that are computed at once


@dataclass(frozen=True)
class Mean:
    """A mean over n pictures; `ci95` is None where n < 2."""

    mean: float
    ci95: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean of a - b on the pictures that both have, and how often each is higher.

    `above` counts pictures with a > b, `below` those with a < b.
    """

    mean: Mean
    above: int
    below: int


def mean(values: Sequence[float]) -> Mean | None:
    """The mean and its interval; None without values."""
    x_n = np.asarray(values, np.float64)
    if not len(x_n):
        return None
    average = float(x_n.mean())
    if len(x_n) < 2:
        return Mean(average, None, 1)
    counts = _counts(len(x_n))
    means = np.concatenate(
        [
            counts[i : i + ROWS].astype(np.float64) @ x_n
            for i in range(0, RESAMPLES, ROWS)
        ]
    )
    low, high = np.percentile(means / len(x_n), [2.5, 97.5])
    return Mean(average, (float(low), float(high)), len(x_n))


def difference(a: Sequence[float], b: Sequence[float]) -> Difference | None:
    """The paired difference: `a[i]` and `b[i]` are figures of the same picture."""
    d_n = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    if not len(d_n):
        return None
    mean_difference = Mean(float(d_n.mean()), _t_interval(d_n), len(d_n))
    return Difference(mean_difference, int((d_n > 0).sum()), int((d_n < 0).sum()))


def _t_interval(d_n: np.ndarray) -> tuple[float, float] | None:
    """The 95 % interval of their mean by Student's t."""
    if len(d_n) < FEWEST:
        return None
    half_width = t_975(len(d_n) - 1) * float(d_n.std(ddof=1)) / len(d_n) ** 0.5
    average = float(d_n.mean())
    return average - half_width, average + half_width


def t_975(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, by bisection of its exact distribution."""
    low, high = 0.0, 100.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        if _t_middle(middle, freedom) < 0.95:
            low = middle
        else:
            high = middle
    return high


def _t_middle(t: float, freedom: int) -> float:
    """P(|T| < t), integer degrees of freedom (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    theta = math.atan(t / math.sqrt(freedom))
    cos2, odd = math.cos(theta) ** 2, freedom % 2
    term = math.cos(theta) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cos2 * (k - 1) / k
        total += term
    if odd:
        return 2 / math.pi * (theta + math.sin(theta) * total)
    return math.sin(theta) * total


@lru_cache(maxsize=4)
def _counts(n: int) -> np.ndarray:
    """How often each resample takes each picture: uint8 [RESAMPLES, n]."""
    rng = np.random.default_rng(SEED)
    counts = np.empty((RESAMPLES, n), np.uint8)
    for row in counts:
        row[:] = np.bincount(rng.integers(0, n, n), minlength=n)
    return counts
