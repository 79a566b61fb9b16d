"""Export weights for PyTorch: a pipeline folder, adapters, or one LDM file.

DIR/unet/ DIR/vae/ DIR/dinov2/   component folders (config.json, safetensors)
DIR/lpips/ DIR/dists/            one safetensors file, torchvision's names
DIR/prompt.safetensors           the fixed prompt embeddings
DIR/scheduler/                   the noise schedule, as diffusers describes it
DIR/gendr_export.json            other settings of a weights folder, for converting back
DIR/README.md                    inference in PyTorch, to copy (export_readme.py)
DIR/model_index.json pipeline.py the same as a pipeline of diffusers
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from gendr_jax import nets
from gendr_jax.errors import InputError, UsageError, listed
from gendr_jax.models.heads import RepaProjectorConfig
from gendr_jax.version import __version__
from gendr_jax.weights import export_readme, gendr_json
from gendr_jax.weights.export_readme import DIFFUSERS_LORA
from gendr_jax.weights.foreign import (
    component_folder,
    config_json,
    dists,
    layouts,
    ldm,
    lpips,
    names,
)
from gendr_jax.weights.foreign.adapters import lora_writing
from gendr_jax.weights.foreign.open_file import open_file
from gendr_jax.weights.foreign.tensors import write_safetensors
from gendr_jax.weights.gendr_json import Weights

SETTINGS, PROMPT = "gendr_export.json", "prompt.safetensors"
PROJECTOR = "projector.safetensors"
PEFT_FILE = "adapter_model.safetensors"
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def save_pipeline(folder: Path, weights: Weights) -> None:
    """Everything that ``weights`` holds, into an empty or new ``folder``.

    Raises:
        InputError: arrays that are not complete networks.
        UsageError: a network that PyTorch libraries have no file for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, params in weights.params.items():
        if name == "lpips":
            config = weights.configs[name]
            layout = lpips.layout(config, "torchvision")
            _save_single_file(folder / name, f"lpips_{config.net}", layout, params)
        elif name == "dists":
            layout = dists.layout(weights.configs[name], "torchvision")
            _save_single_file(folder / name, name, layout, params)
        elif name in ("unet", "vae", "dinov2"):
            component_folder.save_component(
                folder / name, weights.configs[name], params
            )
        elif name == "lora":
            config = weights.configs["lora"]
            tensors, metadata = lora_writing.to_diffusers(config, params)
            write_safetensors(folder / DIFFUSERS_LORA, tensors, metadata)
        elif name == "projector":
            write_safetensors(folder / PROJECTOR, names.to_torch(params))
        else:
            raise UsageError(f"{name} has no form in PyTorch. Leave it out.")
    if weights.prompt:
        write_safetensors(folder / PROMPT, weights.prompt)
    if "unet" in weights.params:
        (folder / "scheduler").mkdir()
        _write_json(
            folder / "scheduler" / "scheduler_config.json", schedule_config(weights)
        )
    _write_json(folder / SETTINGS, _settings(weights))
    (folder / "README.md").write_text(export_readme.readme(weights), "utf-8")
    if export_readme.restores(weights):
        _write_json(folder / "model_index.json", export_readme.model_index(weights))
        (folder / "pipeline.py").write_text(export_readme.PIPELINE_CODE, "utf-8")


def schedule_config(weights: Weights) -> dict[str, Any]:
    """scheduler_config.json: the one of the weights' source, or DDIM's."""
    recorded = weights.provenance.get("scheduler")
    prediction_type = "v_prediction" if weights.prediction == "v" else "epsilon"
    config = recorded if isinstance(recorded, dict) and recorded else SCHEDULER
    return config | {"prediction_type": prediction_type}


def adapters_alone(weights: Weights, to: str) -> Weights:
    """The adapters of these weights, for --to peft and --to kohya.

    Raises:
        UsageError: no adapters.
    """
    if "lora" not in weights.params:
        networks = ", ".join(weights.params) or "nothing"
        raise UsageError(
            f"--to {to} takes adapters, the source holds {networks}. "
            "Use --to diffusers."
        )
    params = {"lora": weights.params["lora"]}
    return dataclasses.replace(weights, kind="lora", params=params, prompt={})


def save_peft(folder: Path, weights: Weights) -> None:
    """The adapters as a folder of PEFT."""
    folder.mkdir(parents=True, exist_ok=True)
    config, params = weights.configs["lora"], weights.params["lora"]
    tensors, settings = lora_writing.to_peft(config, params)
    write_safetensors(folder / PEFT_FILE, tensors)
    _write_json(folder / "adapter_config.json", settings)


def save_kohya(path: Path, weights: Weights) -> None:
    """The adapters as one file of sd-scripts."""
    tensors, metadata = lora_writing.to_kohya(
        weights.configs["lora"], weights.params["lora"]
    )
    write_safetensors(path, tensors, metadata)


