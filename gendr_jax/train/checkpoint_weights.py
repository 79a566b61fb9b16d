"""Write the weights folder of any checkpoint, also of a run that is still training."""

from pathlib import Path

import jax

from gendr_jax import sharding
from gendr_jax.checkpoints import manager
from gendr_jax.train.stages import build


def write(source: str | Path, step: int | None, target: Path) -> int:
    """Write the weights folder that `gendr train` would have written at that step.

    The run's workdir is only read. Weights that it started from are read again, if its
    configuration names any.

    Args:
        source: a workdir, or `WORKDIR/checkpoints/STEP`.
        step: of a workdir; None: its newest good checkpoint.
        target: path of the weights folder.

    Returns: the step.

    Raises:
        UsageError: there is no such checkpoint.
        InputError: it is damaged, or the initial weights cannot be read.
    """
    _, config = manager.config_of(source, step)
    # One device is enough: nothing is trained.
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    settings = build.read_settings(config, mesh)
    stage = build.wire(settings, mesh)
    like = jax.eval_shape(stage.init, jax.random.key(settings.seed), stage.start)
    abstract = jax.tree.map(
        lambda x, leaf_sharding: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=leaf_sharding
        ),
        like,
        sharding.tree_shardings(like, mesh),
    )
    step_read, state = manager.load(source, abstract, step=step)
    stage.export(state, stage.frozen, target)
    return step_read
