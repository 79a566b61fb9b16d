"""Folders for PyTorch, out of our weights: a whole pipeline, or adapters.

DIR/unet/ DIR/vae/ DIR/dinov2/   component folders (config.json, safetensors)
DIR/lpips/ DIR/dists/            one safetensors file, torchvision's names
DIR/prompt.safetensors           the fixed prompt embeddings
DIR/scheduler/                   diffusers' words for the noise schedule
DIR/gendr_export.json            what else our own folders say; read on the way back
DIR/README.md                    inference in PyTorch, to copy
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from gendr_jax import nets
from gendr_jax.errors import InputError, UsageError
from gendr_jax.models.heads import RepaProjectorConfig
from gendr_jax.version import __version__
from gendr_jax.weights import gendr_json
from gendr_jax.weights.foreign import (
    component_folder,
    dists,
    layouts,
    lora,
    lpips,
    names,
)
from gendr_jax.weights.foreign.open_file import open_file
from gendr_jax.weights.foreign.tensors import write_safetensors
from gendr_jax.weights.gendr_json import Weights

# Mirrored pixels around a picture, as the restorer has them (restore/tiling.py).
MARGIN = 32
SETTINGS, PROMPT = "gendr_export.json", "prompt.safetensors"
PROJECTOR = "projector.safetensors"
PEFT_FILE, DIFFUSERS_LORA = (
    "adapter_model.safetensors",
    "pytorch_lora_weights.safetensors",
)
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
        InputError: arrays that are not whole networks.
        UsageError: a network that PyTorch libraries have no file for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, params in weights.params.items():
        if name == "lpips":
            config = weights.configs[name]
            layout = lpips.layout(config, "torchvision")
            _save_bare(folder / name, f"lpips_{config.net}", layout, params)
        elif name == "dists":
            layout = dists.layout(weights.configs[name], "torchvision")
            _save_bare(folder / name, name, layout, params)
        elif name in ("unet", "vae", "dinov2"):
            component_folder.save_component(
                folder / name, weights.configs[name], params
            )
        elif name == "lora":
            config = weights.configs["lora"]
            tensors, metadata = lora.to_diffusers(config, params)
            write_safetensors(folder / DIFFUSERS_LORA, tensors, metadata)
        elif name == "projector":
            write_safetensors(folder / PROJECTOR, names.to_torch(params))
        else:
            raise UsageError(f"{name} has no form in PyTorch. Leave it out.")
    if weights.prompt:
        write_safetensors(folder / PROMPT, weights.prompt)
    if "unet" in weights.params:
        kind = "v_prediction" if weights.prediction == "v" else "epsilon"
        (folder / "scheduler").mkdir()
        _write_json(
            folder / "scheduler" / "scheduler_config.json",
            SCHEDULER | {"prediction_type": kind},
        )
    _write_json(folder / SETTINGS, _settings(weights))
    (folder / "README.md").write_text(readme(weights), "utf-8")


def adapters_alone(weights: Weights) -> Weights:
    """What --to peft writes of these weights.

    Raises:
        UsageError: no adapters.
    """
    if "lora" not in weights.params:
        kept = ", ".join(weights.params) or "nothing"
        raise UsageError(
            f"--to peft takes adapters, the source holds {kept}. Use --to diffusers."
        )
    params = {"lora": weights.params["lora"]}
    return dataclasses.replace(weights, kind="lora", params=params, prompt={})


def save_peft(folder: Path, weights: Weights) -> None:
    """The adapters as a folder of PEFT."""
    folder.mkdir(parents=True, exist_ok=True)
    config, params = weights.configs["lora"], weights.params["lora"]
    tensors, settings = lora.to_peft(config, params)
    write_safetensors(folder / PEFT_FILE, tensors)
    _write_json(folder / "adapter_config.json", settings)


def read_settings(folder: Path) -> dict[str, Any]:
    """What ``save_pipeline`` wrote beside the networks, the prompt included; or {}."""
    if not (folder / SETTINGS).is_file():
        return {}
    settings = component_folder.read_json(folder / SETTINGS)
    gendr_json.check_settings(folder / SETTINGS, settings)
    if (folder / PROMPT).is_file():
        tensors = open_file(folder / PROMPT).tensors
        settings["prompt"] = {name: tensor.read() for name, tensor in tensors.items()}
    elif settings.get("kind") == "restorer":
        raise InputError(
            f"{folder / PROMPT} is missing, {SETTINGS} says kind restorer. "
            "Copy the whole folder again."
        )
    if "projector" in settings:
        where = str(folder / SETTINGS)
        config = gendr_json.config(RepaProjectorConfig, settings["projector"], where)
        tensors = open_file(folder / PROJECTOR).tensors
        params = names.from_torch({n: tensor.read() for n, tensor in tensors.items()})
        settings["projector"] = (config, params)
    return settings


def _settings(weights: Weights) -> dict[str, Any]:
    ours = {
        n: dataclasses.asdict(weights.configs[n])
        for n in weights.params
        if n == "projector"
    }
    return ours | {
        "gendr_jax": __version__,
        "kind": weights.kind,
        "prediction_type": weights.prediction,
        "t_star": weights.t_star,
        "prompt_text": weights.prompt_text,
        "provenance": weights.provenance,
    }


def _save_bare(
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


TITLE = """# Weights exported by gendr_jax

