"""From foreign sources to our weights and back: what ``gendr convert`` does."""

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from gendr_jax import diffusion, nets
from gendr_jax.errors import InputError, UsageError, listed
from gendr_jax.weights import choices, export, folder, joining, one_file, surgery
from gendr_jax.weights.adapters import adapt, fold_own
from gendr_jax.weights.destination import (
    destination_of,
    refuse_existing,
    refuse_existing_file,
    replacing_file,
    replacing_folder,
)
from gendr_jax.weights.foreign import components, recognise
from gendr_jax.weights.foreign.single_files import Adapter, Contents, Hints
from gendr_jax.weights.foreign.tensors import all_finite
from gendr_jax.weights.gendr_json import Weights
from gendr_jax.weights.resolve import resolve
from gendr_jax.weights.sha256 import file_sha256, sha256

Target = Literal["orbax", "diffusers", "peft", "safetensors", "ldm", "kohya"]
TARGETS = ("orbax", "diffusers", "peft", "safetensors", "ldm", "kohya")
ONE_FILE = ("safetensors", "ldm", "kohya")
DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Options:
    """What ``convert`` is asked for.

    Attributes:
        to: our own folder, a folder for diffusers, or one for PEFT (adapters); or one
            file: with our names, with LDM's, or adapters with those of sd-scripts.
        dtype: of the result; "" keeps each tensor's own.
        latent_channels: widen the UNet to so many (0: leave it).
        merge: fold adapters into the UNet that comes with them.
        force: replace what is at the destination.
        prompt: a file of prompt embeddings, which makes UNet and VAE a restorer.
        lora_strength: adapters count so much; lora_alpha: of files that lost theirs.
        run: facts of the training run that a source is from, for the record.
        sha256: if given, each weights file must have one of these.
        hints: what the files do not say of themselves.
    """

    to: Target = "orbax"
    dtype: str = ""
    latent_channels: int = 0
    merge: bool = False
    force: bool = False
    prompt: Path | None = None
    lora_strength: float = 1.0
    lora_alpha: float | None = None
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sha256: tuple[str, ...] = ()
    hints: Hints = Hints()


def convert(
    paths: Sequence[str | Path], destination: str | Path, options: Options
) -> dict[str, Any]:
    """Read sources, write one folder or file; it appears whole or not at all.

    Returns: what was done, plain JSON values.
    Raises:
        InputError: sources that are unknown, damaged or do not fit.
        UsageError: a destination that is taken, or choices that cannot be joined.
    """
    begin = time.monotonic()
    target = destination_of(destination)
    refuse = refuse_existing_file if options.to in ONE_FILE else refuse_existing
    refuse(target, options.force)
    weights, report = load(paths, options)
    if options.to in ("peft", "kohya"):
        weights = export.adapters_alone(weights, options.to)
    elif options.to == "ldm":
        weights, without = export.ldm_networks(weights)
        report["left_out"] |= without
    check_finite(weights)
    replacing = replacing_file if options.to in ONE_FILE else replacing_folder
    with replacing(target) as temporary:
        write(temporary, weights, options.to)
        refuse(target, options.force)  # it may have come meanwhile
    sizes = {name: nets.count(tree) for name, tree in weights.params.items()}
    return report | {
        "kind": weights.kind,
        "parameters": sizes,
        "output": str(target),
        "to": options.to,
        "seconds": round(time.monotonic() - begin, 2),
    }


def load(
    paths: Sequence[str | Path], options: Options
) -> tuple[Weights, dict[str, Any]]:
    """The sources as one ``Weights`` in host memory, and what they were."""
    merged: Weights | None = None
    adapters: list[tuple[Adapter, Path]] = []
    formats, files = [], []
    left_out: Counter[str] = Counter()
    averaged: set[bool] = set()
    # What is to be merged is rounded once, afterwards.
    early = dataclasses.replace(options, dtype="" if options.merge else options.dtype)
    for path in map(resolve, paths):
        ours = _ours(path)
        if ours is not None:
            found = one_file.read(ours) if ours.is_file() else folder.load(ours)
            formats.append("gendr")
            _check_digests(found, path, options.sha256)
            part = _cast(_weaker(found, options.lora_strength), early.dtype)
        else:
            source = recognise.find(path, options.hints)
            formats.append(source.format)
            files += _digests(source.files, options.sha256)
            left_out.update(source.left_out)
            averaged.add(bool(source.notes.get("ema")))
            if source.adapter is not None:
                adapters.append((source.adapter, source.files[-1]))
            if not source.components:
                continue
            part = _read(source, early)
        merged = part if merged is None else joining.join(merged, part)
    for adapter, file in adapters:
        if adapter.vae_tensors and (merged is None or "vae" not in merged.params):
            left_out["adapters of the autoencoder"] += len(adapter.vae_tensors)
        merged = adapt(
            merged,
            adapter,
            file,
            fold=options.merge,
            dtype=early.dtype,
            strength=options.lora_strength,
            alpha=options.lora_alpha,
        )
    assert merged is not None  # there is a source, and each holds something
    merged = choices.applied(merged, options.hints)
    choices.refuse_unused(
        options.hints,
        averaged=True in averaged,
        files=[file["name"] for file in files],
        strength=options.lora_strength if not _adapted(merged, adapters) else 1.0,
        alpha=options.lora_alpha if not adapters else None,
    )
    if options.prompt is not None:
        joining.refuse_other_steps([adapter for adapter, _ in adapters])
        merged = joining.with_prompt(merged, options.prompt)
    provenance: dict[str, Any] = {"formats": formats, "files": files, **options.run}
    if left_out:
        provenance["left_out"] = dict(left_out)
    merged = surgery.widened(merged, options.latent_channels)
    joining.check_channels(merged)
    if options.merge and "lora" in merged.params:
        merged = fold_own(merged)
    elif options.merge and not adapters:
        raise UsageError(
            f"--merge takes adapters and {', '.join(formats)} holds none. "
            "Name the LoRA file too."
        )
    merged = _cast(merged, options.dtype)
    history = [*merged.provenance.get("converted", []), provenance]
    provenance = {**merged.provenance, "converted": history}
    merged = dataclasses.replace(merged, provenance=provenance)
    report = {"formats": formats, "files": files, "left_out": dict(left_out)}
    report |= options.run
    return merged, report | choices.facts(merged, True in averaged)


