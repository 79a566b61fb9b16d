"""A step in several programs is the step: same values, state donated, order kept."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import sharding
from gendr_jax.train.run import compiled_step
from gendr_jax.train.stage import Phase, Stage, composed


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Two:
    """A state whose parts are trained by different phases."""

    step: jax.Array
    first: jax.Array
    second: jax.Array


def forward(state, left, frozen, batch, key):
    noise = jax.random.normal(jax.random.fold_in(key, state.step), (8, 4))
    return (
        state,
        {"y": batch["x"] * frozen["w"][None] + noise, "loss": jnp.mean(noise)},
        {},
    )


def train_first(state, left, *_):
    first = state.first + jnp.mean(left["y"])
    return dataclasses.replace(state, first=first), left, {"loss_first": left["loss"]}


def train_second(state, left, *_):
    second = state.second - jnp.sum(left["y"], 0)
    new = dataclasses.replace(state, step=state.step + 1, second=second)
    return new, None, {"loss_second": state.first[0]}


PHASES = (
    Phase("forward", forward),
    Phase("first", train_first),
    Phase("second", train_second),
)
STEP = composed(PHASES)


def setup(spec, phases):
    mesh = sharding.make_mesh(spec)
    where = sharding.Placement(mesh, min_size=1)
    state = Two(jnp.int32(3), jnp.arange(8.0), jnp.ones(4))
    frozen = {"w": jnp.full((4,), 2.0)}
    batch = {"x": jnp.arange(32.0).reshape(8, 4)}
    args = compiled_step.Arguments(
        sharding.place(state, where.tree(state)),
        sharding.place(frozen, where.tree(frozen, "frozen")),
        sharding.place(batch, sharding.batch_sharding(mesh)),
        sharding.place(jax.random.key(0), sharding.replicated(mesh)),
    )
    stage = Stage(None, STEP, frozen, None, None, phases=phases)
    expected = STEP(state, frozen, batch, jax.random.key(0))
    return where, args, stage, expected


@pytest.mark.parametrize("spec", ["data=8", "data=2,fsdp=4"])
@pytest.mark.parametrize("phases", [PHASES, ()], ids=["phases", "whole"])
def test_the_programs_are_the_step(spec, phases):
    where, args, stage, (expected, wanted) = setup(spec, phases)
    parts = compiled_step.traced(stage, where, args)
    assert [p.name for p in parts] == ([p.name for p in phases] or ["step"])
    places = jax.tree.map(lambda x: x.sharding, args.state)
    state, metrics = compiled_step.compiled(parts)(*args)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        (state, metrics),
        (expected, wanted),
    )
    assert jax.tree.map(lambda x: x.sharding, state) == places
    assert jax.tree.leaves(args.state)[1].is_deleted()  # donated, not copied
    again, _ = compiled_step.compiled(parts)(state, *list(args)[1:])
    assert int(again.step) == 5


def test_what_a_phase_does_not_touch_stays_in_its_buffer():
    where, args, stage, _ = setup("data=8", PHASES)
    first, *_ = compiled_step.traced(stage, where, args)
    pointer = args.state.second.addressable_shards[0].data.unsafe_buffer_pointer()
    state, *_ = first.traced.lower().compile()(args.state, None, *list(args)[1:])
    shard = state.second.addressable_shards[0].data
    assert shard.unsafe_buffer_pointer() == pointer
    np.testing.assert_array_equal(state.second, np.ones(4))


def test_the_compiler_counts_what_is_resident():
    """Arguments that a phase does not use are on the devices all the same."""
    where, args, stage, _ = setup("data=8", PHASES)
    sizes = [
        part.traced.lower().compile().memory_analysis().argument_size_in_bytes
        for part in compiled_step.traced(stage, where, args)
    ]
    everything = sum(
        x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(list(args)[:3])
    )
    assert min(sizes) >= everything
