"""LoRA weights of PEFT, diffusers and kohya's scripts, to our adapters and back.

``read`` makes adapters that run beside the base, ``read_modules`` and ``merge`` fold
any LoRA into it, ``to_peft`` and ``to_diffusers`` write. What lives here: which tensors
belong together, their shapes and scales. What does not: their names
(``lora_names.py``), PEFT's settings (``lora_settings.py``), files (``tensors.py``).
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from gendr_jax import nets
from gendr_jax.errors import InputError
from gendr_jax.models import lora as lora_lib
from gendr_jax.models.lora import LoRAConfig
from gendr_jax.weights import lora_names, lora_settings, names
from gendr_jax.weights.layouts import Layout, Shape
from gendr_jax.weights.lora_names import PREFIX, Format, Parts, left_out, recognise
from gendr_jax.weights.tensors import Tensor

FLOATS = ("float64", "float32", "float16", "bfloat16")


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
    metadata: dict[str, str] | None = None,
    ldm: Layout | None = None,
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
    )
    kinds = Counter((pair.rank, pair.alpha) for pair in pairs.values())
    if len(kinds) > 1:
        listed = ", ".join(
            f"rank {rank} alpha {alpha:g} ({count} modules)"
            for (rank, alpha), count in kinds.most_common()
        )
        raise InputError(
            f"LoRA weights: the modules differ in rank or scale: {listed}; side paths "
            "have one rank and one scale. Fold them into the base weights: --merge."
        )
    ((rank, alpha),) = kinds
    config = LoRAConfig(rank, alpha, _targets(set(pairs), modules))
    halves = {f"{name}.lora_A.weight": pair.down for name, pair in pairs.items()}
    halves |= {f"{name}.lora_B.weight": pair.up for name, pair in pairs.items()}
    params = names.from_torch(halves)
    return Adapters(config, params, recognise(tensors), left_out(tensors))


def read_modules(
    tensors: Mapping[str, Tensor],
    modules: list[str],
    kernel_shapes: Mapping[str, Shape],
    *,
    peft_config: dict | None = None,
    metadata: dict[str, str] | None = None,
    ldm: Layout | None = None,
) -> dict[str, Pair]:
    """{module: its pair}, of any ranks and scales; ``merge`` takes it.

    Args:
        tensors: of one file or folder, by name.
        modules: names of the base network's layers with kernels.
        kernel_shapes: their torch weight shapes; see the function of that name.
        peft_config: the content of adapter_config.json; needed with PEFT's names.
        metadata: of the safetensors file.
        ldm: our torch names to LDM's, for kohya files that use those.
    Raises: InputError that names every setting that we cannot follow, or else every
    tensor that does not fit, before the numbers of any pair are read.
    """
    kind = recognise(tensors)
    if kind is None:
        few = ", ".join(sorted(tensors)[:3]) or "none"
        raise InputError(
            f"LoRA weights: none of {len(tensors)} tensors ({few}, ...) is half of a "
            "LoRA pair. Give a PEFT folder, a diffusers or a kohya LoRA file."
        )
    settings = _settings(kind, peft_config, metadata or {})
    index = lora_names.spellings(kind, modules, ldm)
    found, problems = lora_names.by_module(tensors, kind, index)
    if not found and not problems:
        problems.append("no tensor is for the UNet")
    alphas = {}
    for module, parts in found.items():
        wrong = _misfits(module, parts, kernel_shapes[module])
        if not wrong:
            alphas[module], wrong = _alpha(module, parts, settings)
        problems += wrong
    if problems:
        raise InputError(
            f"LoRA weights ({kind}): {len(problems)} problems: {'; '.join(problems)}. "
            "Use a LoRA of linear and convolution layers made for this base network."
        )
    return {
        module: Pair(*_halves(parts, kernel_shapes[module]), alphas[module])
        for module, parts in found.items()
    }


def merged_kernel(weight: np.ndarray, pair: Pair) -> np.ndarray:
    """A torch weight that acts as itself plus the pair's side path; dtype kept."""
    ndim = weight.ndim
    ours = names.param_axes(("kernel",), ndim)
    kernel = lora_lib.merge_kernel(
        weight.transpose(ours),
        pair.down.transpose(ours),
        pair.up.transpose(ours),
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


def to_peft(
    config: LoRAConfig, params: nets.Params
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and adapter_config.json of a folder for ``PeftModel.from_pretrained``."""
    tensors = {PREFIX["peft"] + n: a for n, a in names.to_torch(params).items()}
    return tensors, lora_settings.dump(config)


def to_diffusers(
    config: LoRAConfig, params: nets.Params
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of one file for diffusers' ``load_lora_weights``.

    Alpha is in the metadata alone: diffusers refuses ``.alpha`` beside these names.
    """
    prefix = PREFIX["diffusers"]
    tensors = {prefix + n: a for n, a in names.to_torch(params).items()}
    return tensors, lora_settings.dump_metadata(config, prefix)


def _settings(
    kind: Format, peft_config: dict | None, metadata: Mapping[str, str]
) -> lora_settings.Settings | None:
    """What the file says of rank and alpha apart from its tensors."""
    if kind == "peft" and peft_config is None:
        raise InputError(
            "LoRA weights (peft): adapter_config.json, which holds rank and alpha, is "
            "missing. Put it beside the weights."
        )
    if peft_config is not None:
        return lora_settings.from_peft(peft_config)
    if kind == "diffusers":
        return lora_settings.from_metadata(metadata, PREFIX[kind])
    return None


def _expected(rank: int, kernel: Shape) -> tuple[Shape, Shape]:
    """Torch shapes of down and up."""
    return (rank, *kernel[1:]), (kernel[0], rank, *(1 for _ in kernel[2:]))


def _core(shape: Shape) -> Shape:
    """A 1x1 convolution and a linear layer hold the same numbers."""
    return shape[:2] if all(size == 1 for size in shape[2:]) else shape


def _misfits(module: str, parts: Parts, kernel: Shape) -> list[str]:
    lost = [half for half in ("down", "up") if half not in parts]
    if lost:
        return [f"{module} has no {' and no '.join(lost)} weight"]
    halves = parts["down"], parts["up"]
    problems = [
        f"{half.name} has dtype {half.dtype}, expected a float"
        for half in halves
        if np.dtype(half.dtype).name not in FLOATS
    ]
    rank = max(1, *halves[0].shape[:1], 1)  # of rank 0 there is nothing to scale
    for half, shape in zip(halves, _expected(rank, kernel), strict=True):
        if _core(tuple(half.shape)) != _core(shape):
            problems.append(f"{half.name} has shape {half.shape}, expected {shape}")
    return problems


def _alpha(
    module: str, parts: Parts, settings: lora_settings.Settings | None
) -> tuple[float, list[str]]:
    """Alpha of a module that fits, and what is wrong with it.

    Its own tensor counts before the settings; without either alpha is the rank.
    """
    rank = parts["down"].shape[0]
    said, alpha = (rank, rank) if settings is None else settings.of(module)
    problems = []
    if said != rank:
        problems.append(f"{module} has rank {rank}, its settings say {said}")
    if "alpha" in parts:
        value = np.asarray(parts["alpha"].read()).ravel()
        alpha = float(value[0]) if value.size == 1 else math.nan
    if not math.isfinite(alpha):
        problems.append(f"{module} has alpha {alpha}, expected one number")
    return float(alpha), problems


def _halves(parts: Parts, kernel: Shape) -> tuple[np.ndarray, ...]:
    shapes = _expected(parts["down"].shape[0], kernel)
    halves = parts["down"].read(), parts["up"].read()
    return tuple(h.reshape(s) for h, s in zip(halves, shapes, strict=True))


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
    more = ", ".join(sorted(fits - adapted))
    raise InputError(
        f"LoRA weights: the names of the adapted modules also fit {more}, which the "
        "file does not adapt. Fold the LoRA into the base weights: --merge."
    )
