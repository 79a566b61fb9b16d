"""Weights in the host's memory: one copy at the start of a run, none in its steps."""

import gc
import weakref

import jax
import numpy as np
import pytest

from gendr_jax import sharding
from gendr_jax.train.run.loop import run
from gendr_jax.train.run_settings import RunSettings
from gendr_jax.train.stages.build import Setup
from tests.helpers.linear_run import WIDTH, Batches, settings, stage


def unaligned(value):
    """An array that a CPU device cannot use where it lies: it has to copy."""
    room = np.zeros(4 * WIDTH * WIDTH + 4, np.uint8)[4:]
    room = room.view(np.float32).reshape(WIDTH, WIDTH)
    room[:] = value
    return room


class Watched:
    """Stages of new arrays, and how many of these arrays are alive."""

    def __init__(self):
        self.arrays, self.counts = [], []

    def stage(self):
        made = stage(
            frozen={"teacher": unaligned(np.eye(WIDTH))}, start={"w": unaligned(0.5)}
        )
        leaves = jax.tree.leaves((made.frozen, made.start))
        self.arrays = [weakref.ref(leaf) for leaf in leaves]
        return made

    def setup(self):
        return Setup(self.stage(), Batches(), RunSettings(steps=1, batch_size=1))

    def count(self):
        gc.collect()
        return sum(array() is not None for array in self.arrays)

    def batches(self, first):
        return Batches(at={first: lambda: self.counts.append(self.count())})


def train(workdir, made, watched, steps, first=0):
    """Counted when the first batch is read: the state is on the devices by then."""
    mesh = sharding.make_mesh("data=2,fsdp=4")
    told = settings(steps=steps)
    opened = watched.batches(first)
    run(made.pop(), opened, told, mesh=mesh, workdir=workdir, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [False, True])
def test_no_weights_stay_on_the_host_once_the_state_is_placed(tmp_path, kept):
    watched = Watched()
    made = [watched.stage()]
    held = list(made) if kept else []
    assert watched.count() == 2
    train(tmp_path, made, watched, 1)
    made = [watched.stage()]
    held += made if kept else []
    train(tmp_path, made, watched, 2, first=1)  # resumed: it never needs the start
    assert watched.counts == ([2, 2] if kept else [0, 0])


@pytest.mark.slow
def test_a_setup_hands_its_weights_over():
    watched = Watched()
    setup = watched.setup()
    taken = [setup.hand_over()]
    assert watched.count() == 2 and taken[0].start["w"][0, 0] == 0.5
    assert setup.stage.start["w"].shape == (WIDTH, WIDTH)  # a shape is left
    taken.clear()
    assert watched.count() == 0
