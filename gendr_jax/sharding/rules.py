"""Sharding rules: an ordered table from path patterns to partition specs.

A path begins with the role: `frozen/unet/...`, `generator/params/unet/...`,
`generator/opt/...`, `fake/params/...`, `ema/...`. The first rule whose pattern matches
(`re.search`) decides. A rule's second half is one of

    replicated        every device holds a full copy
    split:fsdp        its largest axis that divides is split over fsdp; several mesh
    split:data+fsdp   axes are joined by +
    -,-,-,fsdp        axis by axis: "-" is not split, else mesh axes joined by +
    -,model;split:fsdp  axis by axis, then the largest axis that still divides

The default rule depends on shapes only, so weights, gradients, moments and averages
are sharded alike.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gendr_jax.errors import UsageError
from gendr_jax.sharding.mesh import FSDP, FSDP_OUTER, MODEL, SPEC_AXES

# An array of fewer elements is replicated: a gather would cost more than it saves.
MIN_SHARDED_SIZE = 4096
SPLIT, REPLICATED, UNSPLIT, THEN = "split:", "replicated", "-", ";"

# (pattern searched in the path, how it is split), in the order in which they are tried.
Rules = tuple[tuple[str, str], ...]
RULES: Rules = (
    (r"(^|/)prompt(/|$)", REPLICATED),  # every sample of the batch reads all of it
    (r"", f"{SPLIT}{FSDP}"),
)
# The default of `config.sharding.rules`: tensor parallelism as in Megatron-LM. Heads of
# self-attention and hidden channels are split over `model`: kernels into them by
# columns, kernels out of them by rows. The kernel before a gate is split where it is
# used (models/transformer.py), since half of its columns belong to the gate.
TENSOR_RULES: Rules = (
    (r"/attn1/to_[qkv]/kernel$", f"{UNSPLIT},{MODEL}{THEN}{SPLIT}{FSDP}"),
    (r"/attn1/to_out/0/kernel$", f"{MODEL},{UNSPLIT}{THEN}{SPLIT}{FSDP}"),
    (r"/ff/net/2/kernel$", f"{MODEL},{UNSPLIT}{THEN}{SPLIT}{FSDP}"),
)


@dataclasses.dataclass(frozen=True)
class Placement:
    """A mesh and its sharding rules: from an array's path and shape to its sharding.

    Attributes:
        mesh: from `make_mesh`.
        rules: tried before `RULES`.
        min_size: elements; smaller arrays are split by explicit rules only.
        on_host: patterns; arrays of at least one axis whose path matches one of them
            are kept in the host's memory (`pinned_host`), split like those on devices.
    """

    mesh: Mesh
    rules: Rules = ()
    min_size: int = MIN_SHARDED_SIZE
    on_host: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_rules(self.rules)

    def splits(self, axis: str) -> bool:
        """Whether a rule names this mesh axis."""
        return any(axis in how for _, how in self.rules)

    def tree(self, tree: Any, role: str = "") -> Any:
        """A tree like `tree` whose leaves are the shardings of its arrays.

        Args:
            tree: arrays or ShapeDtypeStructs.
            role: what its paths begin with, such as `frozen`; "" where the tree's own
                paths begin with the role.

        Raises:
            UsageError: an explicit rule does not fit the shape of an array.
        """

        def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
            name = "/".join(filter(None, (role, path_name(path))))
            sharding = NamedSharding(self.mesh, self.spec(name, leaf.shape))
            hosted = len(leaf.shape) > 0 and any(
                re.search(p, name) for p in self.on_host
            )
            return sharding.with_memory_kind("pinned_host") if hosted else sharding

        return jax.tree_util.tree_map_with_path(place, tree)

    def spec(self, name: str, shape: Sequence[int]) -> PartitionSpec:
        """The PartitionSpec of the array called `name`."""
        rule = matching(name, self.rules + RULES)
        _, how = (self.rules + RULES)[rule]
        if how == REPLICATED:
            return PartitionSpec()
        explicit, _, largest_rule = (
            ("", "", how) if how.startswith(SPLIT) else how.partition(THEN)
        )
        axis_names: list[list[str]] = [[] for _ in shape]
        if explicit:
            axis_names = self._explicit(name, tuple(shape), explicit)
        # Then the largest axis of the shard that the explicit entries have left.
        if largest_rule and math.prod(shape) >= self.min_size:
            shards = [self._shards(axes) for axes in axis_names]
            shard_shape = tuple(n // k for n, k in zip(shape, shards, strict=True))
            axis_names = self._largest(
                shard_shape, largest_rule.removeprefix(SPLIT).split("+"), axis_names
            )
        return _spec(axis_names)

    def _largest(
        self, shape: tuple[int, ...], axes: list[str], axis_names: list[list[str]]
    ) -> list[list[str]]:
        """Split the largest axis that divides (the last of equals) further.

        Where none divides by all mesh axes together, each of them takes the largest
        axis that it divides, the largest mesh axis first.
        """
        axes = self._expand(axes)
        if not axes:
            return axis_names
        remaining, axis_names = list(shape), [list(names) for names in axis_names]
        together = any(size % self._shards(axes) == 0 for size in shape)
        by_size = sorted(axes, key=lambda axis: -self.mesh.shape[axis])
        for group in [axes] if together else [[axis] for axis in by_size]:
            shards = self._shards(group)
            divisible = [
                (size, i) for i, size in enumerate(remaining) if size % shards == 0
            ]
            if divisible:
                _, i = max(divisible)
                remaining[i] //= shards
                axis_names[i] += group
        return axis_names

    def _explicit(self, name: str, shape: tuple[int, ...], how: str) -> list[list[str]]:
        entries = how.split(",")
        if len(entries) != len(shape):
            raise UsageError(
                f"sharding rule {how!r} has {len(entries)} entries, {name} has shape "
                f"{shape}. Narrow the pattern, or give one entry an axis."
            )
        entry_axes = []
        for size, entry in zip(shape, entries, strict=True):
            entry_names = [] if entry.strip() == UNSPLIT else entry.strip().split("+")
            axes = self._expand(entry_names)
            if size % self._shards(axes):
                raise UsageError(
                    f"sharding rule {how!r} splits an axis of {size} of {name} "
                    f"{self._shards(axes)} ways. Narrow the pattern, or take an axis "
                    "that divides."
                )
            entry_axes.append(axes)
        return entry_axes

    def _expand(self, axes: Sequence[str]) -> list[str]:
        """Mesh axes of more than one device; fsdp stands for both of its axes."""
        both = [FSDP_OUTER, FSDP]
        named = [a for axis in axes for a in (both if axis == FSDP else [axis])]
        return [axis for axis in named if self.mesh.shape.get(axis, 1) > 1]

    def _shards(self, axes: Sequence[str]) -> int:
        return math.prod(self.mesh.shape.get(axis, 1) for axis in axes)


def tree_shardings(
    tree: Any,
    mesh: Mesh,
    *,
    role: str = "",
    rules: Rules = (),
    min_size: int = MIN_SHARDED_SIZE,
) -> Any:
    """`Placement.tree` in one call."""
    return Placement(mesh, rules, min_size).tree(tree, role)


def check_rules(rules: Rules) -> None:
    """Refuse rules that cannot be read.

    Raises:
        UsageError: no regular expression, or no way to split.
    """
    for pattern, how in rules:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(
                f"sharding rule {pattern!r} is no regular expression ({error}). "
                "Correct the pattern."
            ) from error
        _check_how(pattern, how)


def matching(name: str, rules: Rules) -> int:
    """The index of the first rule whose pattern matches `name`."""
    return next(i for i, (pattern, _) in enumerate(rules) if re.search(pattern, name))


def path_name(path: tuple[Any, ...]) -> str:
    """A key path of jax.tree_util as `student/params/conv_in/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _spec(axes: Sequence[Sequence[str]]) -> PartitionSpec:
    """One entry an array axis; trailing unsplit ones are dropped."""
    entries = [a[0] if len(a) == 1 else tuple(a) or None for a in axes]
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def _check_how(pattern: str, how: str) -> None:
    if how == REPLICATED:
        return
    explicit, separator, largest_rule = how.partition(THEN)
    if not separator and explicit.startswith(SPLIT):
        explicit, largest_rule = "", explicit
    entries = [name.strip() for name in re.split(r"[+,]", explicit)] if explicit else []
    valid = {*entries} <= {*SPEC_AXES, UNSPLIT} and (bool(explicit) or not separator)
    if largest_rule or separator:
        valid &= largest_rule.startswith(SPLIT)
        valid &= {*largest_rule.removeprefix(SPLIT).split("+")} <= {*SPEC_AXES}
    if not valid:
        raise UsageError(
            f"sharding rule for {pattern!r} is {how!r}, expected {REPLICATED!r}, "
            f"'{SPLIT}fsdp', '{SPLIT}data+fsdp', an entry an axis such as '-,fsdp', "
            f"or both as in '-,model{THEN}{SPLIT}fsdp', of {', '.join(SPEC_AXES)}. "
            "Correct the rule."
        )
