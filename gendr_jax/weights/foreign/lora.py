"""LoRA weights of PEFT, diffusers and kohya's scripts, to our adapters and back.

``read`` makes adapters that run beside the base, ``read_modules`` and ``merge`` fold
any LoRA into it, ``to_peft`` and ``to_diffusers`` write.
"""

import dataclasses
import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from gendr_jax import nets
from gendr_jax.errors import InputError
from gendr_jax.models import lora as lora_lib
from gendr_jax.models.lora import LoRAConfig
from gendr_jax.weights.foreign import lycoris, names
from gendr_jax.weights.foreign.layouts import Layout, Shape
from gendr_jax.weights.foreign.messages import listed
from gendr_jax.weights.foreign.tensors import Tensor

Format = Literal["peft", "diffusers", "kohya"]
Parts = dict[str, Tensor]  # by the names of ``lycoris.PARTS``

PREFIX: dict[Format, str] = {
    "peft": "base_model.model.",
    "diffusers": "unet.",
    "kohya": "lora_unet_",
}
HALVES = {
    "lora_A": "down",
    "lora_B": "up",
    "lora_down": "down",
    "lora_up": "up",
    "lora_mid": "mid",
}
MAGNITUDE = {"lora_magnitude_vector": "magnitude"}
# Parts that are the last word of a name; norms have their differences under w_ and b_.
SINGLE = {
    **{name: name for name in (*lycoris.LOHA, *lycoris.LOKR, *lycoris.DIFF)},
    "dora_scale": "dora_scale",
    "lora_magnitude_vector": "magnitude",
    "w_norm": "diff",
    "b_norm": "diff_b",
}
# One of these makes a file one of adapters.
MARKS = ("down", "up", "hada_w1_a", "lokr_w1", "lokr_w1_a", "lokr_w2", "diff")
UNREAD = {"oft_": "OFT", "boft": "BOFT", "on_input": "IA3", "a1.weight": "GLoRA"}
HINTS = 8  # a search for the nearest name takes a while; a foreign file has hundreds


def recognise(stored: Iterable[str]) -> Format | None:
    """Who wrote tensors of these names; None: they are no LoRA that we know."""
    stored = list(stored)
    if any(name.startswith(PREFIX["peft"]) for name in stored):
        return "peft"
    if any(name.startswith((PREFIX["kohya"], "lora_te")) for name in stored):
        return "kohya"
    parsed = [parse(name) for name in stored]
    marks = {found.part for found in parsed if found} & set(MARKS)
    return "diffusers" if marks else None


def left_out(stored: Iterable[str]) -> dict[str, int]:
    """{group: count} of the tensors for text encoders, which we have none of."""
    groups = (_text_group(name) for name in stored)
    return dict(Counter(group for group in groups if group))


def spellings(
    kind: Format, modules: list[str], ldm: Layout | None = None
) -> dict[str, str]:
    """{name in the file: module}; kohya's joins diffusers' or LDM's with "_"."""
    if kind != "kohya":
        return {name: name for name in modules}
    index = {name.replace(".", "_"): name for name in modules}
    for name in modules if ldm is not None else ():
        place = ldm.get(f"{name}.weight")
        if place is not None and place.rows is None:
            index[place.name.removesuffix(".weight").replace(".", "_")] = name
    return index


@dataclasses.dataclass(frozen=True)
class Name:
    """A tensor's name taken apart: layer, the adapter's own name, and the part."""

    module: str
    adapter: str
    part: str


