"""The training step as a compiled program: what it is given, and where all of it lives.

What lives here: shapes and placements of a step's arguments, and the one jit that the
loop runs and `gendr plan` compiles for devices that are not here. What does not: any
step (`*_step.py`), data, files.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gendr_jax import sharding
from gendr_jax.sharding import Placement
from gendr_jax.train.stage import Stage


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The four arguments of a step; abstract here, arrays in the loop."""

    state: Any
    frozen: Any
    batch: Any
    key: Any

    def __iter__(self):
        return iter((self.state, self.frozen, self.batch, self.key))


def arguments(
    stage: Stage, placement: Placement, *, batch_size: int, crop: int
) -> Arguments:
    """Shapes, dtypes and placements of everything a step is called with.

    Nothing is allocated; `stage.frozen` and `stage.start` may be abstract.
    """
    mesh = placement.mesh
    whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(stage.init, key, stage.start)
    batch = {
        "hq": jax.ShapeDtypeStruct((batch_size, crop, crop, 3), jnp.uint8),
        "index": jax.ShapeDtypeStruct((batch_size,), jnp.uint32),
    }
    return Arguments(
        state=placed(state, placement.tree(state)),
        frozen=placed(stage.frozen, placement.tree(stage.frozen, "frozen")),
        batch=jax.tree.map(lambda x: _struct(x, rows), batch),
        key=_struct(key, whole),
    )


def placed(tree: Any, shardings: Any) -> Any:
    """The shapes of `tree`, each with its sharding."""
    return jax.tree.map(_struct, tree, shardings)


def traced(stage: Stage, mesh: Mesh, args: Arguments) -> jax.stages.Traced:
    """The step, traced for `mesh`: the state is donated and comes back in its place.

    `traced(...).lower().compile()` is the program of the loop.
    """
    places = jax.tree.map(lambda x: x.sharding, tuple(args))
    jitted = jax.jit(
        stage.step,
        donate_argnums=0,
        in_shardings=places,
        out_shardings=(places[0], sharding.replicated(mesh)),
    )
    # The attention kernel is chosen by the mesh that is current while tracing.
    with jax.set_mesh(mesh):
        return jitted.trace(*args)


def _struct(x: Any, at: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at)
