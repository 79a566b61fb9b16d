"""Small weights sources of every format that conversion reads, of random numbers."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from gendr_jax import nets
from gendr_jax.models.dinov2 import DINOv2, DINOv2Config
from gendr_jax.models.lora import LoRAConfig
from gendr_jax.models.lpips import LPIPS, LPIPSConfig
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.weights import convert, export
from gendr_jax.weights.foreign import (
    component_folder,
    dinov2,
    layouts,
    ldm,
    lpips,
    names,
)
from gendr_jax.weights.foreign.adapters import lora_names
from gendr_jax.weights.foreign.single_files import Hints
from gendr_jax.weights.foreign.tensors import write_safetensors
from gendr_jax.weights.gendr_json import Weights

SMALL = UNetConfig(4, 4, (8, 16), 1, (1, 2), (True, False), 8, 4)
SMALL_VAE = VAEConfig(3, 4, (8, 8), 1, 4)
# An LDM file has neither groups nor heads: 32, and 8 where the context is 768 wide.
LDM = UNetConfig(4, 4, (32, 32), 1, (8, 8), (False, False), 768, 32)
LDM_VAE = VAEConfig(3, 4, (32, 32), 1, 32, scaling_factor=0.18215)
DINO = DINOv2Config(64, 2, 1, image_size=28)
LORA = LoRAConfig(2, 4.0)
STEM = "diffusion_pytorch_model"


@dataclasses.dataclass(frozen=True)
class Source:
    """Arguments of ``convert``: paths below the source's folder, and hints."""

    paths: tuple[str, ...] = (".",)
    hints: Hints = Hints(prediction="eps")


SOURCES = {
    "diffusers": Source(hints=Hints()),  # its scheduler says it
    "sharded": Source(),
    "bin": Source(),
    "ldm.ckpt": Source(("a.ckpt",)),
    "ldm.safetensors": Source(("a.safetensors",)),
    "dinov2.pth": Source(("a.pth",)),
    "legacy.pth": Source(("a.pth",)),
    "lpips": Source(),
    "peft": Source(("unet", "lora")),
    "kohya": Source(("unet", "lora.safetensors")),
    "gendr": Source(),
}


def _random(model, config, seed: int = 0) -> nets.Params:
    rng = np.random.default_rng(seed)
    abstract = nets.build(model, config).abstract
    return jax.tree.map(lambda a: rng.standard_normal(a.shape, np.float32), abstract)


def _scattered(layout, params, prefix: str = "") -> dict[str, np.ndarray]:
    tensors = layouts.scatter(layout, names.to_torch(params))
    return {prefix + name: array for name, array in tensors.items()}


def _torch_save(path: Path, content: dict, **options) -> None:
    import torch

    def convert_one(value):
        if isinstance(value, dict):
            return {name: convert_one(inner) for name, inner in value.items()}
        return torch.tensor(value) if isinstance(value, np.ndarray) else value

    torch.save(convert_one(content), path, **options)


def make(name: str, folder: Path) -> None:
    """Write the source ``name`` of ``SOURCES`` into a new folder."""
    folder.mkdir(parents=True)
    if name in ("diffusers", "gendr"):
        params = {"unet": _random(UNet, SMALL), "vae": _random(VAE, SMALL_VAE)}
        configs = {"unet": SMALL, "vae": SMALL_VAE}
        weights = Weights(kind="base", configs=configs, params=params)
        convert.write(folder, weights, "orbax" if name == "gendr" else name)
    elif name in ("sharded", "bin"):
        model, config = (UNet, SMALL) if name == "sharded" else (VAE, SMALL_VAE)
        params = _random(model, config)
        component_folder.save_component(folder, config, params)
        (folder / f"{STEM}.safetensors").unlink()
        if name == "sharded":
            _shards(folder, names.to_torch(params))
        else:
            _torch_save(folder / f"{STEM}.bin", names.to_torch(params))
    elif name == "ldm.ckpt":
        _torch_save(folder / "a.ckpt", {"state_dict": _ldm(), "global_step": 3})
    elif name == "ldm.safetensors":
        write_safetensors(folder / "a.safetensors", _ldm())
    elif name in ("dinov2.pth", "legacy.pth"):
        tensors = _scattered(dinov2.layout(DINO), _random(DINOv2, DINO))
        zipped = name == "dinov2.pth"
        _torch_save(folder / "a.pth", tensors, _use_new_zipfile_serialization=zipped)
    elif name == "lpips":
        config = LPIPSConfig("alexnet")
        layout = lpips.layout(config, "torchvision")
        tensors = _scattered(layout, _random(LPIPS, config))
        trunk = {n: a for n, a in tensors.items() if n.startswith("features")}
        write_safetensors(folder / "alexnet.safetensors", trunk)
        heads = {n: a for n, a in tensors.items() if n not in trunk}
        _torch_save(folder / "heads.pth", heads)
    else:
        component_folder.save_component(folder / "unet", SMALL, _random(UNet, SMALL))
        _adapters(name, folder)


def _shards(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    weight_map = {n: f"{STEM}-{i % 2}.safetensors" for i, n in enumerate(tensors)}
    for shard in set(weight_map.values()):
        shard_tensors = {n: a for n, a in tensors.items() if weight_map[n] == shard}
        write_safetensors(folder / shard, shard_tensors)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps(index))


def _ldm() -> dict[str, np.ndarray]:
    params, layout = _random(UNet, LDM), ldm.unet_layout(LDM)
    unet = _scattered(layout, params, ldm.UNET_PREFIX)
    averages = _scattered(layout, _random(UNet, LDM, 1), ldm.UNET_PREFIX)
    vae = _scattered(ldm.vae_layout(LDM_VAE), _random(VAE, LDM_VAE), ldm.VAE_PREFIX)
    text = {"cond_stage_model.x.weight": np.ones((3, 5), np.float32)}
    average = {ldm.ema_name(name): array for name, array in averages.items()}
    return unet | vae | text | average


def _adapters(name: str, folder: Path) -> None:
    adapted = nets.split_lora(nets.build(UNet, SMALL, lora=LORA).abstract)[1]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: rng.standard_normal(a.shape, np.float32), adapted)
    if name == "peft":
        weights = Weights(kind="lora", configs={"lora": LORA}, params={"lora": params})
        export.save_peft(folder / "lora", weights)
        return
    tensors = {}
    for name_in_torch, array in names.to_torch(params).items():
        module, factor = name_in_torch.removesuffix(".weight").rsplit(".", 1)
        stem = "lora_unet_" + module.replace(".", "_")
        kohya_factor = {"lora_A": "lora_down", "lora_B": "lora_up"}[factor]
        tensors[f"{stem}.{kohya_factor}.weight"] = array
        tensors[f"{stem}.alpha"] = np.float32(LORA.alpha).reshape(())
    assert lora_names.recognise(tensors) == "kohya"
    write_safetensors(folder / "lora.safetensors", tensors)