def by_module(
    tensors: Mapping[str, Tensor], kind: Format, index: Mapping[str, str]
) -> tuple[dict[tuple[str, str], Parts], list[str]]:
    """{(module, adapter): {part: tensor}} and what has no place there."""
    found: dict[tuple[str, str], Parts] = {}
    problems, strange = [], {}
    for name in sorted(tensors):
        if _text_group(name):
            continue
        said = parse(name.removeprefix(PREFIX[kind]))
        module = None if said is None else index.get(said.module)
        if said is None:
            problems.append(f"{name} is no part of a LoRA pair{_algebra_hint(name)}")
        elif module is None:
            strange.setdefault(said.module, name)
        else:
            parts = found.setdefault((module, said.adapter), {})
            if said.part in parts:
                problems.append(f"{name} and {parts[said.part].name} are the same")
            parts[said.part] = tensors[name]
    for number, (spelled, name) in enumerate(strange.items()):
        near = difflib.get_close_matches(spelled, index, 1) if number < HINTS else ()
        hint = f" (nearest: {near[0]})" if near else ""
        problems.append(f"{name}: the base has no layer {spelled}{hint}")
    return found, problems


def _algebra_hint(name: str) -> str:
    word = next((w for mark, w in UNREAD.items() if mark in name), None)
    return f" ({word} is not supported)" if word else ""


def _text_group(name: str) -> str | None:
    first = name.partition(".")[0]
    if first.startswith("lora_te"):
        return "_".join(first.split("_")[:2])
    return first if first.startswith("text_encoder") else None


def parse(name: str) -> Name | None:
    """The name without its prefix, taken apart; None: it is of no adapter."""
    *module, last = [part for part in name.split(".") if part != "processor"]
    if last == "alpha":
        return Name(_plain(module), "", last)
    if last in SINGLE:
        return Name(_plain(module), "", SINGLE[last])
    if module and module[-1] in HALVES | MAGNITUDE and last != "weight":
        return _half(module, last)  # lora_magnitude_vector.default, without .weight
    if last != "weight" or len(module) < 2:
        return None
    adapter = module.pop() if module[-2] in HALVES | MAGNITUDE else ""
    if not adapter and module[-1] in ("down", "up") and module[-2].endswith("lora"):
        part = module.pop()
        return Name(_plain(module), "", part)
    return _half(module, adapter)


def _half(module: list[str], adapter: str) -> Name | None:
    part = (HALVES | MAGNITUDE).get(module[-1])
    adapter = "" if adapter == "default" else adapter  # PEFT's own name of an adapter
    return None if part is None else Name(".".join(module[:-1]), adapter, part)


def _plain(module: list[str]) -> str:
    """["attn1", "to_out_lora"] -> "attn1.to_out.0", ["ff", "lora"] -> "ff"."""
    *parent, last = module or [""]
    if last == "lora":
        return ".".join(parent)
    layer = last.removesuffix("_lora")
    return ".".join([*parent, "to_out.0" if last == "to_out_lora" else layer])


METADATA = "lora_adapter_metadata"

