"""Networks of several sources, and a prompt, as one ``Weights``."""

import dataclasses
from pathlib import Path
from typing import Any, cast

from gendr_jax.errors import InputError, UsageError
from gendr_jax.weights import export
from gendr_jax.weights.foreign.single_files import Adapter
from gendr_jax.weights.gendr_json import Kind, Weights


def join(one: Weights, two: Weights) -> Weights:
    twice = sorted(one.params.keys() & two.params.keys())
    if twice:
        raise UsageError(f"two sources hold a {twice[0]}. Name each network once.")
    unet = one if "unet" in one.params else two
    params = one.params | two.params
    return dataclasses.replace(
        unet,
        kind=unet.kind if unet.kind == "restorer" else kind_of(params),
        configs=one.configs | two.configs,
        params=params,
        prompt=one.prompt or two.prompt,
        prompt_text=one.prompt_text or two.prompt_text,
        provenance=_histories(one.provenance, two.provenance),
    )


def _histories(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """Both histories; where both say something else of one thing, both are kept."""
    history = [*one.get("converted", []), *two.get("converted", [])]
    twice = {k: two[k] for k in one.keys() & two.keys() if one[k] != two[k]}
    twice.pop("converted", None)
    joined = two | one | ({"converted": history} if history else {})
    return joined | ({"joined": [*one.get("joined", []), twice]} if twice else {})


def kind_of(params: dict[str, Any]) -> Kind:
    """The kind of weights that no file names."""
    return "base" if "unet" in params else cast(Kind, next(iter(params)))


def with_prompt(weights: Weights, path: Path) -> Weights:
    """With the prompt of a file; UNet and autoencoder become a restorer."""
    prompt, texts = export.read_prompt(path)
    whole = {"unet", "vae"} <= weights.params.keys()
    return dataclasses.replace(
        weights,
        kind="restorer" if whole else weights.kind,
        prompt=prompt,
        prompt_text=texts,
    )


def check_channels(weights: Weights) -> None:
    """A UNet works on the latents of the autoencoder that is kept with it."""
    if weights.kind not in ("restorer", "base") or "vae" not in weights.params:
        return
    unet, vae = weights.configs["unet"], weights.configs["vae"]
    # The UNet of an inpainting pipeline takes more than latents; it restores nothing.
    whole = weights.kind == "restorer"
    channels = unet.in_channels if whole else unet.out_channels
    if channels != vae.latent_channels:
        raise InputError(
            f"the UNet works on {channels} channels and the autoencoder has "
            f"{vae.latent_channels}. Name one of them alone, or networks that belong "
            f"together: a UNet that was widened and an autoencoder of {channels}."
        )


def refuse_other_steps(adapters: list[Adapter]) -> None:
    """A prompt makes a restorer, whose one step begins at alpha_bar = 1/2."""
    for t in {a.t_star for a in adapters} - {None}:
        raise UsageError(
            f"these adapters take one step from t = {t} to the clean latent, gendr "
            "restore one from alpha_bar = 1/2: they are a start for training. Leave "
            "--prompt away."
        )
