"""Benchmark conversions at full size: time and memory, with random weights.

    python tools/bench_convert.py WORK [--formats diffusers,bin,shards,ldm,...]

Each format is written to WORK by its own library, converted to a weights folder and
back by `gendr convert` in processes of their own, and compared byte for byte. Prints a
line of JSON a format: seconds, peak resident bytes over the file's bytes, byte_equal.
Needs torch, diffusers, transformers, peft.
"""

import argparse
import functools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

# The peak memory of a process that has ended: only its parent can read it.
PROBE = (
    "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024); "
    "sys.exit(code)"
)
SD21 = {
    "in_channels": 16,
    "out_channels": 16,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "sample_size": 64,
}
VAE16 = {
    "block_out_channels": (128, 128, 256, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
    "scaling_factor": 0.2614,
}
FORMATS = (
    "diffusers",
    "pipeline",
    "shards",
    "bin",
    "fp16",
    "bf16",
    "ldm",
    "ckpt",
    "dinov2",
    "dinov2_hub",
    "lpips",
    "peft",
    "kohya",
)
Made = tuple[list[Path], list[str], Callable[[Path], bool]]
Tensors = dict[str, torch.Tensor]
EPS = ["--prediction", "eps"]


def run(*arguments: object) -> tuple[float, int]:
    """(seconds, peak resident bytes) of `gendr convert` with these arguments."""
    command = [sys.executable, "-c", PROBE, sys.executable, "-m", "gendr_jax.cli.main"]
    command += ["convert", *map(str, arguments)]
    begin = time.perf_counter()
    completed = subprocess.run(command, capture_output=True, text=True)
    if completed.returncode:
        raise SystemExit(completed.stderr)
    return time.perf_counter() - begin, int(completed.stdout.split()[-1])


def measure(name: str, work: Path) -> dict[str, object]:
    """One format, converted and converted back."""
    source, flags, equal = make(name, work / name)
    files = [p for s in source for p in ([s] if s.is_file() else s.rglob("*.*"))]
    size = sum(p.stat().st_size for p in files)
    seconds, peak = run(*source, "-o", work / f"{name}-ours", *flags)
    to = "peft" if name == "peft" else "diffusers"
    ours, back = work / f"{name}-ours", work / f"{name}-back"
    back_seconds, peak_back = run(ours, "-o", back, "--to", to)
    result = {
        "format": name,
        "gigabytes": round(size / 1e9, 3),
        "seconds": round(seconds, 1),
        "peak_over_file": round(peak / size, 2),
        "back_seconds": round(back_seconds, 1),
        "back_peak_over_file": round(peak_back / size, 2),
        "byte_equal": equal(work / f"{name}-back"),
    }
    for folder in (name, f"{name}-ours", f"{name}-back"):
        shutil.rmtree(work / folder)
    return result


def make(name: str, work: Path) -> Made:
    """(sources, flags of `gendr convert`, whether what came back is equal)."""
    work.mkdir(parents=True)
    if name in ("ldm", "ckpt"):
        return _ldm(work, name)
    if name.startswith("dinov2"):
        return _dinov2(work, name)
    if name == "lpips":
        return _lpips(work)
    if name in ("peft", "kohya"):
        return _lora(work, name)
    return _diffusers(work, name)


def fill(module: torch.nn.Module, dtype: torch.dtype = torch.float32) -> Tensors:
    """Random weights for a module on the meta device; cheap, no two alike."""
    pool = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)) * 0.02
    state = {}
    for i, (name, tensor) in enumerate(module.state_dict().items()):
        flat = np.resize(np.roll(pool.numpy(), 7 * i), tensor.numel())
        state[name] = torch.from_numpy(flat.reshape(tensor.shape)).to(dtype)
    return state


def _unet() -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**SD21)


def _vae() -> torch.nn.Module:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        return AutoencoderKL(**VAE16)


def read(folder: Path) -> Tensors:
    """Every tensor of a folder's weights, by torch and safetensors."""
    from safetensors.torch import load_file

    state: Tensors = {}
    for file in sorted(folder.iterdir()):
        if file.suffix == ".safetensors":
            state |= load_file(file)
        elif file.suffix in (".bin", ".ckpt", ".pth"):
            state |= torch.load(file, weights_only=True, mmap=True)
    return state


def equal(ours: Tensors, theirs: Tensors) -> bool:
    """Same names, dtypes, shapes, bits."""
    return ours.keys() == theirs.keys() and all(
        ours[n].dtype == t.dtype and torch.equal(ours[n], t) for n, t in theirs.items()
    )


def _save(module: torch.nn.Module, state: Tensors, folder: Path, **options) -> None:
    module.load_state_dict(state, assign=True)
    module.save_pretrained(folder, **options)


def _diffusers(work: Path, name: str) -> Made:
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(name, torch.float32)
    options = {"max_shard_size": "1GB"} if name == "shards" else {}
    options["safe_serialization"] = name != "bin"
    if name != "shards":
        options["max_shard_size"] = "99GB"
    unet = _unet()
    _save(unet, fill(unet, dtype), work / "unet", **options)
    components = ["unet"]
    if name == "pipeline":
        vae = _vae()
        _save(vae, fill(vae), work / "vae", **options)
        components.append("vae")

    def same(back: Path) -> bool:
        return all(
            equal(read(back / component), read(work / component))
            for component in components
        )

    return ([work] if name == "pipeline" else [work / "unet"]), EPS, same


