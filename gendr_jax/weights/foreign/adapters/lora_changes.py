"""Adapter tensors of a file, grouped by layer and checked against a network."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gendr_jax.errors import InputError, UsageError, listed
from gendr_jax.weights.foreign.adapters import lycoris, peft_settings
from gendr_jax.weights.foreign.adapters.lora_names import (
    PREFIX,
    AdapterTensors,
    Format,
    group_by_module,
    recognise,
    spellings,
)
from gendr_jax.weights.foreign.adapters.peft_settings import Settings
from gendr_jax.weights.foreign.layouts import Layout, Shape
from gendr_jax.weights.foreign.tensors import Tensor

FLOATS = ("float64", "float32", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Adapters in files, not yet assigned to layers of a network.

    Attributes:
        tensors: of one file or folder, by name.
        peft_config: the content of adapter_config.json; needed with PEFT's names.
        metadata: of the safetensors file.
        alpha: where neither a tensor nor settings have one; None: the rank.
    """

    tensors: Mapping[str, Tensor]
    peft_config: dict[str, Any] | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    alpha: float | None = None


def read_changes(
    source: Source,
    modules: list[str],
    weight_shapes: Mapping[str, Shape],
    bias_shapes: Mapping[str, Shape] | None = None,
    *,
    ldm: Layout | None = None,
) -> list[tuple[str, lycoris.Change]]:
    """[(module, its change)] of any algebra, checked and not read.

    Raises: as ``read_modules``.
    """
    kind = recognise(source.tensors)
    if kind is None:
        examples = ", ".join(sorted(source.tensors)[:3]) or "none"
        raise InputError(
            f"LoRA weights: none of {len(source.tensors)} tensors ({examples:.120}, "
            "...) is half of a LoRA pair. Give a PEFT folder, a diffusers or a kohya "
            "LoRA file."
        )
    settings = _settings(kind, source.peft_config, source.metadata)
    module_of_name = spellings(kind, modules, ldm)
    by_module_and_adapter, problems = group_by_module(
        source.tensors, kind, module_of_name
    )
    if not by_module_and_adapter and not problems:
        problems.append("no tensor is for this network")
    changes = []
    has_alpha = settings is not None or all(
        "alpha" in tensors for tensors in by_module_and_adapter.values()
    )
    if by_module_and_adapter and has_alpha and source.alpha is not None:
        raise UsageError(
            f"--lora-alpha {source.alpha:g} is for a file that lost its alpha, this "
            "one has it. Leave the flag out, or give --lora-strength."
        )
    for (module, _), tensors in by_module_and_adapter.items():
        shape = weight_shapes[module]
        misfits = _misfits(module, tensors, shape, (bias_shapes or {}).get(module))
        alpha = None
        if not misfits:
            alpha, misfits = _alpha(module, tensors, settings, source.alpha)
        if misfits:
            problems += misfits
        else:
            changes.append((module, _change(tensors, alpha)))
    if problems:
        raise InputError(
            f"LoRA weights ({kind}): {len(problems)} problems: {listed(problems)}. "
            "Use a LoRA of linear and convolution layers made for this base network."
        )
    # Replacements of a weight are applied before what is added to it.
    changes.sort(
        key=lambda by_module_and_adapter: (
            "set_weight" not in by_module_and_adapter[1].tensors
        )
    )
    return changes


def _change(tensors: AdapterTensors, alpha: float | None) -> lycoris.Change:
    algebra = lycoris.algebra(tensors)
    assert algebra is not None  # _misfits has refused it
    return lycoris.Change(algebra, tensors, alpha)


def _settings(
    kind: Format, peft_config: dict | None, metadata: Mapping[str, Any]
) -> Settings | None:
    """Rank and alpha in adapter_config.json or metadata, None without both."""
    if kind == "peft" and peft_config is None:
        raise InputError(
            "LoRA weights (peft): adapter_config.json, which holds rank and alpha, is "
            "missing. Put it into the folder of the weights."
        )
    if peft_config is not None:
        return peft_settings.from_peft(peft_config)
    if kind == "diffusers":
        return peft_settings.from_metadata(metadata, PREFIX[kind])
    return None


def pair_shapes(rank: int, kernel: Shape) -> tuple[Shape, Shape]:
    """Torch shapes of down and up."""
    return (rank, *kernel[1:]), (kernel[0], rank, *(1 for _ in kernel[2:]))


def _core(shape: Shape) -> Shape:
    """The shape without trailing 1x1: of a convolution that is a linear layer."""
    return shape[:2] if all(size == 1 for size in shape[2:]) else shape


def _misfits(
    module: str, tensors: AdapterTensors, kernel: Shape, bias: Shape | None
) -> list[str]:
    if tensors.keys() <= {"down", "up", "alpha"} | set(lycoris.MAGNITUDES):
        missing = [name for name in ("down", "up") if name not in tensors]
        if missing:
            return [f"{module} has no {' and no '.join(missing)} weight"]
    if tensors.keys() <= {"down", "up", "alpha"}:
        return _pair_misfits(tensors, kernel)
    misfit = lycoris.problem(tensors, kernel, bias)
    return [f"{module} {misfit}"] if misfit else []


def _pair_misfits(tensors: AdapterTensors, kernel: Shape) -> list[str]:
    factors = tensors["down"], tensors["up"]
    problems = [
        f"{tensor.name} has dtype {tensor.dtype}, expected a float"
        for tensor in factors
        if np.dtype(tensor.dtype).name not in FLOATS
    ]
    rank = max(1, *factors[0].shape[:1], 1)  # with rank 0 the scale is undefined
    for tensor, shape in zip(factors, pair_shapes(rank, kernel), strict=True):
        if _core(tuple(tensor.shape)) != _core(shape):
            problems.append(f"{tensor.name} has shape {tensor.shape}, expected {shape}")
    return problems


def _alpha(
    module: str,
    tensors: AdapterTensors,
    settings: Settings | None,
    default: float | None,
) -> tuple[float | None, list[str]]:
    """(alpha of a module, problems).

    Its own tensor has precedence over the settings, these over ``default``; without any
    of them alpha is the rank, and the scale 1.
    """
    rank = lycoris.rank(tensors)
    rank_in_settings, alpha = (
        (rank, default) if settings is None else settings.of(module)
    )
    problems = []
    if rank is not None and rank_in_settings != rank:
        problems.append(
            f"{module} has rank {rank}, its settings say {rank_in_settings}"
        )
    if "alpha" in tensors:
        value = np.asarray(tensors["alpha"].read()).ravel()
        alpha = float(value[0]) if value.size == 1 else math.nan
        # So that the scale alpha / rank becomes alpha / sqrt(rank).
        if settings is not None and settings.rank_stabilised and rank:
            alpha *= math.sqrt(rank)
    if alpha is not None and not math.isfinite(alpha):
        problems.append(f"{module} has alpha {alpha}, expected one number")
    return (None if alpha is None else float(alpha)), problems