{contents}
"""
RESTORE = """
## Restoring a photograph in PyTorch

```python
import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

folder, source, scale = ".", "photo.jpg", 4
vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").eval()
unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").eval()
prompt = load_file(f"{{folder}}/prompt.safetensors")["positive"][None].to(unet.dtype)

image = Image.open(source).convert("RGB")
width, height = round(scale * image.width), round(scale * image.height)
x = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float32)
# Mirrored beyond all edges: convolutions continue with zeros there.
extra = [({margin}, {after} + -side % {multiple}) for side in (height, width)]
x = np.pad(x / 127.5 - 1, [*extra, (0, 0)], mode="reflect")
x = torch.tensor(x).permute(2, 0, 1)[None].to(vae.dtype)
with torch.no_grad():
    shift = vae.config.shift_factor or 0.0
    z_l = (vae.encode(x).latent_dist.mode() - shift) * vae.config.scaling_factor
    out = unet(z_l, torch.tensor([{t_star}]), prompt).sample
    z_g = {step}
    y = vae.decode(z_g / vae.config.scaling_factor + shift).sample
y = (y[0].float().clamp(-1, 1) + 1).permute(1, 2, 0) * 127.5
y = y[{margin}:, {margin}:][:height, :width]
Image.fromarray(y.round().byte().numpy()).save("restored.png")
```

One step of the network at alpha_bar = 1/2, without noise. `gendr restore` adds a colour
fix after this (AdaIN against the bicubic enlargement).
"""
BACK = """
## Back to JAX

```
gendr convert . -o WEIGHTS
```
"""
STEPS = {
    "eps": "2**0.5 * z_l - out  # the network predicts the noise",
    "v": "0.5**0.5 * (z_l - out)  # the network predicts v",
}


def readme(weights: Weights) -> str:
    """The text for these weights; the PyTorch lines where all they take is there."""
    lines = []
    for name, params in weights.params.items():
        config = weights.configs[name]
        lines.append(f"- `{name}`: {type(config).__name__}, {_count(params):,} numbers")
    if weights.prompt:
        shapes = {n: tuple(x.shape) for n, x in weights.prompt.items()}
        lines.append(f"- `prompt.safetensors`: {shapes}")
    text = TITLE.format(contents="\n".join(lines))
    if {"unet", "vae"} <= weights.params.keys() and "positive" in weights.prompt:
        text += RESTORE.format(
            multiple=_multiple(weights),
            margin=MARGIN,
            after=-(-2 * MARGIN // _multiple(weights)) * _multiple(weights) - MARGIN,
            t_star=weights.t_star,
            step=STEPS[weights.prediction],
        )
    return text + BACK


def _multiple(weights: Weights) -> int:
    """Pixels that padded sides are multiples of, so that all maps are even."""
    vae, unet = weights.configs["vae"], weights.configs["unet"]
    return max(64, vae.factor * 2 ** (len(unet.block_out_channels) - 1))


def _count(params: dict) -> int:
    leaves = [v for v in params.values() if not isinstance(v, dict)]
    inner = [_count(v) for v in params.values() if isinstance(v, dict)]
    return sum(leaf.size for leaf in leaves) + sum(inner)