def _ldm(work: Path, name: str) -> Made:
    """diffusers has no writer of LDM files; our layout writes and diffusers reads."""
    from diffusers.loaders import single_file_utils
    from safetensors.torch import save_file

    from gendr_jax.models.unet import UNetConfig
    from gendr_jax.models.vae import VAEConfig
    from gendr_jax.weights.foreign import ldm

    unet, vae = fill(_unet()), fill(_vae())
    config = VAEConfig(block_out_channels=VAE16["block_out_channels"])
    file: Tensors = {}
    for layout, state, prefix in (
        (ldm.unet_layout(UNetConfig()), unet, ldm.UNET_PREFIX),
        (ldm.vae_layout(config), vae, ldm.VAE_PREFIX),
    ):
        for ours, stored in layout.items():
            file[prefix + stored.name] = state[ours].reshape(stored.shape)
    path = work / ("model.safetensors" if name == "ldm" else "model.ckpt")
    if name == "ldm":
        save_file(file, path)
    else:
        torch.save({"state_dict": file, "global_step": 220000}, path)
    convert = single_file_utils.convert_ldm_unet_checkpoint
    config = SD21 | {"layers_per_block": 2, "class_embed_type": None}
    config |= {"addition_embed_type": None}
    expected = convert(dict(file), config)

    def same(back: Path) -> bool:
        return equal(read(back / "unet"), expected) and equal(read(back / "vae"), vae)

    return [path], [*EPS, "--scaling-factor", "0.2614"], same


def _dinov2(work: Path, name: str) -> Made:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=1024, num_hidden_layers=24, image_size=518,
                          num_attention_heads=16)  # fmt: skip
    with torch.device("meta"):
        model = Dinov2Model(config)
    source = work / "hf"
    _save(model, fill(model), source)
    state = read(source)  # names in files are older than those in memory
    if name == "dinov2_hub":
        source = work / "dinov2_vitl14_pretrain.pth"
        torch.save(_hub(state), source)

    def same(back: Path) -> bool:
        return equal(read(back / "dinov2"), state)

    return [source], [], same


def _hub(state: Tensors) -> Tensors:
    """transformers' names as the original repository spells them, by hand."""
    renamed = {
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.": "",
        "encoder.layer.": "blocks.",
        "attention.output.dense": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "layernorm.": "norm.",
    }
    hub: Tensors = {}
    for name, tensor in state.items():
        if ".attention.attention." not in name:
            spelt = functools.reduce(lambda n, w: n.replace(*w), renamed.items(), name)
            hub[spelt] = tensor
        elif ".query." in name:
            key, value = (name.replace("query", w) for w in ("key", "value"))
            spelt = name.replace("attention.attention.query", "attn.qkv")
            spelt = spelt.replace("encoder.layer.", "blocks.")
            hub[spelt] = torch.cat([tensor, state[key], state[value]])
    return hub


def _lpips(work: Path) -> Made:
    """The trunk as torchvision numbers it, the heads as the lpips package does."""
    pairs = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)]
    pairs += [(256, 256), (256, 512)] + [(512, 512)] * 5
    at = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    trunk: Tensors = {}
    for i, (cin, cout) in zip(at, pairs, strict=True):
        trunk[f"features.{i}.weight"] = torch.randn(cout, cin, 3, 3)
        trunk[f"features.{i}.bias"] = torch.randn(cout)
    heads = {
        f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1)
        for i, c in enumerate((64, 128, 256, 512, 512))
    }
    used = trunk | heads
    torch.save(trunk | {"classifier.0.bias": torch.randn(4096)}, work / "vgg16.pth")
    torch.save(heads, work / "vgg.pth", _use_new_zipfile_serialization=False)
    return [work], [], lambda back: equal(read(back / "lpips"), used)


def _lora(work: Path, name: str) -> Made:
    """Rank 64 on OSEDiff's 258 modules."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    from gendr_jax.models.lora import UNET_TARGETS

    config = LoraConfig(r=64, lora_alpha=128, target_modules=list(UNET_TARGETS))
    unet = _unet()
    inject_adapter_in_model(config, unet)
    adapters = get_peft_model_state_dict(unet)
    module = torch.nn.Module()
    module.state_dict = lambda: adapters
    state = fill(module)
    if name == "peft":
        expected = {f"base_model.model.{n}": t for n, t in state.items()}
        save_file(expected, work / "adapter_model.safetensors")
        (work / "adapter_config.json").write_text(json.dumps(_plain(config)))
        return [work], [], lambda back: equal(read(back), expected)
    kohya: Tensors = {}
    for full_name, tensor in state.items():
        layer, _, factor = full_name.removesuffix(".weight").rpartition(".")
        factor = {"lora_A": "lora_down", "lora_B": "lora_up"}[factor]
        spelt = "lora_unet_" + layer.replace(".", "_")
        kohya[f"{spelt}.{factor}.weight"] = tensor
        kohya[f"{spelt}.alpha"] = torch.tensor(128.0)
    save_file(kohya, work / "kohya.safetensors")
    expected = {f"unet.{n}": t for n, t in state.items()}
    return [work / "kohya.safetensors"], [], lambda back: equal(read(back), expected)


def _plain(config) -> dict:
    return {
        k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--formats", default=",".join(FORMATS))
    args = parser.parse_args()
    for name in args.formats.split(","):
        print(json.dumps(measure(name, args.work)), flush=True)


if __name__ == "__main__":
    main()
