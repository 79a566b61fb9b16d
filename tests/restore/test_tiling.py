"""restore/tiling.py: tiles cover everything, weights sum to one, seams are seen."""

import numpy as np
import pytest

from gendr_jax.image_io import resize
from gendr_jax.restore import tiled, tiling

RNG = np.random.default_rng(0)
CASES = [
    (1000, 700, 256, None),
    (257, 2000, 256, 64),
    (129, 128, 128, 32),
    (500, 333, 64, 32),
    (500, 333, 64, 0),
    (640, 640, 100, 1000),
]


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), CASES)
def test_tiles_cover_the_picture_and_share_what_they_must(height, width, tile, overlap):
    plan = tiling.layout(height, width, tile, overlap, 64)
    assert plan.tiled and plan.tiles == len(plan.rows) * len(plan.columns)
    axes = ((plan.rows, height, 0), (plan.columns, width, 1))
    for origins, length, axis in axes:
        side = plan.pass_hw[axis]
        assert side % 64 == 0
        assert origins[0] == -tiling.MARGIN
        assert origins[-1] + side >= length + tiling.MARGIN
        if len(origins) > 1:
            assert side == -(-tile // 64) * 64
            assert origins[-1] + side == length + tiling.MARGIN
        steps = np.diff(origins)
        assert all(steps > 0) and all(side - steps >= plan.overlap)
        assert len(steps) == 0 or steps.max() - steps.min() <= 1


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), CASES)
def test_weights_sum_to_one_and_are_symmetric(height, width, tile, overlap):
    plan = tiling.layout(height, width, tile, overlap, 64)
    for origins, side in zip((plan.rows, plan.columns), plan.pass_hw, strict=True):
        parts = tiling.weights(origins, side, plan.overlap)
        total = np.zeros(origins[-1] - origins[0] + side)
        for origin, part in zip(origins, parts, strict=True):
            origin -= origins[0]
            assert part.min() >= -1e-7
            total[origin : origin + side] += part
        np.testing.assert_allclose(total, 1, atol=1e-6)
        last = origins[-1]
        mirrored = tiling.weights(
            tuple(last - o for o in reversed(origins)), side, plan.overlap
        )
        if _even(origins, plan, side):
            for part, other in zip(parts, reversed(mirrored), strict=True):
                np.testing.assert_allclose(part, other[::-1], atol=1e-6)


def _even(origins, plan, side):
    """Whether every ramp lies in the middle of what neighbours share."""
    pairs = zip(origins, origins[1:], strict=False)
    return all((a + side - b - plan.overlap) % 2 == 0 for a, b in pairs)


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), CASES)
def test_a_picture_cut_and_blended_is_the_picture(height, width, tile, overlap):
    plan = tiling.layout(height, width, tile, overlap, 64)
    x = RNG.random((height, width, 3), np.float32)
    read = tiled.MemoryStore(x).read
    bands, out = tiling.Bands(plan), np.full_like(x, np.nan)
    for i, top in enumerate(plan.rows):
        for j, left in enumerate(plan.columns):
            part = (top, left, *plan.pass_hw)
            bands.add(i, j, resize.mirrored_region(read, (height, width), part))
        first, rows = bands.finish(i)
        assert np.isnan(out[first : first + len(rows)]).all()
        out[first : first + len(rows)] = rows
    np.testing.assert_allclose(out, x, atol=1e-6)


def test_small_pictures_are_one_pass_of_few_shapes():
    plan = tiling.layout(500, 20, 512, None, 64)
    assert not plan.tiled and plan.pass_hw == (576, 128)
    sides = {tiling.bucket(n, 64) for n in range(1, 4097)}
    assert len(sides) == 12
    for n in range(1, 5000):
        side = tiling.bucket(n, 64)
        assert side % 64 == 0 and n <= side < 1.5 * (n + 64)


def test_large_pictures_share_one_shape():
    shapes = {
        tiling.layout(h, w, 256, None, 64).pass_hw
        for h, w in ((300, 400), (257, 1000), (5000, 999))
    }
    assert shapes == {(256, 256)}


def test_seams_are_seen_where_they_are():
    plan = tiling.layout(400, 400, 192, 48, 64)
    smooth = 0.02 * RNG.standard_normal((400, 400, 3))
    jump, step = tiling.seams(smooth, plan)
    assert jump < 1.3 and step < 0.005
    edge = plan.rows[1] + (plan.rows[0] + 192 - plan.rows[1]) // 2
    broken = smooth.copy()
    broken[edge:] += 0.1
    jump, step = tiling.seams(broken, plan)
    assert jump > 2 and 0.08 < step < 0.12


def test_samples_reach_every_corner():
    plan = tiling.layout(1000, 700, 256, None, 64)
    places = list(tiling.samples(plan, 3, 128))
    assert len(places) == 9
    assert places[0] == (0, 0) and places[-1] == (872, 572)
