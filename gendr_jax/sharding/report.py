"""What a table of rules does to a tree: bytes by role, and what it leaves whole."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from gendr_jax.sharding.rules import RULES, Placement, matching, path_name

_SHOWN = 5
_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Part:
    """One first part of the paths (a role). Bytes."""

    whole: int
    per_device: int
    replicated: int  # of per_device: arrays that every device holds whole


@dataclasses.dataclass(frozen=True)
class Report:
    """How a tree lies on a mesh.

    Attributes:
        parts: {role: bytes}.
        indivisible: arrays large enough to be split, of which no axis divides.
        unmatched: rules that decided about no array, in their order.
    """

    parts: dict[str, Part]
    indivisible: tuple[str, ...]
    unmatched: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people: a line a role, and a line for each kind of surprise."""
        found = [
            f"{role}: {part.whole / _MIB:.1f} MiB, {part.per_device / _MIB:.1f} on a "
            f"device, {part.replicated / _MIB:.1f} of them replicated"
            for role, part in self.parts.items()
        ]
        for what, names in (
            ("no axis divides", self.indivisible),
            ("rules without an array", self.unmatched),
        ):
            if names:
                more = len(names) - _SHOWN
                tail = f" and {more} more" if more > 0 else ""
                found.append(f"{what}: {', '.join(names[:_SHOWN])}{tail}")
        return found


def report(trees: dict[str, Any], placement: Placement) -> Report:
    """The report of several trees, each under its role ("" for a whole state)."""
    parts: dict[str, Part] = {}
    indivisible: list[str] = []
    used: set[int] = set()
    for role, tree in trees.items():
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
        for path, leaf in leaves:
            name = "/".join(filter(None, (role, path_name(path))))
            used.add(matching(name, placement.rules + RULES))
            spec = placement.spec(name, leaf.shape)
            sharding = jax.sharding.NamedSharding(placement.mesh, spec)
            item = _itemsize(leaf.dtype)
            size = math.prod(leaf.shape) * item
            here = math.prod(sharding.shard_shape(leaf.shape)) * item
            alone = sharding.is_fully_replicated
            first = name.split("/")[0]
            old = parts.get(first, Part(0, 0, 0))
            parts[first] = Part(
                old.whole + size,
                old.per_device + here,
                old.replicated + (here if alone else 0),
            )
            wants = _splits(name, placement) and leaf.size >= placement.min_size
            if wants and alone:
                indivisible.append(name)
    unmatched = [p for i, (p, _) in enumerate(placement.rules) if i not in used]
    return Report(parts, tuple(indivisible), tuple(unmatched))


def _splits(name: str, placement: Placement) -> bool:
    """Whether the rule of this array would split it if it could."""
    _, how = (placement.rules + RULES)[matching(name, placement.rules + RULES)]
    axes = how.removeprefix("split:").split("+")
    shape = placement.mesh.shape
    return how.startswith("split:") and math.prod(shape.get(a, 1) for a in axes) > 1


def _itemsize(dtype: Any) -> int:
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return 8  # two words of threefry
    return np.dtype(dtype).itemsize
