"""The loop over a batch: the same pictures split over devices and on other canvases."""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy import ndimage

from gendr_jax.data.degrade import batch, chain, degrade, recipe, sample_keys

SIDE, BATCH = 64, 4


def photos():
    rng = np.random.default_rng(5)
    x = ndimage.gaussian_filter(rng.random((BATCH, SIDE, SIDE, 3)), (0, 4, 4, 0))
    x = (x - x.min()) / np.ptp(x)
    return jnp.asarray(np.round(x * 255) / 255, jnp.float32)


def keys(*indices, seed=0):
    return sample_keys(jax.random.key(seed), jnp.asarray(indices, jnp.uint32))


@pytest.fixture(scope="module")
def default():
    return degrade(keys(0, 1, 2, 3), photos(), recipe())


def assert_same_picture(a, b):
    """At most one level on fewer than 0.1 % of values: a float32 sum on a tie."""
    levels = np.abs(np.asarray(a) - np.asarray(b)) * 255
    assert (levels > 0.5).mean() < 1e-3 and levels.max() < 1.5


@pytest.mark.slow
def test_it_splits_over_devices(default):
    """Per-sample work needs no communication: under shard_map it is the same."""
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    one = functools.partial(degrade, recipe=recipe(), scale=4)
    spec = PartitionSpec("data")
    split = jax.jit(
        jax.shard_map(one, mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    )
    assert_same_picture(split(keys(0, 1, 2, 3), photos()), default)


@pytest.mark.slow
@pytest.mark.parametrize(
    "is_current", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_a_sharded_batch_stays_where_it_is(default, is_current):
    """A batch over eight devices, the mesh current or not: not one collective."""
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp"))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    jitted = jax.jit(
        lambda k, x: degrade(k, x * 1.0, recipe()), in_shardings=(rows, rows)
    )
    inputs = keys(*tuple(range(BATCH)) * 4), jnp.tile(photos(), (4, 1, 1, 1))
    inputs = jax.device_put(inputs, rows)
    with jax.set_mesh(mesh) if is_current else contextlib.nullcontext():
        lowered = jitted.lower(*inputs)
    compiled = lowered.compile()
    assert ("CustomSPMDPartitioning" in lowered.as_text()) != is_current
    assert not re.search(
        r"all-|collective|reduce-scatter|partition-id", compiled.as_text()
    )
    assert compiled.output_shardings.is_equivalent_to(rows, 4)
    lq = compiled(*inputs)
    for k in range(4):
        assert_same_picture(lq[k * BATCH : (k + 1) * BATCH], default)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["realesrgan", "stablesr"])
def test_the_sharpened_truth_splits_over_a_mesh(preset):
    """Its loop starts from values that vary over the devices."""
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp"))
    one = functools.partial(degrade, recipe=recipe(preset))
    with jax.set_mesh(mesh):
        lq = jax.eval_shape(
            jax.jit(one), keys(*range(8)), jnp.tile(photos(), (2, 1, 1, 1))
        )
    assert lq.shape == (8, SIDE // 4, SIDE // 4, 3)


@pytest.mark.slow
def test_the_canvas_does_not_show(monkeypatch):
    """Branches over a ladder of canvases, one canvas for all, another array size."""
    monkeypatch.setattr(chain, "SHORTEST", 16)
    assert len(chain.ladder(recipe(), (SIDE, SIDE), chain.CPU_STEPS)) == 5
    k, x = keys(*range(12)), jnp.tile(photos(), (3, 1, 1, 1))
    sizes = jnp.full((12, 2), SIDE)
    one = functools.partial(chain._degrade_one, recipe=recipe(), scale=4)
    branching = jax.jit(lambda *a: batch.loop_over_samples(one, *a))(k, x, sizes)
    largest = functools.partial(one, steps=())
    fixed = jax.jit(lambda *a: batch.vmap_samples(largest, *a))
    assert_same_picture(fixed(k, x, sizes), branching)
    wide = jnp.pad(x, ((0, 0), (0, 16), (0, 32), (0, 0)))
    inside = fixed(k, wide, sizes)[:, : SIDE // 4, : SIDE // 4]
    assert_same_picture(inside, branching)
