"""Flags of `gendr convert` that override what sources say; refused without effect."""

import dataclasses
from typing import Any

from gendr_jax.errors import UsageError
from gendr_jax.weights.foreign.single_files import Hints
from gendr_jax.weights.gendr_json import Weights


def applied(weights: Weights, hints: Hints) -> Weights:
    """--prediction and the latent scale override what the sources say.

    Raises:
        UsageError: the sources hold no network that they apply to.
    """
    if hints.prediction is not None:
        if "unet" not in weights.params:
            raise UsageError(
                f"--prediction {hints.prediction} is for a UNet and the sources hold "
                f"{_networks(weights)}. Leave the flag out."
            )
        weights = dataclasses.replace(weights, prediction=hints.prediction)
    overrides = {
        "scaling_factor": hints.scaling_factor,
        "shift_factor": hints.shift_factor,
    }
    overrides = {name: value for name, value in overrides.items() if value is not None}
    if not overrides:
        return weights
    if "vae" not in weights.params:
        flags = ", ".join("--" + name.replace("_", "-") for name in overrides)
        raise UsageError(
            f"{flags} is for an autoencoder and the sources hold {_networks(weights)}. "
            "Leave the flag out."
        )
    vae = dataclasses.replace(weights.configs["vae"], **overrides)
    return dataclasses.replace(weights, configs=weights.configs | {"vae": vae})


def refuse_unused(
    hints: Hints,
    *,
    averaged: bool,
    files: list[str],
    strength: float,
    alpha: float | None,
) -> None:
    """Refuse flags that no source has used.

    Args: ``strength``, ``alpha``: of adapters, where the sources hold none.

    Raises:
        UsageError: --ema yes, --variant, --lora-strength or --lora-alpha.
    """
    if hints.ema == "yes" and not averaged:
        raise UsageError(
            "--ema yes asks for averaged weights and no source holds any. "
            "Leave the flag out."
        )
    # Shards are named model.fp16-00001-of-00002, single files model.fp16.
    marks = (f".{hints.variant}.", f".{hints.variant}-")
    if hints.variant and not any(mark in name for name in files for mark in marks):
        raise UsageError(
            f"--variant {hints.variant} chooses among the files of a component folder "
            "and none was read. Leave the flag out."
        )
    if strength != 1.0:
        raise UsageError(
            f"--lora-strength {strength:g} is for adapters and no source holds any. "
            "Name the LoRA file too."
        )
    if alpha is not None:
        raise UsageError(
            f"--lora-alpha {alpha:g} is for a LoRA file that lost its own, none was "
            "read. Name the file, or leave the flag out."
        )


def facts(weights: Weights, averaged: bool) -> dict[str, Any]:
    """Entries of the report: prediction, latent scale, surgery of the result."""
    entries: dict[str, Any] = {}
    if "unet" in weights.params:
        entries["prediction"] = weights.prediction
        entries["ema"] = averaged
    if "vae" in weights.configs:
        vae = weights.configs["vae"]
        entries["scaling_factor"] = vae.scaling_factor
        entries["shift_factor"] = vae.shift_factor
    if "surgery" in weights.provenance:
        entries["surgery"] = weights.provenance["surgery"]
    return entries


def _networks(weights: Weights) -> str:
    return ", ".join(weights.params) or "nothing"
