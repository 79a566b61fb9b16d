"""``gendr convert``: weights of other programs to ours, and back."""

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
from gendr_jax.weights.adapters import adapt, merge_own
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
    """The flags of ``gendr convert``.

    Attributes:
        to: a weights folder ("orbax"), a folder for diffusers, or one for PEFT
            (adapters); or one file: with our names, with LDM's, or adapters with those
            of sd-scripts.
        dtype: of the result; "" keeps each tensor's own.
        latent_channels: widen the UNet to so many (0: leave it).
        merge: merge adapters into the UNet that they are given with.
        force: replace what is at the destination.
        prompt: a file of prompt embeddings, which makes UNet and VAE a restorer.
        lora_strength: factor of all adapters; lora_alpha: of files that lack theirs.
        run: facts of the training run that a source is from, for the provenance.
        sha256: if not empty, each weights file must have one of these.
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
    """Read sources, write one folder or file atomically.

    Returns: a report of plain JSON values.
    Raises:
        InputError: sources that are unknown, damaged or do not fit.
        UsageError: a destination that exists, or flags that contradict each other.
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
        refuse(target, options.force)  # another process may have made it meanwhile
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
    """The sources as one ``Weights`` in host memory, and a report about them."""
    merged: Weights | None = None
    adapters: list[tuple[Adapter, Path]] = []
    formats, files = [], []
    left_out: Counter[str] = Counter()
    averaged: set[bool] = set()
    # Before merging nothing is cast, so that the result is rounded only once.
    read_options = dataclasses.replace(
        options, dtype="" if options.merge else options.dtype
    )
    for path in map(resolve, paths):
        ours = _ours(path)
        if ours is not None:
            own_weights = one_file.read(ours) if ours.is_file() else folder.load(ours)
            formats.append("gendr")
            _check_digests(own_weights, path, options.sha256)
            source_weights = _cast(
                _with_strength(own_weights, options.lora_strength), read_options.dtype
            )
        else:
            source = recognise.find(path, options.hints)
            formats.append(source.format)
            files += _file_records(source.files, options.sha256)
            left_out.update(source.left_out)
            averaged.add(bool(source.notes.get("ema")))
            if source.adapter is not None:
                adapters.append((source.adapter, source.files[-1]))
            if not source.components:
                continue
            source_weights = _read_source(source, read_options)
        merged = (
            source_weights if merged is None else joining.join(merged, source_weights)
        )
    for adapter, file in adapters:
        if adapter.vae_tensors and (merged is None or "vae" not in merged.params):
            left_out["adapters of the autoencoder"] += len(adapter.vae_tensors)
        merged = adapt(
            merged,
            adapter,
            file,
            merge=options.merge,
            dtype=read_options.dtype,
            strength=options.lora_strength,
            alpha=options.lora_alpha,
        )
    assert merged is not None  # there is a source, and none is empty
    merged = choices.applied(merged, options.hints)
    choices.refuse_unused(
        options.hints,
        averaged=True in averaged,
        files=[file["name"] for file in files],
        strength=options.lora_strength if not _has_adapters(merged, adapters) else 1.0,
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
        merged = merge_own(merged)
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
    """Write a new folder or file in the format ``to``."""
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


def _with_strength(weights: Weights, strength: float) -> Weights:
    """Adapters of a weights folder, scaled by ``strength``."""
    if "lora" not in weights.params or strength == 1.0:
        return weights
    config = weights.configs["lora"]
    config = dataclasses.replace(config, alpha=config.alpha * strength)
    return dataclasses.replace(weights, configs=weights.configs | {"lora": config})


def _ours(path: Path) -> Path | None:
    """The path of own weights: it is a folder, one file, or a training workdir."""
    if one_file.is_ours(path):
        return path
    return next((p for p in (path, path / "weights") if folder.is_folder(p)), None)


def _read_source(source: Contents, options: Options) -> Weights:
    unet, settings = source.components.get("unet"), source.settings
    prediction = source.prediction or settings.get("prediction_type")
    if unet is not None and prediction is None:
        raise UsageError(
            f"{unet.where} does not say what its UNet predicts. Give --prediction eps "
            "(SD 2.1 base, 512 px, and GenDR) or --prediction v (SD 2.1, 768 px)."
        )
    for component in source.components.values():
        component.check()  # names and shapes of all components before any tensor
        if not options.merge:
            _refuse_float64(component, options.dtype)
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


def _refuse_float64(component: components.Component, dtype: str) -> None:
    float64_tensors = [n for n, t in component.tensors.items() if t.dtype == np.float64]
    if float64_tensors and not dtype:
        raise UsageError(
            f"{component.where} holds {len(float64_tensors)} tensors of float64, which "
            f"weights folders do not hold ({float64_tensors[0]}). Add --dtype float32."
        )


def _check_digests(weights: Weights, path: Path, wanted: tuple[str, ...]) -> None:
    """--sha256 of a weights folder: one a component, as `gendr inspect` prints them."""
    for name, tree in weights.components().items() if wanted else ():
        digest = sha256(tree)
        if digest not in {w.lower() for w in wanted}:
            raise InputError(
                f"{path}: {name} has sha256 {digest}, expected "
                f"{listed(wanted)}. Give those that gendr inspect prints."
            )


def _has_adapters(merged: Weights, adapters: list[tuple[Adapter, Path]]) -> bool:
    return bool(adapters) or "lora" in merged.params


def _cast(weights: Weights, dtype: str) -> Weights:
    if not dtype:
        return weights
    params = jax.tree.map(lambda x: components.cast(x, dtype), weights.params)
    return dataclasses.replace(weights, params=params)


def check_finite(weights: Weights) -> None:
    """Raise one InputError with every array that has NaN or Inf."""
    not_finite = [
        f"{name}: {'.'.join(path)}"
        for name, tree in weights.components().items()
        for path, leaf in nets.flatten(tree).items()
        if not all_finite(np.ascontiguousarray(leaf))
    ]
    if not_finite:
        raise InputError(
            f"{len(not_finite)} tensors have NaN or Inf, from their file or from "
            f"--dtype: {listed(not_finite)}. Take another copy or another dtype."
        )


def _file_records(files: list[Path], wanted: tuple[str, ...]) -> list[dict[str, Any]]:
    """Name, size and sha256 of each file, the last checked against ``wanted``."""
    records = []
    for file in files:
        digest = file_sha256(file)
        if wanted and digest not in {w.lower() for w in wanted}:
            raise InputError(
                f"{file} has sha256 {digest}, expected {listed(wanted)}. "
                "Download it again."
            )
        records.append(
            {"name": file.name, "bytes": file.stat().st_size, "sha256": digest}
        )
    return records
