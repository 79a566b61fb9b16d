"""The training step as compiled programs: its abstract arguments and shardings.

A step of several phases is several programs. They compile in parallel, with a fraction
of the compiler's time and memory that one program would take, and the temporaries of
one phase are freed before the next one runs.
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
    """Shapes, dtypes and shardings of everything a step is called with.

    Nothing is allocated; `stage.frozen` and `stage.start` may be abstract.
    """
    mesh = placement.mesh
    replicated, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
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
        key=_struct(key, replicated),
    )


def placed(tree: Any, shardings: Any) -> Any:
    """The shapes of `tree`, each with its sharding."""
    return jax.tree.map(_struct, tree, shardings)


@dataclasses.dataclass(frozen=True)
class StepProgram:
    """One program of a step, traced for a mesh whose devices need not be present."""

    name: str
    traced: jax.stages.Traced


def phases(stage: Stage) -> tuple[Phase, ...]:
    """The programs of a step, in their order: its phases, or the step as one."""
    return stage.phases or (Phase("step", _alone(stage)),)


def traced(
    stage: Stage, placement: Placement, args: Arguments, only: int | None = None
) -> list[StepProgram]:
    """The programs of a step, traced; all, or the one of that number.

    The state is donated to each program and returned in the same buffers, so what a
    phase does not change is not copied. `compiled` makes them one function.
    """
    mesh = placement.mesh
    state, frozen, batch, key = args
    shardings_of = lambda tree: jax.tree.map(lambda x: x.sharding, tree)  # noqa: E731
    replicated = sharding.replicated(mesh)
    programs, carry = [], None
    for number, phase in enumerate(phases(stage)):
        phase_args = (state, carry, frozen, batch, key)
        if only is not None and number > only:
            break
        with jax.set_mesh(mesh), tensor_axis.used(placement.splits(sharding.MODEL)):
            # Abstractly first: the carry's shardings are needed to compile the phase.
            _, next_carry, _ = jax.eval_shape(phase.run, *phase_args)
            next_carry = placed(next_carry, _carry_shardings(next_carry, mesh))
            if only is not None and number < only:
                carry = next_carry
                continue
            jitted = jax.jit(
                phase.run,
                donate_argnums=0,
                keep_unused=True,  # so that the compiler counts what is resident
                in_shardings=shardings_of(phase_args),
                out_shardings=(
                    shardings_of(state),
                    shardings_of(next_carry),
                    replicated,
                ),
            )
            # The attention kernel is chosen by the mesh that is current while tracing.
            programs.append(StepProgram(phase.name, jitted.trace(*phase_args)))
        carry = next_carry
    return programs


def joined(programs: list[Any]) -> Any:
    """Compiled programs of `traced` as one (state, frozen, batch, key) -> as a step."""

    def step(state: Any, frozen: Any, batch: Any, key: Any) -> tuple[Any, Metrics]:
        carry, metrics = None, {}
        for program in programs:
            state, carry, phase_metrics = program(state, carry, frozen, batch, key)
            metrics |= phase_metrics
        return state, metrics

    return step


def compiled(
    programs: list[StepProgram], compiler_options: dict[str, Any] | None = None
) -> Callable[..., tuple[Any, Metrics]]:
    """The step to be called; its programs are compiled in parallel."""

    def build(program: StepProgram) -> Any:
        return program.traced.lower().compile(compiler_options=compiler_options)

    with ThreadPoolExecutor() as pool:  # XLA releases the GIL while it compiles
        return joined(list(pool.map(build, programs)))


def _alone(stage: Stage) -> Callable[..., Any]:
    """The step as a single phase."""

    def run(state: Any, carry: None, frozen: Any, batch: Any, key: Any) -> Any:
        state, metrics = stage.step(state, frozen, batch, key)
        return state, None, metrics

    return run


def _carry_shardings(carry: Any, mesh: Mesh) -> Any:
    """Shardings of a phase's carry: rows as the batch, heights over `space`."""

    def place(x: Any) -> NamedSharding:
        if x.ndim == 0:
            return sharding.replicated(mesh)
        # Latents and pictures keep their rows split, so that no phase gathers them.
        rows = sharding.batch_sharding(mesh)
        divides = x.ndim == 4 and x.shape[1] % mesh.shape[sharding.SPACE] == 0
        if not divides or mesh.shape[sharding.SPACE] == 1:
            return rows
        return NamedSharding(mesh, PartitionSpec(*rows.spec, sharding.SPACE))

    return jax.tree.map(place, carry)


def _struct(x: Any, at: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at)