def ldm_networks(weights: Weights) -> tuple[Weights, dict[str, int]]:
    """(UNet and autoencoder for --to ldm, {what is left out: tensors}).

    Raises:
        UsageError: neither is there, or an LDM file cannot express their configuration.
    """
    if "lora" in weights.params:
        raise UsageError("an LDM file holds no adapters. Add --merge.")
    params = {n: weights.params[n] for n in ("unet", "vae") if n in weights.params}
    if not params:
        networks = ", ".join(weights.params) or "nothing"
        raise UsageError(f"--to ldm takes a UNet or an autoencoder, not {networks}.")
    others = {n: t for n, t in weights.components().items() if n not in params}
    left_out = {name: len(nets.flatten(tree)) for name, tree in others.items()}
    for name in params:
        layout, config = _ldm_layout(name, weights.configs[name])
        shapes = layouts.foreign_shapes(layout)
        _refuse_inexpressible(name, config, _inferred_ldm_config(name, config, shapes))
    return dataclasses.replace(weights, params=params, prompt={}), left_out


def save_ldm(path: Path, weights: Weights) -> None:
    """UNet and autoencoder as one file of LDM (``ldm_networks`` has checked them)."""
    tensors: dict[str, np.ndarray] = {}
    metadata = {}
    for name, params in weights.params.items():
        layout, config = _ldm_layout(name, weights.configs[name])
        prefix = {"unet": ldm.UNET_PREFIX, "vae": ldm.VAE_PREFIX}[name]
        tensors_ldm = layouts.scatter(layout, names.to_torch(params))
        tensors |= {prefix + n: array for n, array in tensors_ldm.items()}
        if name == "vae":
            metadata["gendr.scaling_factor"] = repr(config.scaling_factor)
            metadata["gendr.shift_factor"] = repr(config.shift_factor)
        else:
            metadata["modelspec.prediction_type"] = (
                "v" if weights.prediction == "v" else "epsilon"
            )
    write_safetensors(path, tensors, metadata)


def _ldm_layout(name: str, config: Any) -> tuple[layouts.Layout, Any]:
    layout = {"unet": ldm.unet_layout, "vae": ldm.vae_layout}[name]
    config_json.dump(config)  # refuses what LDM and diffusers both lack
    return layout(config), config


def _inferred_ldm_config(
    name: str, config: Any, shapes: dict[str, layouts.Shape]
) -> Any:
    """The configuration that a reader infers from these shapes, None where it fails."""
    try:
        if name == "unet":
            return ldm.unet_config(shapes)
        return ldm.vae_config(
            shapes,
            scaling_factor=config.scaling_factor,
            shift_factor=config.shift_factor,
        )
    except InputError:
        return None


def _refuse_inexpressible(name: str, config: Any, inferred: Any) -> None:
    fields = dataclasses.asdict(config)
    inferred_fields = {} if inferred is None else dataclasses.asdict(inferred)
    differ = [f"{k} {v}" for k, v in fields.items() if inferred_fields.get(k) != v]
    if inferred is None or differ:
        raise UsageError(
            f"an LDM file cannot express the {name}'s {listed(differ)}. Use --to "
            "diffusers."
        )


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings and the prompt that ``save_pipeline`` wrote; {} where it did not."""
    if not (folder / SETTINGS).is_file():
        return {}
    settings = component_folder.read_json(folder / SETTINGS)
    gendr_json.check_settings(folder / SETTINGS, settings)
    if (folder / PROMPT).is_file():
        tensors = open_file(folder / PROMPT).tensors
        settings["prompt"] = {name: tensor.read() for name, tensor in tensors.items()}
    elif settings.get("kind") in ("restorer", "adc", "pix"):
        raise InputError(
            f"{folder / PROMPT} is missing, {SETTINGS} says kind {settings['kind']}. "
            "Copy the complete folder again."
        )
    if "projector" in settings:
        where = str(folder / SETTINGS)
        config = gendr_json.config(RepaProjectorConfig, settings["projector"], where)
        tensors = open_file(folder / PROJECTOR).tensors
        params = names.from_torch({n: tensor.read() for n, tensor in tensors.items()})
        settings["projector"] = (config, params)
    return settings


def _settings(weights: Weights) -> dict[str, Any]:
    configs = {
        n: dataclasses.asdict(weights.configs[n])
        for n in weights.params
        if n == "projector"
    }
    return configs | {
        "gendr_jax": __version__,
        "kind": weights.kind,
        "prediction_type": weights.prediction,
        "t_star": weights.t_star,
        "prompt_text": weights.prompt_text,
        "provenance": weights.provenance,
    }


def _save_single_file(
    folder: Path, stem: str, layout: layouts.Layout, params: nets.Params
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = layouts.scatter(layout, names.to_torch(params))
    write_safetensors(folder / f"{stem}.safetensors", tensors)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")


def read_prompt(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(embeddings, texts) of ``tools/embed_prompt.py``'s .npz, or of safetensors.

    Raises:
        InputError: no such file, or no embedding in it.
    """
    if path.suffix == ".safetensors":
        tensors = open_file(path).tensors
        return {name: tensor.read() for name, tensor in tensors.items()}, {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            known = ("positive", "negative")
            prompt = {n: arrays[n] for n in known if n in arrays}
            texts = {
                n: str(arrays[f"text_{n}"]) for n in prompt if f"text_{n}" in arrays
            }
    except Exception as error:  # zipfile and numpy raise many types on damage
        raise InputError(
            f"{path} is no prompt file ({error}). Make one with tools/embed_prompt.py."
        ) from error
    return prompt, texts
