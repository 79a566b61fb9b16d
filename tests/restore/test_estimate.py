"""restore/estimate.py: what is promised before a weight is read, against XLA."""

import jax
import jax.numpy as jnp
import pytest

from gendr_jax.restore import estimate, forward
from gendr_jax.restore.pipeline import Restorer
from tests.helpers import tiny_restorer

RECIPE = tiny_restorer.RECIPE


@pytest.mark.slow
def test_flops_are_those_that_xla_counts():
    """At a size without loops, which XLA counts once."""
    restorer = Restorer(tiny_restorer.weights(), dtype="float32", tile=0)
    params = restorer._programs._params
    up = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    lowered = jax.jit(forward.make_pass(RECIPE)).lower(params, up)
    counted = lowered.cost_analysis()["flops"]
    found = estimate.pass_flops(RECIPE, (64, 64))
    assert found <= counted < 1.4 * found  # XLA adds what is elementwise


def test_a_plan_is_what_the_restorer_does():
    restorer = Restorer(tiny_restorer.weights(), dtype="float32", tile=128)
    found = estimate.estimate(RECIPE, 400, 300, tile=128, rate=1e9, devices=4)
    plan = restorer.layout(400, 300)
    assert (found.tiles, found.pass_hw, found.overlap) == (20, (128, 128), 32)
    assert (plan.tiles, plan.pass_hw, plan.overlap) == (20, (128, 128), 32)
    one = estimate.pass_flops(RECIPE, (128, 128))
    assert found.flops == 21 * one  # and one for the statistics
    assert found.seconds == pytest.approx(6 * one / 1e9)
    leaves = jax.tree.leaves(restorer._programs._params)
    stored = sum(x.nbytes for x in leaves) - 5 * 6 * 4  # the prompt
    assert found.weight_bytes == stored
    untiled = estimate.estimate(RECIPE, 400, 300)
    whole = Restorer(tiny_restorer.weights(), dtype="float32", tile=0)
    shape = whole.layout(400, 300).pass_hw
    assert shape[0] >= 400 + 64 and shape[1] >= 300 + 64  # with the margin
    assert (untiled.tiles, untiled.pass_hw, untiled.overlap) == (1, shape, 0)
    assert untiled.seconds is None
    spread = estimate.estimate(RECIPE, 400, 300, space=8)
    assert spread.peak_bytes < untiled.peak_bytes


@pytest.mark.slow
def test_bytes_are_not_below_what_xla_needs():
    from gendr_jax.restore import memory

    restorer = Restorer(tiny_restorer.weights(), dtype="float32", tile=0)
    program = restorer._programs._untiled_program((512, 512))
    need = memory.needed(program)
    promised = estimate.pass_bytes(RECIPE, (512, 512))
    assert need < promised < 2 * need + estimate.CONSTANT_BYTES


def test_memory_bounds_the_tile():
    for side in (1024, 512, 128):
        # The margin of a picture that is one pass counts.
        free = estimate.pass_bytes(RECIPE, (side + 64, side + 64))
        assert estimate.tiles_to_try(RECIPE, "auto", free)[0] == side
    assert estimate.tiles_to_try(RECIPE, "auto", 1) == [128]
    assert estimate.tiles_to_try(RECIPE, 300, 1) == [300, 256, 128]


def test_the_rate_is_measured():
    assert estimate.measured_rate("float32", seconds=0.01) > 1e8
