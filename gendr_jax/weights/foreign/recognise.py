"""Recognise and open a foreign source by its files and their tensor names.

A source is a component folder, a pipeline folder, an adapter folder, or a single file
(LDM, DINOv2's hub, LPIPS, DISTS, adapters). No array is read.
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
        InputError: an unknown format, damaged files, or unsupported options.
    """
    if path.is_file():
        return single_files.recognise(open_file(path), hints)
    if not path.is_dir():
        raise InputError(f"{path} does not exist. Check the path.")
    if (path / ADAPTER).is_file():
        return _adapter_folder(path)
    if (path / component_folder.CONFIG).is_file():
        return _component_folder(path, hints)
    # Our own exports may have networks that no pipeline of diffusers has.
    exported = (path / export.SETTINGS).is_file()
    component_names = EXPORTED if exported else ("unet", "vae")
    present = [
        n for n in component_names if any((path / (n + e)).is_dir() for e in ("", EMA))
    ]
    if present:
        return _pipeline(path, present, hints)
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
    config = component_folder.read_json(path / component_folder.CONFIG)
    name, model = config.get("_class_name"), config.get("model_type")
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
        left_out[f"{averages.AVERAGED} in {sibling.name}/"] = _tensor_count(
            sibling, hints
        )
    contents = Contents(
        format=f"{library} {kind}",
        components={kind: component},
        files=component_folder.weight_files(path, hints.variant),
        left_out=left_out,
        **_schedule(path.parent if kind == "unet" else None, hints),
    )
    averaged = component.averaged or path.name.endswith(EMA)
    return _with_notes(contents, {"ema": True} if averaged else {})


def _with_notes(contents: Contents, notes: dict[str, Any]) -> Contents:
    return dataclasses.replace(contents, notes=contents.notes | notes)


def _tensor_count(folder: Path, hints: Hints) -> int:
    """How many tensors a component folder holds."""
    files = component_folder.weight_files(folder, hints.variant)
    return sum(len(open_file(file).tensors) for file in files)


def _pipeline(path: Path, present: list[str], hints: Hints) -> Contents:
    by_name = {name: _averaged_component(path, name, hints) for name in present}
    left_out: Counter[str] = Counter()
    for name, component_contents in by_name.items():
        left_out.update(component_contents.left_out)
        if name not in component_contents.components:
            raise InputError(
                f"{path / name} is {component_contents.format}, expected {name}. "
                "Download it again."
            )
    contents = Contents(
        format="diffusers pipeline",
        components={n: c for p in by_name.values() for n, c in p.components.items()},
        files=[
            file
            for component_contents in by_name.values()
            for file in component_contents.files
        ],
        left_out=dict(left_out),
        **_schedule(path if "unet" in by_name else None, hints),
    )
    if any(
        component_contents.notes.get("ema") for component_contents in by_name.values()
    ):
        contents = _with_notes(contents, {"ema": True})
    lora = path / export.DIFFUSERS_LORA
    if (path / export.SETTINGS).is_file() and lora.is_file():
        lora_contents = find(lora, hints)
        contents = dataclasses.replace(
            contents,
            adapter=lora_contents.adapter,
            files=[*contents.files, *lora_contents.files],
            left_out=contents.left_out | lora_contents.left_out,
        )
    return dataclasses.replace(contents, settings=export.read_settings(path))


def _schedule(pipeline: Path | None, hints: Hints) -> dict[str, Any]:
    """The fields of ``Contents`` that come from a pipeline's scheduler."""
    schedule = None if pipeline is None else scheduler.read(pipeline)
    if schedule is None:
        return {"prediction": hints.prediction}
    return {
        "prediction": hints.prediction or schedule.prediction,
        "notes": {"scheduler": schedule.recorded},
    }


def _averaged_component(pipeline: Path, name: str, hints: Hints) -> Contents:
    """A network of a pipeline, from unet_ema/ where that exists and --ema allows it.

    Raises:
        InputError: --ema no, and there are only averages.
    """
    raw, ema = pipeline / name, pipeline / (name + EMA)
    if not ema.is_dir():
        return _component(raw, hints)
    if hints.ema == "no":
        if not raw.is_dir():
            raise InputError(f"{ema} holds averaged weights alone. Leave --ema no out.")
        return _component(raw, hints)  # it counts the averages as left out
    contents = _component(ema, hints)
    if not raw.is_dir():
        return contents
    left_out = {averages.RAW: _tensor_count(raw, hints)}
    return dataclasses.replace(contents, left_out=contents.left_out | left_out)


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
    """A folder of weights files only: one, or the two of LPIPS or DISTS."""
    opened = [open_file(file) for file in files]
    if len(opened) == 1:
        return single_files.recognise(opened[0], hints)
    merged: dict[str, Any] = {}
    for file in opened:
        shared = sorted(merged.keys() & file.tensors.keys())
        if shared:
            file_names = listed([f.name for f in files])
            raise InputError(
                f"{path} holds several files ({file_names}), two with {shared[0]:.60}. "
                "Name one file, or a folder of those of one network."
            )
        merged |= file.tensors
    joined = OpenFile(path, merged, {})
    return dataclasses.replace(single_files.recognise(joined, hints), files=files)


def prediction(path: Path) -> Prediction | None:
    """What the UNet of a source predicts, None where no file says it."""
    if (path / component_folder.CONFIG).is_file():
        schedule = scheduler.read(path.parent)
        return None if schedule is None else schedule.prediction
    if path.is_dir() and (path / "unet").is_dir():
        schedule = scheduler.read(path)
        return None if schedule is None else schedule.prediction
    return find(path, Hints(scaling_factor=1.0)).prediction


def component(path: Path, kind: Kind, hints: Hints = Hints()) -> Component:  # noqa: B008
    """The one network of this kind in a source.

    Raises:
        InputError: as ``find``, or the source has none.
    """
    if (path / component_folder.CONFIG).is_file() and kind in config_json.KINDS:
        return component_folder.open_component(
            path, kind, variant=hints.variant, ema=hints.ema
        )
    contents = find(path, hints)
    if kind not in contents.components:
        present = ", ".join(contents.components) or contents.format
        raise InputError(f"{path} holds {present}, not {kind}. Name another one.")
    return contents.components[kind]
