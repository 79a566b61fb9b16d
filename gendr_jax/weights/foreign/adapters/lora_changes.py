"""What adapters in a file change, layer by layer: checked against a network, not read.

Names are ``lora_names.py``, settings ``peft_settings.py``, algebra ``lycoris.py``.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gendr_jax.errors import InputError, UsageError, listed
from gendr_jax.weights.foreign.adapters import lycoris, peft_settings
from gendr_jax.weights.foreign.adapters.lora_names import (
    PREFIX,
    Format,
    Parts,
    by_module,
    recognise,
    spellings,
)
from gendr_jax.weights.foreign.adapters.peft_settings import Settings
from gendr_jax.weights.foreign.layouts import Layout, Shape
from gendr_jax.weights.foreign.tensors import Tensor

FLOATS = ("float64", "float32", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Adapters in files, before they meet a network.

    Attributes:
        tensors: of one file or folder, by name.
        peft_config: the content of adapter_config.json; needed with PEFT's names.
        metadata: of the safetensors file.
        alpha: where neither a tensor nor settings say it; None: the rank.
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
    """[(module, what changes it)] of any algebra, checked and not read.

    Raises: as ``read_modules``.
    """
    kind = recognise(source.tensors)
    if kind is None:
        few = ", ".join(sorted(source.tensors)[:3]) or "none"
        raise InputError(
            f"LoRA weights: none of {len(source.tensors)} tensors ({few:.120}, ...) is "
            "half of a LoRA pair. Give a PEFT folder, a diffusers or a kohya LoRA file."
        )
    settings = _settings(kind, source.peft_config, source.metadata)
    index = spellings(kind, modules, ldm)
    found, problems = by_module(source.tensors, kind, index)
    if not found and not problems:
        problems.append("no tensor is for this network")
    changes = []
    said = settings is not None or all("alpha" in parts for parts in found.values())
    if found and said and source.alpha is not None:
        raise UsageError(
            f"--lora-alpha {source.alpha:g} is for a file that lost its alpha, this "
            "one says it. Leave the flag away, or give --lora-strength."
        )
    for (module, _), parts in found.items():
        shape = weight_shapes[module]
        wrong = _misfits(module, parts, shape, (bias_shapes or {}).get(module))
        alpha = None
        if not wrong:
            alpha, wrong = _alpha(module, parts, settings, source.alpha)
        if wrong:
            problems += wrong
        else:
            changes.append((module, _change(parts, alpha)))
    if problems:
        raise InputError(
            f"LoRA weights ({kind}): {len(problems)} problems: {listed(problems)}. "
            "Use a LoRA of linear and convolution layers made for this base network."
        )
    # What replaces a weight comes before what is added to it.
    changes.sort(key=lambda found: "set_weight" not in found[1].parts)
    return changes


def _change(parts: Parts, alpha: float | None) -> lycoris.Change:
    algebra = lycoris.algebra(parts)
    assert algebra is not None  # _misfits has refused it
    return lycoris.Change(algebra, parts, alpha)


def _settings(
    kind: Format, peft_config: dict | None, metadata: Mapping[str, Any]
) -> Settings | None:
    """What the file says of rank and alpha apart from its tensors."""
    if kind == "peft" and peft_config is None:
        raise InputError(
            "LoRA weights (peft): adapter_config.json, which holds rank and alpha, is "
            "missing. Put it beside the weights."
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
    """A 1x1 convolution and a linear layer hold the same numbers."""
    return shape[:2] if all(size == 1 for size in shape[2:]) else shape


def _misfits(module: str, parts: Parts, kernel: Shape, bias: Shape | None) -> list[str]:
    if parts.keys() <= {"down", "up", "alpha"} | set(lycoris.MAGNITUDES):
        lost = [half for half in ("down", "up") if half not in parts]
        if lost:
            return [f"{module} has no {' and no '.join(lost)} weight"]
    if parts.keys() <= {"down", "up", "alpha"}:
        return _pair_misfits(parts, kernel)
    wrong = lycoris.problem(parts, kernel, bias)
    return [f"{module} {wrong}"] if wrong else []


def _pair_misfits(parts: Parts, kernel: Shape) -> list[str]:
    halves = parts["down"], parts["up"]
    problems = [
        f"{half.name} has dtype {half.dtype}, expected a float"
        for half in halves
        if np.dtype(half.dtype).name not in FLOATS
    ]
    rank = max(1, *halves[0].shape[:1], 1)  # of rank 0 there is nothing to scale
    for half, shape in zip(halves, pair_shapes(rank, kernel), strict=True):
        if _core(tuple(half.shape)) != _core(shape):
            problems.append(f"{half.name} has shape {half.shape}, expected {shape}")
    return problems


def _alpha(
    module: str, parts: Parts, settings: Settings | None, lost: float | None
) -> tuple[float | None, list[str]]:
    """Alpha of a module that fits, and what is wrong with it.

    Its own tensor counts before the settings, these before ``lost``; without any alpha
    is the rank, and the scale 1.
    """
    rank = lycoris.rank(parts)
    said, alpha = (rank, lost) if settings is None else settings.of(module)
    problems = []
    if rank is not None and said != rank:
        problems.append(f"{module} has rank {rank}, its settings say {said}")
    if "alpha" in parts:
        value = np.asarray(parts["alpha"].read()).ravel()
        alpha = float(value[0]) if value.size == 1 else math.nan
        if settings is not None and settings.root and rank:
            alpha *= math.sqrt(rank)
    if alpha is not None and not math.isfinite(alpha):
        problems.append(f"{module} has alpha {alpha}, expected one number")
    return (None if alpha is None else float(alpha)), problems
