"""evaluate/statistics.py: intervals against theory, pairs against arithmetic."""

import numpy as np
import pytest
from scipy import stats

from gendr_jax.evaluate import statistics


def test_the_interval_is_that_of_the_mean():
    x = np.random.default_rng(1).normal(30.0, 2.0, 400)
    found = statistics.mean(x)
    assert found.mean == pytest.approx(x.mean()) and found.n == 400
    # For many normal values the bootstrap comes to mean +- 1.96 s / sqrt(n).
    half = 1.96 * x.std() / np.sqrt(len(x))
    np.testing.assert_allclose(
        found.ci95, [x.mean() - half, x.mean() + half], atol=0.08 * half
    )


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2)
    intervals = [statistics.mean(rng.exponential(1.0, 60)).ci95 for _ in range(300)]
    covered = np.mean([low <= 1.0 <= high for low, high in intervals])
    assert 0.88 < covered < 0.98  # a little below .95 for skew samples of this size


def test_equal_input_gives_equal_intervals():
    x = np.random.default_rng(3).normal(size=50)
    assert statistics.mean(x) == statistics.mean(list(x))


def test_one_picture_has_no_interval_and_none_no_mean():
    assert statistics.mean([3.0]) == statistics.Mean(3.0, None, 1)
    assert statistics.mean([]) is None
    assert statistics.difference([], []) is None


def test_pairs_see_what_means_do_not():
    rng = np.random.default_rng(4)
    hard = rng.normal(27.0, 4.0, 40)  # pictures differ far more than methods
    a, b = hard + rng.normal(0.3, 0.1, 40), hard
    low, high = statistics.difference(a, b).mean.ci95
    assert 0.2 < low < 0.3 < high < 0.4
    assert statistics.mean(a).ci95[0] < statistics.mean(b).mean
    found = statistics.difference([2.0, 1.0, 5.0, 4.0], [1.0, 1.0, 8.0, 3.0])
    assert (found.above, found.below) == (2, 1)
    assert found.mean.mean == pytest.approx(-1 / 4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 99, 1000])
def test_quantiles_of_student(freedom):
    want = stats.t.ppf(0.975, freedom)
    assert statistics.t_975(freedom) == pytest.approx(want, rel=1e-7)


@pytest.mark.parametrize("n", [2, 4, 5, 10, 30])
def test_a_winner_between_equals_is_as_rare_as_promised(n):
    rng, hits = np.random.default_rng(1), 0
    for _ in range(1000):
        found = statistics.difference(rng.normal(size=n), rng.normal(size=n))
        low, high = found.mean.ci95 or (-1, 1)
        hits += low > 0 or high < 0
    assert hits == 0 if n < statistics.FEWEST else 30 <= hits <= 72
