"""Where each of our tensors stands in files that other programs wrote.

A ``Layout`` is one table, our torch name to a place in the foreign file, read in both
directions: ``gather`` takes foreign tensors apart, ``scatter`` puts them together. It
is made from the shape of the network, never from patterns.
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
        shape: of the foreign tensor, whole.
        rows: (start, stop) along its first axis, where several of ours are stacked in
            it; None: it is ours alone, reshaped at most.
    """

    name: str
    shape: Shape
    rows: tuple[int, int] | None = None


Layout = dict[str, StoredTensor]  # our torch name -> its place


def identity(shapes: Mapping[str, Shape]) -> Layout:
    """The layout of files that use our names (diffusers, transformers)."""
    return {name: StoredTensor(name, shape) for name, shape in shapes.items()}


def foreign_shapes(layout: Layout) -> dict[str, Shape]:
    """{foreign name: shape} of all that the layout needs."""
    return {place.name: place.shape for place in layout.values()}


def gather(
    layout: Layout,
    shapes: Mapping[str, Shape],
    name: str,
    read: Callable[[str], np.ndarray],
) -> np.ndarray:
    """Our tensor ``name`` of shape ``shapes[name]``; ``read`` gives foreign ones."""
    place = layout[name]
    array = read(place.name)
    if place.rows is not None:
        array = array[slice(*place.rows)]
    return array.reshape(shapes[name])


def scatter(layout: Layout, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of ``gather`` over all names: foreign tensors from ours."""
    stacked: dict[str, list[tuple[int, np.ndarray]]] = {}
    for name, place in layout.items():
        start = 0 if place.rows is None else place.rows[0]
        stacked.setdefault(place.name, []).append((start, tensors[name]))
    shapes = foreign_shapes(layout)
    return {
        name: np.concatenate(
            [part for _, part in sorted(parts, key=lambda p: p[0])]
        ).reshape(shapes[name])
        for name, parts in stacked.items()
    }


REPAIR = "Use a whole checkpoint of this kind."


def shape_of(
    shapes: Mapping[str, Shape], name: str, ndims: Sequence[int]
) -> tuple[int, ...]:
    """The shape of a tensor that has to be there, with one of ``ndims`` axes."""
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


def all_same(what: str, values: Sequence[int]) -> int:
    """The one value of a list; ``what`` says what it counts."""
    if len(set(values)) != 1:
        raise InputError(f"{what} are {list(values)}, expected one number. {REPAIR}")
    return values[0]
