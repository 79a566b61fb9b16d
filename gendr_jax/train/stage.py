"""The interface between a training stage and the loop that runs it.

A stage is data and pure functions. Frozen weights are an argument of every function,
so that they are never compiled in as constants and never written to a checkpoint.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import jax

Frozen = Any  # pytree of arrays that training reads and never changes
Batch = Mapping[str, jax.Array]  # every leaf has the global batch as its first axis
Metrics = dict[
    str, jax.Array
]  # scalars; "skipped_ROLE" is 1 when an update was skipped


class State(Protocol):
    """A pytree dataclass of arrays: all that training changes, and nothing else.

    `step` is the only clock: it names the checkpoint, the position in the data and
    the random numbers of the next step.
    """

    @property
    def step(self) -> jax.Array:
        """int32 scalar, number of finished steps."""
        ...


S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Phase:
    """A section of a step that may be compiled as a program of its own.

    run: (state, carry, frozen, batch, key) -> (state, carry, metrics). `carry` is what
    the phase before hands over (None for the first): a pytree whose arrays have the
    global batch as their first axis, or are scalars.
    """

    name: str
    run: Callable[..., tuple[State, Any, Metrics]]


def composed(
    phases: tuple[Phase, ...],
) -> Callable[[Any, Frozen, Batch, jax.Array], tuple[Any, Metrics]]:
    """The phases as one step."""

    def step(
        state: Any, frozen: Frozen, batch: Batch, key: jax.Array
    ) -> tuple[Any, Metrics]:
        carry, metrics = None, {}
        for phase in phases:
            state, carry, phase_metrics = phase.run(state, carry, frozen, batch, key)
            metrics |= phase_metrics
        return state, metrics

    return step


@dataclass(frozen=True)
class Stage(Generic[S]):
    """One training stage, as the loop sees it.

    Attributes:
        init: (key, start) -> fresh state. Pure and jit-able. Every leaf owns its
            buffer (copy weights that two roles start from: a state is donated).
        start: weights that training starts from; only `init` reads them.
        step: (state, frozen, batch, key) -> (state with step + 1, metrics). Pure; folds
            `state.step` into the key itself; skips an update that is not finite and
            says so in a metric whose name begins with "skipped".
        phases: the same step as several phases; empty where it is not divided.
        frozen: weights that are read only, not yet placed on a mesh.
        sample: (state, frozen, batch, key) -> {column title: image_bhwc in [0, 1]} in
            the order in which the columns are to be shown. Jit-able.
        compared: titles of the columns of `sample` that validation compares: what the
            networks made, and the truth.
        export: (state, frozen, folder): writes the weights folder, replacing an older
            one. Runs on the host.
    """

    init: Callable[[jax.Array, Frozen], S]
    step: Callable[[S, Frozen, Batch, jax.Array], tuple[S, Metrics]]
    frozen: Frozen
    sample: Callable[[S, Frozen, Batch, jax.Array], dict[str, jax.Array]]
    export: Callable[[S, Frozen, Path], None]
    start: Frozen = field(default_factory=dict)
    phases: tuple[Phase, ...] = ()
    compared: tuple[str, str] = ("", "")

    def without_weights(self) -> "Stage[S]":
        """The same stage with shapes in the place of `frozen` and `start`.

        Kept once the weights are on the devices: nothing holds the host's copy then.
        """
        frozen, start = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (self.frozen, self.start)
        )
        return dataclasses.replace(self, frozen=frozen, start=start)