def write(target: Path, weights: Weights, to: Target) -> None:
    """Into a new folder or file, in the form that is asked for."""
    if to == "safetensors":
        one_file.write(target, weights)
    elif to == "ldm":
        export.save_ldm(target, weights)
    elif to == "kohya":
        export.save_kohya(target, weights)
    elif to == "diffusers":
        export.save_pipeline(target, weights)
    elif to == "peft":
        export.save_peft(target, weights)
    else:
        folder.write(target, weights)


def _weaker(weights: Weights, strength: float) -> Weights:
    """Adapters that one of our folders keeps, counted so much."""
    if "lora" not in weights.params or strength == 1.0:
        return weights
    config = weights.configs["lora"]
    config = dataclasses.replace(config, alpha=config.alpha * strength)
    return dataclasses.replace(weights, configs=weights.configs | {"lora": config})


def _ours(path: Path) -> Path | None:
    """Weights of ours: the path (a folder or a file), or a training workdir's."""
    if one_file.is_ours(path):
        return path
    return next((p for p in (path, path / "weights") if folder.is_folder(p)), None)


def _read(source: Contents, options: Options) -> Weights:
    unet, settings = source.components.get("unet"), source.settings
    prediction = source.prediction or settings.get("prediction_type")
    if unet is not None and prediction is None:
        raise UsageError(
            f"{unet.where} does not say what its UNet predicts. Give --prediction eps "
            "(SD 2.1 base, 512 px, and GenDR) or --prediction v (SD 2.1, 768 px)."
        )
    for component in source.components.values():
        component.check()  # all directories before any tensor
        if not options.merge:
            _refuse_double(component, options.dtype)
    params = {
        name: components.read(component, dtype=options.dtype or None)
        for name, component in source.components.items()
    }
    configs = {name: c.config for name, c in source.components.items()}
    if "projector" in settings:
        configs["projector"], projector = settings["projector"]
        cast = partial(components.cast, dtype=options.dtype or None)
        params["projector"] = jax.tree.map(cast, projector)
    return Weights(
        kind=settings.get("kind") or joining.kind_of(params),
        configs=configs,
        params=params,
        prompt=settings.get("prompt", {}),
        prediction=prediction or "eps",
        t_star=settings.get("t_star", diffusion.T_STAR),
        prompt_text=settings.get("prompt_text", {}),
        provenance=settings.get("provenance", {}) | source.notes,
    )


def _refuse_double(component: components.Component, dtype: str) -> None:
    double = [n for n, t in component.tensors.items() if t.dtype == np.float64]
    if double and not dtype:
        raise UsageError(
            f"{component.where} holds {len(double)} tensors of float64, which our "
            f"folders do not keep ({double[0]}). Add --dtype float32."
        )


def _check_digests(weights: Weights, path: Path, wanted: tuple[str, ...]) -> None:
    """--sha256 of a folder of ours: those of its components, as inspect prints them."""
    for name, tree in weights.components().items() if wanted else ():
        digest = sha256(tree)
        if digest not in {w.lower() for w in wanted}:
            raise InputError(
                f"{path}: {name} has sha256 {digest}, expected "
                f"{listed(wanted)}. Give those that gendr inspect prints."
            )


def _adapted(merged: Weights, adapters: list[tuple[Adapter, Path]]) -> bool:
    return bool(adapters) or "lora" in merged.params


def _cast(weights: Weights, dtype: str) -> Weights:
    if not dtype:
        return weights
    params = jax.tree.map(lambda x: components.cast(x, dtype), weights.params)
    return dataclasses.replace(weights, params=params)


def check_finite(weights: Weights) -> None:
    """Raise one InputError with every array of NaN or Inf, however it came about."""
    bad = [
        f"{name}: {'.'.join(path)}"
        for name, tree in weights.components().items()
        for path, leaf in nets.flatten(tree).items()
        if not all_finite(np.ascontiguousarray(leaf))
    ]
    if bad:
        raise InputError(
            f"{len(bad)} tensors have NaN or Inf, from their file or from --dtype: "
            f"{listed(bad)}. Take another copy or another dtype."
        )


def _digests(files: list[Path], wanted: tuple[str, ...]) -> list[dict[str, Any]]:
    """Name, size and sha256 of each file; compared with what the user expects."""
    found = []
    for file in files:
        digest = file_sha256(file)
        if wanted and digest not in {w.lower() for w in wanted}:
            raise InputError(
                f"{file} has sha256 {digest}, expected {listed(wanted)}. "
                "Download it again."
            )
        found.append(
            {"name": file.name, "bytes": file.stat().st_size, "sha256": digest}
        )
    return found
