"""Which array is split how: one ordered table of path patterns, and its defaults.

A path begins with the role: `frozen/unet/...`, `generator/params/unet/...`,
`generator/opt/...`, `fake/params/...`, `ema/...`. The first rule whose pattern is found
in it decides. A rule's second half is one of

    replicated        every device holds it whole
    split:fsdp        its largest axis that divides is split over fsdp; several mesh
    split:data+fsdp   axes are joined by +
    -,-,-,fsdp        axis by axis: "-" is whole, else mesh axes joined by +
    -,model;split:fsdp  axis by axis, then the largest axis that still divides

The default rule looks at shapes only, so weights, gradients, moments and averages are
placed alike.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gendr_jax.errors import UsageError
from gendr_jax.sharding.mesh import FSDP, FSDP_OUTER, MODEL, NAMED

# Below this many elements an array is replicated: a gather costs more than it saves.
MIN_SHARDED_SIZE = 4096
SPLIT, WHOLE, NOT, THEN = "split:", "replicated", "-", ";"

# (pattern searched in the path, how), first match first.
Rules = tuple[tuple[str, str], ...]
RULES: Rules = (
    (r"(^|/)prompt(/|$)", WHOLE),  # read whole by every sample of the batch
    (r"", f"{SPLIT}{FSDP}"),
)
# The default of `config.sharding.rules`: heads of self-attention and hidden channels
# over `model`, what enters them by columns and what leaves them by rows. The kernel
# before a gate is split where it is used (models/transformer.py), since half of its
# columns belong to the gate.
TENSOR_RULES: Rules = (
    (r"/attn1/to_[qkv]/kernel$", f"{NOT},{MODEL}{THEN}{SPLIT}{FSDP}"),
    (r"/attn1/to_out/0/kernel$", f"{MODEL},{NOT}{THEN}{SPLIT}{FSDP}"),
    (r"/ff/net/2/kernel$", f"{MODEL},{NOT}{THEN}{SPLIT}{FSDP}"),
)


@dataclasses.dataclass(frozen=True)
class Placement:
    """A mesh and the rules for it: all that decides where an array lives.

    Attributes:
        mesh: from `make_mesh`.
        rules: tried before `RULES`.
        min_size: elements; smaller arrays are split by explicit rules only.
        on_host: patterns; arrays of at least one axis whose path has one of them live
            in the host's memory (`pinned_host`), split like those on devices.
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
            found = NamedSharding(self.mesh, self.spec(name, leaf.shape))
            hosted = len(leaf.shape) > 0 and any(
                re.search(p, name) for p in self.on_host
            )
            return found.with_memory_kind("pinned_host") if hosted else found

        return jax.tree_util.tree_map_with_path(place, tree)

    def spec(self, name: str, shape: Sequence[int]) -> PartitionSpec:
        """The PartitionSpec of the array called `name`."""
        rule = matching(name, self.rules + RULES)
        _, how = (self.rules + RULES)[rule]
        if how == WHOLE:
            return PartitionSpec()
        entries, _, rest = (
            ("", "", how) if how.startswith(SPLIT) else how.partition(THEN)
        )
        taken: list[list[str]] = [[] for _ in shape]
        if entries:
            taken = self._explicit(name, tuple(shape), entries)
        if rest and math.prod(shape) >= self.min_size:
            parts = [self._parts(axes) for axes in taken]
            left = tuple(n // k for n, k in zip(shape, parts, strict=True))
            taken = self._largest(left, rest.removeprefix(SPLIT).split("+"), taken)
        return _spec(taken)

    def _largest(
        self, shape: tuple[int, ...], axes: list[str], taken: list[list[str]]
    ) -> list[list[str]]:
        """Split the largest axis that divides (the last of equals) further.

        Where none divides by all mesh axes together, each of them takes the largest
        axis that it divides, the largest mesh axis first.
        """
        axes = self._expand(axes)
        if not axes:
            return taken
        left, taken = list(shape), [list(names) for names in taken]
        together = any(size % self._parts(axes) == 0 for size in shape)
        by_size = sorted(axes, key=lambda axis: -self.mesh.shape[axis])
        for group in [axes] if together else [[axis] for axis in by_size]:
            parts = self._parts(group)
            fits = [(size, i) for i, size in enumerate(left) if size % parts == 0]
            if fits:
                _, i = max(fits)
                left[i] //= parts
                taken[i] += group
        return taken

    def _explicit(self, name: str, shape: tuple[int, ...], how: str) -> list[list[str]]:
        entries = how.split(",")
        if len(entries) != len(shape):
            raise UsageError(
                f"sharding rule {how!r} has {len(entries)} entries, {name} has shape "
                f"{shape}. Narrow the pattern, or give one entry an axis."
            )
        found = []
        for size, entry in zip(shape, entries, strict=True):
            named = [] if entry.strip() == NOT else entry.strip().split("+")
            axes = self._expand(named)
            if size % self._parts(axes):
                raise UsageError(
                    f"sharding rule {how!r} splits an axis of {size} of {name} "
                    f"{self._parts(axes)} ways. Narrow the pattern, or take an axis "
                    "that divides."
                )
            found.append(axes)
        return found

    def _expand(self, axes: Sequence[str]) -> list[str]:
        """Mesh axes of more than one device; fsdp stands for both of its axes."""
        both = [FSDP_OUTER, FSDP]
        named = [a for axis in axes for a in (both if axis == FSDP else [axis])]
        return [axis for axis in named if self.mesh.shape.get(axis, 1) > 1]

    def _parts(self, axes: Sequence[str]) -> int:
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
                "Mend it."
            ) from error
        _check_how(pattern, how)


def matching(name: str, rules: Rules) -> int:
    """The number of the first rule whose pattern is found in `name`."""
    return next(i for i, (pattern, _) in enumerate(rules) if re.search(pattern, name))


def path_name(path: tuple[Any, ...]) -> str:
    """A key path of jax.tree_util as `student/params/conv_in/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _spec(axes: Sequence[Sequence[str]]) -> PartitionSpec:
    """One entry an array axis; trailing whole ones are left out."""
    entries = [a[0] if len(a) == 1 else tuple(a) or None for a in axes]
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def _check_how(pattern: str, how: str) -> None:
    if how == WHOLE:
        return
    first, then, rest = how.partition(THEN)
    if not then and first.startswith(SPLIT):
        first, rest = "", first
    entries = [name.strip() for name in re.split(r"[+,]", first)] if first else []
    known = {*entries} <= {*NAMED, NOT} and (bool(first) or not then)
    if rest or then:
        known &= rest.startswith(SPLIT)
        known &= {*rest.removeprefix(SPLIT).split("+")} <= {*NAMED}
    if not known:
        raise UsageError(
            f"sharding rule for {pattern!r} is {how!r}, expected {WHOLE!r}, "
            f"'{SPLIT}fsdp', '{SPLIT}data+fsdp', an entry an axis such as '-,fsdp', "
            f"or both as in '-,model{THEN}{SPLIT}fsdp', of {', '.join(NAMED)}. Mend it."
        )
