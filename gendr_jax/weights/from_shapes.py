"""Reading the shapes of a foreign file that may be anything: found, or refused by name.

What lives here: what the inference of configurations shares (``ldm.py``,
``dinov2_hub.py``). What the shapes mean is theirs.
"""

from collections.abc import Mapping, Sequence

from gendr_jax.errors import InputError
from gendr_jax.weights.layouts import Shape

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
