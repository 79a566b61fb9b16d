"""The training step as compiled programs: what they are given, where all of it lives.

A step of several phases is several programs. They are compiled side by side, the
compiler needs a fraction of the memory and time that one program of all of them takes,
and on the devices each has the room that the others have left.
"""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gendr_jax import sharding
from gendr_jax.models import tensor_axis
from gendr_jax.sharding import Placement
from gendr_jax.train.stage import Metrics, Phase, Stage


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


@dataclasses.dataclass(frozen=True)
class Part:
    """One program of a step, traced for devices that may not be here."""

    name: str
    traced: jax.stages.Traced


def phases(stage: Stage) -> tuple[Phase, ...]:
    """The programs of a step, in their order: its phases, or the step as one."""
    return stage.phases or (Phase("step", _alone(stage)),)


def traced(
    stage: Stage, placement: Placement, args: Arguments, only: int | None = None
) -> list[Part]:
    """The programs of a step, traced; all, or the one of that number.

    The state is donated to each and comes back in its place, so what a phase does not
    touch stays where it is. `compiled` makes them one function.
    """
    mesh = placement.mesh
    state, frozen, batch, key = args
    at = lambda tree: jax.tree.map(lambda x: x.sharding, tree)  # noqa: E731
    whole = sharding.replicated(mesh)
    parts, left = [], None
    for number, phase in enumerate(phases(stage)):
        given = (state, left, frozen, batch, key)
        if only is not None and number > only:
            break
        with jax.set_mesh(mesh), tensor_axis.used(placement.splits(sharding.MODEL)):
            _, next_left, _ = jax.eval_shape(phase.run, *given)
            next_left = placed(next_left, _rows(next_left, mesh))
            if only is not None and number < only:
                left = next_left
                continue
            jitted = jax.jit(
                phase.run,
                donate_argnums=0,
                keep_unused=True,  # so that the compiler counts what is resident
                in_shardings=at(given),
                out_shardings=(at(state), at(next_left), whole),
            )
            # The attention kernel is chosen by the mesh that is current while tracing.
            parts.append(Part(phase.name, jitted.trace(*given)))
        left = next_left
    return parts


def joined(programs: list[Any]) -> Any:
    """Compiled programs of `traced` as one (state, frozen, batch, key) -> as a step."""

    def step(state: Any, frozen: Any, batch: Any, key: Any) -> tuple[Any, Metrics]:
        left, metrics = None, {}
        for program in programs:
            state, left, found = program(state, left, frozen, batch, key)
            metrics |= found
        return state, metrics

    return step


def compiled(
    parts: list[Part], compiler_options: dict[str, Any] | None = None
) -> Callable[..., tuple[Any, Metrics]]:
    """The step to be called; its programs are compiled side by side."""

    def build(part: Part) -> Any:
        return part.traced.lower().compile(compiler_options=compiler_options)

    with ThreadPoolExecutor() as pool:  # the compiler lets go of Python's lock
        return joined(list(pool.map(build, parts)))


def _alone(stage: Stage) -> Callable[..., Any]:
    """The step as a single phase."""

    def run(state: Any, left: None, frozen: Any, batch: Any, key: Any) -> Any:
        state, metrics = stage.step(state, frozen, batch, key)
        return state, None, metrics

    return run


def _rows(left: Any, mesh: Mesh) -> Any:
    """Where a phase leaves its results: rows as the batch, heights over `space`."""

    def place(x: Any) -> NamedSharding:
        if x.ndim == 0:
            return sharding.replicated(mesh)
        rows = sharding.batch_sharding(mesh)
        tall = x.ndim == 4 and x.shape[1] % mesh.shape[sharding.SPACE] == 0
        if not tall or mesh.shape[sharding.SPACE] == 1:
            return rows
        return NamedSharding(mesh, PartitionSpec(*rows.spec, sharding.SPACE))

    return jax.tree.map(place, left)


def _struct(x: Any, at: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at)