# Options that change what the adapter computes; true or filled, we cannot follow.
UNKNOWN = (
    "use_qalora",
    "use_bdlora",
    "fan_in_fan_out",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
# Starts that leave the base weights alone; PiSSA, OLoRA, LoftQ and others do not.
STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclasses.dataclass(frozen=True)
class Settings:
    """PEFT's r and lora_alpha, and the modules that have others.

    Attributes:
        root: rank-stabilised: the scale is alpha over the root of the rank.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    root: bool = False

    def of(self, module: str) -> tuple[int, float]:
        """(rank, alpha) of a module, by PEFT's rule: the first pattern that matches.

        Alpha is so that the scale is alpha / rank, whatever the settings divide by.
        """
        rank = self.ranks.get(_pattern(self.ranks, module), self.rank)
        alpha = self.alphas.get(_pattern(self.alphas, module), self.alpha)
        return rank, alpha * math.sqrt(rank) if self.root and rank > 0 else alpha


def from_peft(raw: dict[str, Any]) -> Settings:
    """The meaning of adapter_config.json; InputError that names all we do not do."""
    wrong = [f"{key} {raw[key]!r:.80}" for key in UNKNOWN if raw.get(key)]
    for key, allowed in (
        ("peft_type", ("LORA", None)),
        ("bias", ("none", None)),
        ("init_lora_weights", STARTS),
    ):
        if raw.get(key) not in allowed:
            wrong.append(f"{key} {raw[key]!r:.80}, expected {allowed[0]!r}")
    ranks, alphas = raw.get("rank_pattern") or {}, raw.get("alpha_pattern") or {}
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(raw.get(key) or {}, dict):
            raise InputError(
                f"LoRA settings: {key} is {raw[key]!r:.80}, no object. Download again."
            )
    for key, patterns, kind in (
        ("r", ranks, int),
        ("lora_alpha", alphas, int | float),
    ):
        for name, value in {key: raw.get(key), **patterns}.items():
            if not isinstance(value, kind) or isinstance(value, bool):
                shown = name if name.isprintable() else repr(name)
                wrong.append(f"{shown} {value!r:.80} is no number")
    wrong += [f"pattern {p!r}" for p in {**ranks, **alphas} if not _compiles(p)]
    if wrong:
        raise InputError(
            f"LoRA settings: {len(wrong)} cannot be used: {listed(wrong)}. "
            "Merge the adapter into its base with PEFT and use the merged weights."
        )
    root = raw.get("use_rslora", False)
    return Settings(raw["r"], raw["lora_alpha"], ranks, alphas, bool(root))


def from_metadata(metadata: Mapping[str, str], prefix: str) -> Settings | None:
    """The settings in a diffusers file's metadata, if it has them.

    Keys carry ``prefix`` when a pipeline wrote the file, none when the network did.
    """
    if METADATA not in metadata:
        return None
    try:
        raw = json.loads(metadata[METADATA])
    except ValueError as error:
        raise InputError(
            f"LoRA file: its {METADATA} is not JSON ({error}). Download it again."
        ) from error
    raw = raw if isinstance(raw, dict) else {}
    marked = {k.removeprefix(prefix): v for k, v in raw.items() if k.startswith(prefix)}
    raw = marked or raw
    return from_peft(raw) if "r" in raw else None


def dump(config: LoRAConfig) -> dict[str, Any]:
    """The content of adapter_config.json."""
    whole = float(config.alpha).is_integer()
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if whole else config.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(config.targets),
        "bias": "none",
    }


def dump_metadata(config: LoRAConfig, prefix: str) -> dict[str, str]:
    """The metadata of a diffusers file."""
    marked = {prefix + key: value for key, value in dump(config).items()}
    return {"format": "pt", METADATA: json.dumps(marked, indent=2, sort_keys=True)}


def _pattern(patterns: Mapping[str, Any], module: str) -> str:
    hits = (p for p in patterns if re.match(rf"(.*\.)?({p})$", module))
    return next(hits, module)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(rf"(.*\.)?({pattern})$")
    except re.error:
        return False
    return True


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
    return Adapters(config, params, recognise(tensors), left_out(tensors))


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
    return changes


def _change(parts: Parts, alpha: float | None) -> lycoris.Change:
    algebra = lycoris.algebra(parts)
    assert algebra is not None  # _misfits has refused it
    return lycoris.Change(algebra, parts, alpha)


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
    return tensors, dump(config)


def to_diffusers(
    config: LoRAConfig, params: nets.Params
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of one file for diffusers' ``load_lora_weights``.

    Alpha is in the metadata alone: diffusers refuses ``.alpha`` beside these names.
    """
    prefix = PREFIX["diffusers"]
    tensors = {prefix + n: a for n, a in names.to_torch(params).items()}
    return tensors, dump_metadata(config, prefix)


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
        return from_peft(peft_config)
    if kind == "diffusers":
        return from_metadata(metadata, PREFIX[kind])
    return None


def _expected(rank: int, kernel: Shape) -> tuple[Shape, Shape]:
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
    for half, shape in zip(halves, _expected(rank, kernel), strict=True):
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


def _halves(parts: Parts, kernel: Shape) -> tuple[np.ndarray, np.ndarray]:
    shapes = _expected(parts["down"].shape[0], kernel)
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
