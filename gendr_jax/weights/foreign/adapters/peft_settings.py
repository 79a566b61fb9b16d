"""PEFT's settings of adapters: adapter_config.json, and metadata of diffusers' files.

Unsupported options that change what an adapter computes are refused.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gendr_jax.errors import InputError, listed
from gendr_jax.models.lora import LoRAConfig

METADATA = "lora_adapter_metadata"

# Options that change what the adapter computes; refused if true or not empty.
UNSUPPORTED = (
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
# Initialisations that leave the base weights unchanged; PiSSA, OLoRA, LoftQ do not.
INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Settings:
    """PEFT's r and lora_alpha, and the modules that have others.

    Attributes:
        rank_stabilised: the scale is alpha / sqrt(rank), not alpha / rank.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rank_stabilised: bool = False

    def of(self, module: str) -> tuple[int, float]:
        """(rank, alpha) of a module, by PEFT's rule: the first pattern that matches.

        Alpha is returned such that the scale is alpha / rank, also if rank-stabilised.
        """
        rank = self.ranks.get(_pattern(self.ranks, module), self.rank)
        alpha = self.alphas.get(_pattern(self.alphas, module), self.alpha)
        return rank, alpha * math.sqrt(
            rank
        ) if self.rank_stabilised and rank > 0 else alpha


def from_peft(config: dict[str, Any]) -> Settings:
    """The settings in adapter_config.json; InputError with all that is unsupported."""
    problems = [f"{key} {config[key]!r:.80}" for key in UNSUPPORTED if config.get(key)]
    for key, allowed in (
        ("peft_type", ("LORA", None)),
        ("bias", ("none", None)),
        ("init_lora_weights", INITIALISATIONS),
    ):
        if config.get(key) not in allowed:
            problems.append(f"{key} {config[key]!r:.80}, expected {allowed[0]!r}")
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(key) or {}, dict):
            raise InputError(
                f"LoRA settings: {key} is {config[key]!r:.80}, no object. "
                "Download it again."
            )
    for key, patterns, number_type in (
        ("r", ranks, int),
        ("lora_alpha", alphas, int | float),
    ):
        for name, value in {key: config.get(key), **patterns}.items():
            if not isinstance(value, number_type) or isinstance(value, bool):
                printable = name if name.isprintable() else repr(name)
                problems.append(f"{printable} {value!r:.80} is no number")
    problems += [f"pattern {p!r}" for p in {**ranks, **alphas} if not _compiles(p)]
    if problems:
        raise InputError(
            f"LoRA settings: {len(problems)} cannot be used: {listed(problems)}. "
            "Merge the adapter into its base with PEFT and use the merged weights."
        )
    rank_stabilised = config.get("use_rslora", False)
    return Settings(
        config["r"], config["lora_alpha"], ranks, alphas, bool(rank_stabilised)
    )


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
    is_integer = float(config.alpha).is_integer()
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if is_integer else config.alpha,
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
