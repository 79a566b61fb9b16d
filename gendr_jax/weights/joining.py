"""Join networks of several sources, and a prompt, into one ``Weights``."""

import dataclasses
from pathlib import Path
from typing import Any, cast

from gendr_jax.errors import InputError, UsageError
from gendr_jax.weights import export
from gendr_jax.weights.foreign.single_files import Adapter
from gendr_jax.weights.gendr_json import Kind, Weights


def join(first: Weights, second: Weights) -> Weights:
    """The networks of both; a network in both is refused."""
    shared = sorted(first.params.keys() & second.params.keys())
    if shared:
        raise UsageError(f"two sources hold a {shared[0]}. Name each network once.")
    unet = first if "unet" in first.params else second
    params = first.params | second.params
    return dataclasses.replace(
        unet,
        kind=unet.kind if unet.kind == "restorer" else kind_of(params),
        configs=first.configs | second.configs,
        params=params,
        prompt=first.prompt or second.prompt,
        prompt_text=first.prompt_text or second.prompt_text,
        provenance=_histories(first.provenance, second.provenance),
    )


def _histories(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Both provenances merged; conflicting values of the second go under "joined"."""
    history = [*first.get("converted", []), *second.get("converted", [])]
    conflicting = {
        k: second[k] for k in first.keys() & second.keys() if first[k] != second[k]
    }
    conflicting.pop("converted", None)
    joined = second | first | ({"converted": history} if history else {})
    return joined | (
        {"joined": [*first.get("joined", []), conflicting]} if conflicting else {}
    )


def kind_of(params: dict[str, Any]) -> Kind:
    """The kind of weights whose source does not name one."""
    return "base" if "unet" in params else cast(Kind, next(iter(params)))


def with_prompt(weights: Weights, path: Path) -> Weights:
    """With the prompt of a file; a UNet with an autoencoder becomes a restorer."""
    prompt, texts = export.read_prompt(path)
    restores = {"unet", "vae"} <= weights.params.keys()
    return dataclasses.replace(
        weights,
        kind="restorer" if restores else weights.kind,
        prompt=prompt,
        prompt_text=texts,
    )


def check_channels(weights: Weights) -> None:
    """Refuse a UNet and an autoencoder with different latent channels."""
    if weights.kind not in ("restorer", "base") or "vae" not in weights.params:
        return
    unet, vae = weights.configs["unet"], weights.configs["vae"]
    # The UNet of an inpainting pipeline takes more than latents; it restores nothing.
    restores = weights.kind == "restorer"
    channels = unet.in_channels if restores else unet.out_channels
    if channels != vae.latent_channels:
        raise InputError(
            f"the UNet works on {channels} channels and the autoencoder has "
            f"{vae.latent_channels}. Name one of them alone, or networks that belong "
            f"together: a UNet that was widened and an autoencoder of {channels}."
        )


def refuse_other_steps(adapters: list[Adapter]) -> None:
    """Refuse adapters trained for another timestep than a restorer's."""
    for t in {a.t_star for a in adapters} - {None}:
        raise UsageError(
            f"these adapters take one step from t = {t} to the clean latent, gendr "
            "restore one from alpha_bar = 1/2: use them to start training. Leave "
            "--prompt out."
        )
