"""What a user says of the sources: applied, or refused where it has no effect."""

import dataclasses
from typing import Any

from gendr_jax.errors import UsageError
from gendr_jax.weights.foreign.single_files import Hints
from gendr_jax.weights.gendr_json import Weights


def applied(weights: Weights, hints: Hints) -> Weights:
    """--prediction and the latent scale go before what the sources say.

    Raises:
        UsageError: there is no network that they could be about.
    """
    if hints.prediction is not None:
        if "unet" not in weights.params:
            raise UsageError(
                f"--prediction {hints.prediction} is about a UNet and the sources hold "
                f"{_kept(weights)}. Leave it away."
            )
        weights = dataclasses.replace(weights, prediction=hints.prediction)
    said = {"scaling_factor": hints.scaling_factor, "shift_factor": hints.shift_factor}
    said = {name: value for name, value in said.items() if value is not None}
    if not said:
        return weights
    if "vae" not in weights.params:
        flags = ", ".join("--" + name.replace("_", "-") for name in said)
        raise UsageError(
            f"{flags} is about an autoencoder and the sources hold {_kept(weights)}. "
            "Leave it away."
        )
    vae = dataclasses.replace(weights.configs["vae"], **said)
    return dataclasses.replace(weights, configs=weights.configs | {"vae": vae})


def refuse_unused(
    hints: Hints,
    *,
    averaged: bool,
    files: list[str],
    strength: float,
    alpha: float | None,
) -> None:
    """Refuse what no source has been read by.

    Args: ``strength``, ``alpha``: of adapters, where no adapters took them.

    Raises:
        UsageError: --ema yes, --variant, --lora-strength or --lora-alpha.
    """
    if hints.ema == "yes" and not averaged:
        raise UsageError(
            "--ema yes asks for averaged weights and no source holds any. "
            "Leave it away."
        )
    # Shards are named model.fp16-00001-of-00002, single files model.fp16.
    marks = (f".{hints.variant}.", f".{hints.variant}-")
    if hints.variant and not any(mark in name for name in files for mark in marks):
        raise UsageError(
            f"--variant {hints.variant} chooses among the files of a component folder "
            "and none was read. Leave it away."
        )
    if strength != 1.0:
        raise UsageError(
            f"--lora-strength {strength:g} is about adapters and no source holds any. "
            "Name the LoRA file too."
        )
    if alpha is not None:
        raise UsageError(
            f"--lora-alpha {alpha:g} is for a LoRA file that lost its own, none was "
            "read. Name the file, or leave the flag away."
        )


def facts(weights: Weights, averaged: bool) -> dict[str, Any]:
    """What the report says of the result beside sizes."""
    said: dict[str, Any] = {}
    if "unet" in weights.params:
        said["prediction"] = weights.prediction
        said["ema"] = averaged
    if "vae" in weights.configs:
        vae = weights.configs["vae"]
        said["scaling_factor"] = vae.scaling_factor
        said["shift_factor"] = vae.shift_factor
    if "surgery" in weights.provenance:
        said["surgery"] = weights.provenance["surgery"]
    return said


def _kept(weights: Weights) -> str:
    return ", ".join(weights.params) or "nothing"
