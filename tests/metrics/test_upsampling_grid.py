"""The grid figure against a plain loop, and on planted grids."""

import itertools

import numpy as np
import pytest

from gendr_jax.errors import InputError
from gendr_jax.metrics import upsampling_grid


def noise(height, width, seed=0):
    return np.random.default_rng(seed).uniform(0.2, 0.6, (height, width))


def by_loops(x_hw):
    figures = []
    for lines in (x_hw.T, x_hw):  # columns, then rows
        steps = [np.abs(b - a).mean() for a, b in itertools.pairwise(lines)]
        phases = [steps[k::p] for p in (2, 4, 8) for k in range(p)]
        figures.append(max(sum(x) / len(x) for x in phases) * len(steps) / sum(steps))
    return sum(figures) / 2


def test_equals_a_plain_loop_on_odd_sizes():
    x = noise(37, 53)
    assert upsampling_grid(x) == pytest.approx(by_loops(x), rel=1e-9)


@pytest.mark.parametrize("period", [2, 4, 8])
def test_a_planted_grid_raises_it_wherever_it_starts(period):
    clean = noise(64, 64)
    for offset in (0, 1):
        cells = (np.arange(64) + offset) // period % 2  # one step every `period` pixels
        planted = clean + 0.3 * cells
        assert upsampling_grid(planted) > upsampling_grid(clean) + 0.1
        # Both directions count: a grid of rows is the same as one of columns.
        assert upsampling_grid(planted.T) == pytest.approx(upsampling_grid(planted))


def test_a_grid_of_another_period_does_not_count():
    lines = np.zeros((60, 60))
    lines[:, ::5] = 0.5
    assert upsampling_grid(lines) < 1.25 < upsampling_grid(np.kron(lines, np.ones(2)))


def test_a_flat_picture_has_1_and_a_small_one_is_refused():
    assert upsampling_grid(np.full((9, 9, 3), 7, np.uint8)) == 1.0
    with pytest.raises(InputError, match="8x20 pixels, each side needs 9"):
        upsampling_grid(np.zeros((8, 20)))
