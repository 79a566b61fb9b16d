"""evaluate/winners.py: a best method where there is a clear difference, else none."""

import numpy as np
import pytest

from gendr_jax.evaluate import statistics
from gendr_jax.evaluate.winners import winners
from gendr_jax.metrics.kinds import Metric

RISES = Metric("rises", "gt", "higher", 3, "-")
FALLS = Metric("falls", "gt", "lower", 3, "-")
SAYS = Metric("says", "gt", "neither", 3, "-")


def values(*figures, names=("rises", "falls", "says")):
    return {f"{k}": dict.fromkeys(names, x) for k, x in enumerate(figures)}


def test_the_clearly_better_one_by_the_way_that_is_good():
    one, two = values(1.0, 2, 3, 4, 5), values(1.5, 2.6, 3.4, 4.5, 5.6)
    found = winners({"one": one, "two": two}, [RISES, FALLS, SAYS])
    assert found == {"rises": "two", "falls": "one", "says": None}


def test_none_among_equals_nor_of_few_pictures_nor_alone():
    one, two = values(1.0, 2, 3, 4, 5), values(1.5, 1.5, 3.4, 3.5, 5.2)
    assert winners({"one": one, "two": two}, [RISES]) == {"rises": None}
    same = winners({"one": one, "two": one}, [RISES])
    assert same == {"rises": None}
    few = statistics.FEWEST - 1
    less = {k: v for k, v in one.items() if int(k) < few}
    more = values(*(x + 10 for x in range(few)))
    assert winners({"one": less, "two": more}, [RISES]) == {"rises": None}
    assert winners({"one": one}, [RISES]) == {"rises": None}


def test_the_second_best_must_be_beaten_too():
    low, high = values(1.0, 2, 3, 4, 5), values(9.0, 9.1, 9.2, 9.3, 9.4)
    near = values(9.1, 9.0, 9.2, 9.4, 9.3)
    found = winners({"low": low, "high": high, "near": near}, [RISES])
    assert found == {"rises": None}


def test_on_the_pictures_that_all_have():
    one, two = values(1.0, 2, 3, 4, 5, 99), values(2.0, 3.1, 4, 5.1, 6)
    assert winners({"one": one, "two": two}, [RISES]) == {"rises": "two"}
    del two["3"]["rises"]  # could not be measured: means of different pictures
    assert winners({"one": one, "two": two}, [RISES]) == {"rises": None}


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_equals_seldom_have_a_winner(count):
    rng, hits, draws = np.random.default_rng(3), 0, 400
    for _ in range(draws):
        one, two = (values(*rng.normal(size=count)) for _ in range(2))
        hits += winners({"one": one, "two": two}, [RISES])["rises"] is not None
    assert hits / draws <= 0.085  # 5 % and three standard errors
