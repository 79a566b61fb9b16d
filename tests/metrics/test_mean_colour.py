"""The colour error: by hand, in levels whatever the type, blind to detail."""

import numpy as np
import pytest

from gendr_jax.errors import InputError
from gendr_jax.metrics import colour_error


def test_by_hand_and_without_a_sign():
    gt = np.full((8, 9, 3), 100, np.uint8)
    sr = gt + np.array([6, 0, 3], np.uint8)
    assert colour_error(sr, gt) == pytest.approx(3.0)
    assert colour_error(gt, sr) == pytest.approx(3.0)


def test_channels_do_not_cancel_and_detail_does_not_count():
    gt = np.random.default_rng(0).uniform(0.3, 0.7, (16, 16, 3))
    sr = gt + np.array([0.02, -0.02, 0.0])
    assert colour_error(sr, gt) == pytest.approx(255 * 0.04 / 3)
    assert colour_error(gt[::-1], gt) == pytest.approx(0, abs=1e-9)


def test_grey_against_colour_is_refused():
    with pytest.raises(InputError, match="1 channels, the truth 3"):
        colour_error(np.zeros((4, 4)), np.zeros((4, 4, 3)))
