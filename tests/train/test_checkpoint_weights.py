"""`gendr convert WORKDIR --step N`: weights of any checkpoint, of a run at work too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.checkpoints.manager import Manager
from gendr_jax.errors import InputError
from gendr_jax.train import checkpoint_weights
from gendr_jax.train.run.resume import plain
from gendr_jax.train.stages import build
from gendr_jax.weights import folder
from tests.helpers import tiny_stages
from tests.helpers.tiny_commands import gendr


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir with the checkpoints 4 and 8, their states, the stage)."""
    workdir = tmp_path_factory.mktemp("run")
    settings = tiny_stages.settings("vae")
    mesh = tiny_stages.one_device()
    stage = build.wire(settings, mesh)
    first = jax.jit(stage.init)(jax.random.key(0), stage.start)
    states = {}
    with jax.set_mesh(mesh):
        manager = Manager(workdir / "checkpoints")
        for step in (4, 8):
            state = jax.tree.map(
                lambda x, step=step: (
                    x + step if jnp.issubdtype(x.dtype, jnp.floating) else x
                ),
                first,
            )
            meta = {"config": plain(settings)}
            assert manager.save(step, state, clock={"seed": 0}, meta=meta)
            states[step] = state
        manager.wait()
    yield workdir, states, stage
    manager.close()  # all along the run was at work


def assert_is(path, states, step, stage, tmp_path):
    stage.export(states[step], stage.frozen, tmp_path / f"expected{step}")
    one, two = folder.load(path), folder.load(tmp_path / f"expected{step}")
    assert one.configs == two.configs
    expected = nets.flatten(two.params["vae"])
    for at, array in nets.flatten(one.params["vae"]).items():
        np.testing.assert_array_equal(array, expected[at], str(at))


@pytest.mark.slow
def test_every_checkpoint_becomes_what_training_would_have_written(
    run, tmp_path, capsys
):
    workdir, states, stage = run
    before = sorted(workdir.rglob("*"))
    assert gendr("convert", workdir, "--step", 4, "-o", tmp_path / "four") == 0
    assert "step     4 of a training run" in capsys.readouterr().out
    assert_is(tmp_path / "four", states, 4, stage, tmp_path)
    record = folder.load(tmp_path / "four").provenance["converted"][-1]
    assert record["step"] == 4
    # the newest, and one by its path
    assert gendr("convert", workdir, "-o", tmp_path / "new", "--dtype", "bf16") == 0
    assert (
        folder.load(tmp_path / "new")
        .params["vae"]["encoder"]["conv_in"]["kernel"]
        .dtype
        == jnp.bfloat16
    )
    path = workdir / "checkpoints" / "8"
    assert gendr("convert", path, "-o", tmp_path / "eight") == 0
    assert_is(tmp_path / "eight", states, 8, stage, tmp_path)
    assert sorted(workdir.rglob("*")) == before


@pytest.mark.slow
def test_steps_that_are_not_there_are_named(run, tmp_path):
    with pytest.raises(InputError, match=r"good checkpoint 5, it has 4, 8"):
        checkpoint_weights.write(run[0], 5, tmp_path / "x")
    assert gendr("convert", tmp_path, "--step", 5, "-o", tmp_path / "x") == 2
    assert not (tmp_path / "x").exists()
