"""Layouts: tables from our torch names to tensors of a foreign file.

One table serves both directions: ``gather`` takes our tensors from foreign ones,
``scatter`` makes foreign tensors of ours. It is generated from a network's
configuration, never from patterns of names.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gendr_jax.errors import InputError

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One of our tensors in a foreign file.

    Attributes:
        name: of the foreign tensor.
        shape: of the foreign tensor.
        rows: (start, stop) along its first axis, where several of ours are stacked in
            it (q, k and v); None: it holds one of ours, reshaped at most.
    """

    name: str
    shape: Shape
    rows: tuple[int, int] | None = None


Layout = dict[str, StoredTensor]  # by our torch name


def identity(shapes: Mapping[str, Shape]) -> Layout:
    """The layout of files that use our names (diffusers, transformers)."""
    return {name: StoredTensor(name, shape) for name, shape in shapes.items()}


def foreign_shapes(layout: Layout) -> dict[str, Shape]:
    """{foreign name: shape} of all tensors of the layout."""
    return {stored.name: stored.shape for stored in layout.values()}


def gather(
    layout: Layout,
    shapes: Mapping[str, Shape],
    name: str,
    read: Callable[[str], np.ndarray],
) -> np.ndarray:
    """Our tensor ``name`` of shape ``shapes[name]``; ``read`` gives foreign ones."""
    stored = layout[name]
    array = read(stored.name)
    if stored.rows is not None:
        array = array[slice(*stored.rows)]
    return array.reshape(shapes[name])


def scatter(layout: Layout, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of ``gather`` over all names: foreign tensors from ours."""
    # Sorted by the first row: the table need not list stacked tensors in order.
    stacked: dict[str, list[tuple[int, np.ndarray]]] = {}
    for name, stored in layout.items():
        start = 0 if stored.rows is None else stored.rows[0]
        stacked.setdefault(stored.name, []).append((start, tensors[name]))
    shapes = foreign_shapes(layout)
    return {
        name: np.concatenate(
            [piece for _, piece in sorted(pieces, key=lambda piece: piece[0])]
        ).reshape(shapes[name])
        for name, pieces in stacked.items()
    }


REPAIR = "Use a complete checkpoint of this kind."


def shape_of(
    shapes: Mapping[str, Shape], name: str, ndims: Sequence[int]
) -> tuple[int, ...]:
    """The shape of a required tensor; its number of axes must be in ``ndims``."""
    if name not in shapes:
        raise InputError(f"{name} is not among the {len(shapes)} tensors. {REPAIR}")
    shape = shapes[name]
    if (
        not isinstance(shape, Sequence)
        or len(shape) not in ndims
        or not all(isinstance(size, int) and size > 0 for size in shape)
    ):
        axes = " or ".join(str(n) for n in ndims)
        raise InputError(f"{name} has shape {shape}, expected {axes} axes. {REPAIR}")
    return tuple(shape)


def all_same(quantity: str, values: Sequence[int]) -> int:
    """The single value of a list of equal ones; ``quantity`` names it in the error."""
    if len(set(values)) != 1:
        raise InputError(
            f"{quantity} are {list(values)}, expected one number. {REPAIR}"
        )
    return values[0]
