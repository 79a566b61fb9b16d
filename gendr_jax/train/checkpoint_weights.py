"""The weights folder of any checkpoint of a training run, also of one that goes on."""

from pathlib import Path

import jax

from gendr_jax import sharding
from gendr_jax.checkpoints import manager
from gendr_jax.train.stages import build


def write(source: str | Path, step: int | None, target: Path) -> int:
    """Write what `gendr train` would have written as its weights at that step.

    The run may be at work, nothing of it is changed. Weights that it started from are
    read again, where its configuration names any.

    Args:
        source: a workdir, or `WORKDIR/checkpoints/STEP`.
        step: of a workdir; None: its newest good checkpoint.
        target: where the weights folder is to be.

    Returns: the step.

    Raises:
        UsageError: there is no such checkpoint.
        InputError: it is damaged, or what the run started from cannot be read.
    """
    _, config = manager.config_of(source, step)
    # One device, whatever the run has: nothing is trained.
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    settings = build.read_settings(config, mesh)
    stage = build.wire(settings, mesh)
    like = jax.eval_shape(stage.init, jax.random.key(settings.seed), stage.start)
    abstract = jax.tree.map(
        lambda x, placed: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed),
        like,
        sharding.tree_shardings(like, mesh),
    )
    found, state = manager.load(source, abstract, step=step)
    stage.export(state, stage.frozen, target)
    return found
