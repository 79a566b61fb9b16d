"""What a path holds: recognised by its files and the names in them, opened, not read.

A source is a component folder, a pipeline folder, an adapter folder, or a single file
(LDM, DINOv2's hub, LPIPS, DISTS, adapters).
"""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

from gendr_jax.errors import InputError, listed
from gendr_jax.weights import export
from gendr_jax.weights.foreign import (
    averages,
    component_folder,
    config_json,
    scheduler,
    single_files,
)
from gendr_jax.weights.foreign.components import Component, Kind
from gendr_jax.weights.foreign.open_file import open_file
from gendr_jax.weights.foreign.single_files import Contents, Hints, Prediction
from gendr_jax.weights.foreign.tensors import OpenFile

CLASSES: dict[str, Kind] = {"UNet2DConditionModel": "unet", "AutoencoderKL": "vae"}
EXPORTED = ("unet", "vae", "dinov2", "lpips", "dists")
ADAPTER = "adapter_config.json"
EMA = "_ema"  # diffusers' training scripts keep averages in unet_ema/
ADAPTER_STEMS = ("adapter_model", "pytorch_lora_weights")


def find(path: Path, hints: Hints = Hints()) -> Contents:  # noqa: B008  frozen
    """Recognise and open a foreign source.

    Raises:
        InputError: nothing that is known, damaged files, or options that we lack.
    """
    if path.is_file():
        return single_files.recognise(open_file(path), hints)
    if not path.is_dir():
        raise InputError(f"{path} does not exist. Check the path.")
    if (path / ADAPTER).is_file():
        return _adapter_folder(path)
    if (path / component_folder.CONFIG).is_file():
        return _component_folder(path, hints)
    # What we exported may hold networks that no pipeline of diffusers has.
    exported = (path / export.SETTINGS).is_file()
    parts = EXPORTED if exported else ("unet", "vae")
    inside = [n for n in parts if any((path / (n + e)).is_dir() for e in ("", EMA))]
    if inside:
        return _pipeline(path, inside, hints)
    for stem in ADAPTER_STEMS:
        for file in (path / f"{stem}.safetensors", path / f"{stem}.bin"):
            if file.is_file():
                return find(file, hints)
    files = [p for p in sorted(path.iterdir()) if single_files.is_weights(p)]
    if files:
        return _files(path, files, hints)
    raise InputError(
        f"{path} holds no config.json, no unet/ or vae/, no {ADAPTER} and no weights "
        "file. Name a component, pipeline or adapter folder, or a file."
    )


def _component_folder(path: Path, hints: Hints) -> Contents:
    raw = component_folder.read_json(path / component_folder.CONFIG)
    name, model = raw.get("_class_name"), raw.get("model_type")
    kind: Kind | None = CLASSES.get(str(name))
    kind = "dinov2" if model == "dinov2" else kind
    if kind is None:
        raise InputError(
            f"{path / component_folder.CONFIG} is of "
            f"{name or model or 'no known class'}. "
            f"Name a folder of {', '.join([*CLASSES, 'Dinov2Model'])}."
        )
    component = component_folder.open_component(
        path, kind, variant=hints.variant, ema=hints.ema
    )
    library = "transformers" if kind == "dinov2" else "diffusers"
    left_out = dict(component.left_out)
    sibling = path.with_name(path.name + EMA)
    if sibling.is_dir():
        left_out[f"{averages.AVERAGED} in {sibling.name}/"] = _size(sibling, hints)
    found = Contents(
        format=f"{library} {kind}",
        components={kind: component},
        files=component_folder.weight_files(path, hints.variant),
        left_out=left_out,
        **_schedule(path.parent if kind == "unet" else None, hints),
    )
    averaged = component.averaged or path.name.endswith(EMA)
    return _noted(found, {"ema": True} if averaged else {})


def _noted(found: Contents, notes: dict[str, Any]) -> Contents:
    return dataclasses.replace(found, notes=found.notes | notes)


def _size(folder: Path, hints: Hints) -> int:
    """How many tensors a component folder holds."""
    files = component_folder.weight_files(folder, hints.variant)
    return sum(len(open_file(file).tensors) for file in files)


