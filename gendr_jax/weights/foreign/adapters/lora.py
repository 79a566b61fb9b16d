"""LoRA files of PEFT, diffusers and kohya's scripts as side paths, or merged.

``read`` makes side paths of one rank and scale, ``read_modules`` and ``merge`` merge
any LoRA into the base weights.
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
    """Adapters for ``nets.build(UNet, ..., lora=config)`` and ``nets.overlay``.

    Attributes:
        config: rank, alpha and the targets that attach to exactly these modules.
        params: nested, leaves lora_a and lora_b, values as in the file.
        format: of the file.
        left_out: {group: number} of tensors that belong to text encoders.
    """

    config: LoRAConfig
    params: nets.Params
    format: Format
    left_out: dict[str, int]


def kernel_shapes(abstract: nets.Params) -> dict[str, Shape]:
    """{module: torch shape of its weight} of all layers that can have an adapter."""
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
    """Side paths of the base network from opened tensors; see ``read_modules``.

    Raises: InputError as ``read_modules`` does, and when modules differ in rank or
    scale, of which a network has one each.
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
    ranks_and_alphas = Counter((pair.rank, pair.alpha) for pair in pairs.values())
    if len(ranks_and_alphas) > 1:
        descriptions = [
            f"rank {rank} alpha {alpha:g} ({count} modules)"
            for (rank, alpha), count in ranks_and_alphas.most_common()
        ]
        raise InputError(
            "LoRA weights: the modules differ in rank or scale: "
            f"{listed(descriptions)}; side paths have one rank and one scale. Merge "
            "them into the base weights: --merge."
        )
    ((rank, common_alpha),) = ranks_and_alphas
    config = LoRAConfig(rank, common_alpha, _targets(set(pairs), modules))
    factors = {f"{name}.lora_A.weight": pair.down for name, pair in pairs.items()}
    factors |= {f"{name}.lora_B.weight": pair.up for name, pair in pairs.items()}
    params = names.from_torch(factors)
    spelling = recognise(tensors)
    assert spelling is not None  # `read_modules` has refused others
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
    """{module: its pair} of any ranks and scales, for ``merge``.

    Args:
        tensors, peft_config, metadata, alpha: as ``Source``.
        modules: names of the base network's layers with kernels.
        kernel_shapes: their torch weight shapes; see the function of that name.
        ldm: our torch names to LDM's, for kohya files that use those.
    Raises: InputError that names every unsupported setting, or else every tensor that
    does not fit, before the arrays of any pair are read.
    """
    source = Source(tensors, peft_config, metadata or {}, alpha)
    changes = read_changes(source, modules, kernel_shapes, ldm=ldm)
    kinds = Counter(_description(change) for _, change in changes)
    repeated = [m for m, n in Counter(m for m, _ in changes).items() if n > 1]
    if kinds.keys() != {"LoRA"} or repeated:
        description = ", ".join(
            f"{kind} ({count} layers)" for kind, count in kinds.items()
        )
        description += f", {len(repeated)} layers with two adapters" if repeated else ""
        raise InputError(
            f"adapters of {description} cannot be side paths, only LoRA pairs can. "
            "Merge them into the base weights: --merge."
        )
    pairs = {}
    for module, change in changes:
        down, up = _factors(change.tensors, kernel_shapes[module])
        pairs[module] = Pair(
            down, up, down.shape[0] if change.alpha is None else change.alpha
        )
    return pairs


def _description(change: lycoris.Change) -> str:
    if any(name in change.tensors for name in lycoris.MAGNITUDES):
        return "DoRA" if change.algebra == "LoRA" else f"DoRA {change.algebra}"
    return "LoRA with a middle" if "mid" in change.tensors else change.algebra


def merged_kernel(weight: np.ndarray, pair: Pair) -> np.ndarray:
    """A torch weight with the pair added; dtype kept."""
    ndim = weight.ndim
    to_param = names.param_axes(("kernel",), ndim)
    kernel = lora_lib.merge_kernel(
        jnp.asarray(weight.transpose(to_param)),
        jnp.asarray(pair.down.transpose(to_param)),
        jnp.asarray(pair.up.transpose(to_param)),
        pair.scale,
    )
    to_torch = names.torch_axes(("kernel",), ndim)
    return np.ascontiguousarray(np.asarray(kernel).transpose(to_torch))


def merge(
    base: Mapping[str, np.ndarray], pairs: Mapping[str, Pair]
) -> dict[str, np.ndarray]:
    """``base`` (torch names and axes) with every pair added; for --merge."""
    merged = dict(base)
    for module, pair in pairs.items():
        merged[f"{module}.weight"] = merged_kernel(base[f"{module}.weight"], pair)
    return merged


def _factors(
    tensors: Mapping[str, Tensor], kernel: Shape
) -> tuple[np.ndarray, np.ndarray]:
    shapes = pair_shapes(tensors["down"].shape[0], kernel)
    down, up = tensors["down"].read(), tensors["up"].read()
    return down.reshape(shapes[0]), up.reshape(shapes[1])


def _targets(adapted: set[str], modules: list[str]) -> tuple[str, ...]:
    """Targets that match these modules and no other; one of our own lists if possible.

    Targets match as suffixes, so a full name may also match a deeper module.
    """
    module_names = tuple(sorted(adapted))
    for targets in (lora_lib.UNET_TARGETS, lora_lib.ATTENTION_TARGETS, module_names):
        # The rule of ``attach`` itself, so that the two cannot differ.
        matched = {m for m in modules if lora_lib._matches((m,), targets)}
        if matched == adapted:
            return targets
    unadapted = listed(sorted(matched - adapted))
    raise InputError(
        f"LoRA weights: the names of the adapted modules also match {unadapted}, which "
        "the file does not adapt. Merge the LoRA into the base weights: --merge."
    )
