"""LoRA weights of PEFT, diffusers and kohya's scripts as adapters of ours.

``read`` makes adapters that run beside the base, ``read_modules`` and ``merge`` fold
any LoRA into it. Files are taken apart in ``lora_changes.py``, written in
``lora_writing.py``.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from gendr_jax import nets
from gendr_jax.errors import InputError, listed
from gendr_jax.models import lora as lora_lib
from gendr_jax.models.lora import LoRAConfig
from gendr_jax.weights.foreign import names
from gendr_jax.weights.foreign.adapters import lycoris
from gendr_jax.weights.foreign.adapters.lora_changes import (
    Source,
    pair_shapes,
    read_changes,
)
from gendr_jax.weights.foreign.adapters.lora_names import (
    Format,
    left_out,
    recognise,
)
from gendr_jax.weights.foreign.layouts import Layout, Shape
from gendr_jax.weights.foreign.tensors import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """One module's adapter in torch's layout: down [r,I,...], up [O,r,...], alpha."""

    down: np.ndarray
    up: np.ndarray
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True, eq=False)
class Adapters:
    """What ``nets.build(UNet, ..., lora=config)`` and ``nets.overlay`` take.

    Attributes:
        config: rank, alpha and the targets that attach to exactly these modules.
        params: nested, leaves lora_a and lora_b, the file's bits.
        format: of the file.
        left_out: {group: tensors} that belong to text encoders.
    """

    config: LoRAConfig
    params: nets.Params
    format: Format
    left_out: dict[str, int]


def kernel_shapes(abstract: nets.Params) -> dict[str, Shape]:
    """{module: torch shape of its weight} of all layers an adapter could sit on."""
    shapes = names.torch_shapes(abstract)
    return {
        ".".join(path[:-1]): shapes[names.torch_name(path)]
        for path in nets.flatten(abstract)
        if path[-1] == "kernel"
    }


def read(
    tensors: Mapping[str, Tensor],
    modules: list[str],
    kernel_shapes: Mapping[str, Shape],
    *,
    peft_config: dict | None = None,
    metadata: Mapping[str, Any] | None = None,
    ldm: Layout | None = None,
    alpha: float | None = None,
) -> Adapters:
    """Adapters that run beside the base, from opened tensors; see ``read_modules``.

    Raises: InputError as ``read_modules`` does, and when modules differ in rank or
    scale: a network of ours has one of each.
    """
    pairs = read_modules(
        tensors,
        modules,
        kernel_shapes,
        peft_config=peft_config,
        metadata=metadata,
        ldm=ldm,
        alpha=alpha,
    )
    kinds = Counter((pair.rank, pair.alpha) for pair in pairs.values())
    if len(kinds) > 1:
        each = [
            f"rank {rank} alpha {alpha:g} ({count} modules)"
            for (rank, alpha), count in kinds.most_common()
        ]
        raise InputError(
            "LoRA weights: the modules differ in rank or scale: "
            f"{listed(each)}; side paths have one rank and one scale. Fold them into "
            "the base weights: --merge."
        )
    ((rank, scaled),) = kinds
    config = LoRAConfig(rank, scaled, _targets(set(pairs), modules))
    halves = {f"{name}.lora_A.weight": pair.down for name, pair in pairs.items()}
    halves |= {f"{name}.lora_B.weight": pair.up for name, pair in pairs.items()}
    params = names.from_torch(halves)
    spelling = recognise(tensors)
    assert spelling is not None  # `read_modules` refuses the others
    return Adapters(config, params, spelling, left_out(tensors))


def read_modules(
    tensors: Mapping[str, Tensor],
    modules: list[str],
    kernel_shapes: Mapping[str, Shape],
    *,
    peft_config: dict | None = None,
    metadata: Mapping[str, Any] | None = None,
    ldm: Layout | None = None,
    alpha: float | None = None,
) -> dict[str, Pair]:
    """{module: its pair}, of any ranks and scales; ``merge`` takes it.

    Args:
        tensors, peft_config, metadata, alpha: as ``Source``.
        modules: names of the base network's layers with kernels.
        kernel_shapes: their torch weight shapes; see the function of that name.
        ldm: our torch names to LDM's, for kohya files that use those.
    Raises: InputError that names every setting that we cannot follow, or else every
    tensor that does not fit, before the numbers of any pair are read.
    """
    source = Source(tensors, peft_config, metadata or {}, alpha)
    changes = read_changes(source, modules, kernel_shapes, ldm=ldm)
    kinds = Counter(_words(change) for _, change in changes)
    twice = [m for m, n in Counter(m for m, _ in changes).items() if n > 1]
    if kinds.keys() != {"LoRA"} or twice:
        said = ", ".join(f"{kind} ({count} layers)" for kind, count in kinds.items())
        said += f", {len(twice)} layers with two adapters" if twice else ""
        raise InputError(
            f"adapters of {said} cannot run beside the base, only LoRA pairs can. Fold "
            "them into the base weights: --merge."
        )
    pairs = {}
    for module, change in changes:
        down, up = _halves(change.parts, kernel_shapes[module])
        pairs[module] = Pair(
            down, up, down.shape[0] if change.alpha is None else change.alpha
        )
    return pairs


def _words(change: lycoris.Change) -> str:
    if any(name in change.parts for name in lycoris.MAGNITUDES):
        return "DoRA" if change.algebra == "LoRA" else f"DoRA {change.algebra}"
    return "LoRA with a middle" if "mid" in change.parts else change.algebra


def merged_kernel(weight: np.ndarray, pair: Pair) -> np.ndarray:
    """A torch weight that acts as itself plus the pair's side path; dtype kept."""
    ndim = weight.ndim
    ours = names.param_axes(("kernel",), ndim)
    kernel = lora_lib.merge_kernel(
        jnp.asarray(weight.transpose(ours)),
        jnp.asarray(pair.down.transpose(ours)),
        jnp.asarray(pair.up.transpose(ours)),
        pair.scale,
    )
    theirs = names.torch_axes(("kernel",), ndim)
    return np.ascontiguousarray(np.asarray(kernel).transpose(theirs))


def merge(
    base: Mapping[str, np.ndarray], pairs: Mapping[str, Pair]
) -> dict[str, np.ndarray]:
    """``base`` (torch names and layout) with every pair folded in; for --merge."""
    merged = dict(base)
    for module, pair in pairs.items():
        merged[f"{module}.weight"] = merged_kernel(base[f"{module}.weight"], pair)
    return merged


def _halves(
    parts: Mapping[str, Tensor], kernel: Shape
) -> tuple[np.ndarray, np.ndarray]:
    shapes = pair_shapes(parts["down"].shape[0], kernel)
    down, up = parts["down"].read(), parts["up"].read()
    return down.reshape(shapes[0]), up.reshape(shapes[1])


def _targets(adapted: set[str], modules: list[str]) -> tuple[str, ...]:
    """Targets that attach to these modules and no other; a list we have, if one does.

    A full name is also a suffix, so it may fit a deeper module too.
    """
    own = tuple(sorted(adapted))
    for targets in (lora_lib.UNET_TARGETS, lora_lib.ATTENTION_TARGETS, own):
        # The rule of ``attach`` itself: a second one could drift from it.
        fits = {m for m in modules if lora_lib._matches((m,), targets)}
        if fits == adapted:
            return targets
    more = listed(sorted(fits - adapted))
    raise InputError(
        f"LoRA weights: the names of the adapted modules also fit {more}, which the "
        "file does not adapt. Fold the LoRA into the base weights: --merge."
    )
