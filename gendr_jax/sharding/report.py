"""What sharding rules do to a state: bytes by role, unsplit arrays, unused rules."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from gendr_jax.sharding.rules import RULES, Placement, matching, path_name

_SHOWN = 5
_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class RoleBytes:
    """Bytes of one role: of the arrays whose path begins with its name."""

    total: int
    per_device: int
    replicated: int  # of per_device: arrays that every device holds in full


@dataclasses.dataclass(frozen=True)
class Report:
    """How a tree is sharded over a mesh.

    Attributes:
        roles: {role: bytes}.
        indivisible: arrays large enough to be split, of which no axis divides.
        unmatched: rules that matched no array first, in their order.
    """

    roles: dict[str, RoleBytes]
    indivisible: tuple[str, ...]
    unmatched: tuple[str, ...]

    def lines(self) -> list[str]:
        """Lines for a log: one a role, one each for unsplit arrays and unused rules."""
        lines = [
            f"{role}: {size.total / _MIB:.1f} MiB, {size.per_device / _MIB:.1f} on a "
            f"device, {size.replicated / _MIB:.1f} of them replicated"
            for role, size in self.roles.items()
        ]
        for what, names in (
            ("no axis divides", self.indivisible),
            ("rules without an array", self.unmatched),
        ):
            if names:
                more = len(names) - _SHOWN
                tail = f" and {more} more" if more > 0 else ""
                lines.append(f"{what}: {', '.join(names[:_SHOWN])}{tail}")
        return lines


def report(trees: dict[str, Any], placement: Placement) -> Report:
    """The report of several trees by role ("" for a state whose paths name roles)."""
    roles: dict[str, RoleBytes] = {}
    indivisible: list[str] = []
    used: set[int] = set()
    for role, tree in trees.items():
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
        for path, leaf in leaves:
            name = "/".join(filter(None, (role, path_name(path))))
            used.add(matching(name, placement.rules + RULES))
            spec = placement.spec(name, leaf.shape)
            sharding = jax.sharding.NamedSharding(placement.mesh, spec)
            itemsize = _itemsize(leaf.dtype)
            size = math.prod(leaf.shape) * itemsize
            per_device = math.prod(sharding.shard_shape(leaf.shape)) * itemsize
            replicated = sharding.is_fully_replicated
            role_name = name.split("/")[0]
            before = roles.get(role_name, RoleBytes(0, 0, 0))
            roles[role_name] = RoleBytes(
                before.total + size,
                before.per_device + per_device,
                before.replicated + (per_device if replicated else 0),
            )
            rule_splits = _splits(name, placement) and leaf.size >= placement.min_size
            if rule_splits and replicated:
                indivisible.append(name)
    unmatched = [p for i, (p, _) in enumerate(placement.rules) if i not in used]
    return Report(roles, tuple(indivisible), tuple(unmatched))


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