def _pipeline(path: Path, inside: list[str], hints: Hints) -> Contents:
    parts = {name: _averaged_component(path, name, hints) for name in inside}
    left_out: Counter[str] = Counter()
    for name, part in parts.items():
        left_out.update(part.left_out)
        if name not in part.components:
            raise InputError(
                f"{path / name} is {part.format}, expected {name}. Download it again."
            )
    found = Contents(
        format="diffusers pipeline",
        components={n: c for p in parts.values() for n, c in p.components.items()},
        files=[file for part in parts.values() for file in part.files],
        left_out=dict(left_out),
        **_schedule(path if "unet" in parts else None, hints),
    )
    if any(part.notes.get("ema") for part in parts.values()):
        found = _noted(found, {"ema": True})
    lora = path / export.DIFFUSERS_LORA
    if (path / export.SETTINGS).is_file() and lora.is_file():
        side = find(lora, hints)
        found = dataclasses.replace(
            found,
            adapter=side.adapter,
            files=[*found.files, *side.files],
            left_out=found.left_out | side.left_out,
        )
    return dataclasses.replace(found, settings=export.read_settings(path))


def _schedule(pipeline: Path | None, hints: Hints) -> dict[str, Any]:
    """The fields of ``Contents`` that a pipeline's scheduler fills."""
    said = None if pipeline is None else scheduler.read(pipeline)
    if said is None:
        return {"prediction": hints.prediction}
    return {
        "prediction": hints.prediction or said.prediction,
        "notes": {"scheduler": said.recorded},
    }


def _averaged_component(pipeline: Path, name: str, hints: Hints) -> Contents:
    """A network of a pipeline; its averages, where wanted and kept beside (unet_ema).

    Raises:
        InputError: --ema no, and there is nothing but averages.
    """
    raw, ema = pipeline / name, pipeline / (name + EMA)
    if not ema.is_dir():
        return _component(raw, hints)
    if hints.ema == "no":
        if not raw.is_dir():
            raise InputError(
                f"{ema} holds averaged weights alone. Leave --ema no away."
            )
        return _component(raw, hints)  # which counts what lies beside
    part = _component(ema, hints)
    if not raw.is_dir():
        return part
    left_out = {averages.RAW: _size(raw, hints)}
    return dataclasses.replace(part, left_out=part.left_out | left_out)


def _component(path: Path, hints: Hints) -> Contents:
    files = [p for p in sorted(path.iterdir()) if single_files.is_weights(p)]
    if path.name in ("lpips", "dists") and files:
        return _files(path, files, hints)
    return _component_folder(path, hints)


def _adapter_folder(path: Path) -> Contents:
    for suffix in component_folder.SUFFIXES:
        file = path / f"adapter_model{suffix}"
        if file.is_file():
            config = component_folder.read_json(path / ADAPTER)
            return single_files.adapters(open_file(file), config)
    raise InputError(
        f"{path} has {ADAPTER} and no adapter_model.safetensors. Download it again."
    )


def _files(path: Path, files: list[Path], hints: Hints) -> Contents:
    """A folder of bare files: one, or the two that make up LPIPS or DISTS."""
    opened = [open_file(file) for file in files]
    if len(opened) == 1:
        return single_files.recognise(opened[0], hints)
    merged: dict[str, Any] = {}
    for file in opened:
        twice = sorted(merged.keys() & file.tensors.keys())
        if twice:
            shown = listed([f.name for f in files])
            raise InputError(
                f"{path} holds several files ({shown}) and {twice[0]:.60} is in two. "
                "Name one file, or a folder of those of one network."
            )
        merged |= file.tensors
    whole = OpenFile(path, merged, {})
    return dataclasses.replace(single_files.recognise(whole, hints), files=files)


def prediction(path: Path) -> Prediction | None:
    """What the UNet of a source predicts, where something says it."""
    if (path / component_folder.CONFIG).is_file():
        said = scheduler.read(path.parent)
        return None if said is None else said.prediction
    if path.is_dir() and (path / "unet").is_dir():
        said = scheduler.read(path)
        return None if said is None else said.prediction
    return find(path, Hints(scaling_factor=1.0)).prediction


def component(path: Path, kind: Kind, hints: Hints = Hints()) -> Component:  # noqa: B008
    """The one network of this kind in a source.

    Raises:
        InputError: as ``find``, or it is not there.
    """
    if (path / component_folder.CONFIG).is_file() and kind in config_json.KINDS:
        return component_folder.open_component(
            path, kind, variant=hints.variant, ema=hints.ema
        )
    found = find(path, hints)
    if kind not in found.components:
        kept = ", ".join(found.components) or found.format
        raise InputError(f"{path} holds {kept}, not {kind}. Name another one.")
    return found.components[kind]
