"""README.md of an exported folder, and the PyTorch code that restores with it.

README.md has a program to copy; of a restorer, pipeline.py is a pipeline of diffusers
and model_index.json makes ``DiffusionPipeline.from_pretrained`` open the folder.
"""

import math
from typing import Any

from gendr_jax import nets
from gendr_jax.weights.gendr_json import Weights

# Mirrored pixels around a picture; the value of restore/tiling.py.
MARGIN = 32
DIFFUSERS_LORA = "pytorch_lora_weights.safetensors"
TITLE = """# Weights exported by gendr_jax

{contents}
"""
RESTORE = """
## Restoring a photograph in PyTorch

```python
import numpy as np
import torch
from diffusers import {classes}
from PIL import Image
from safetensors.torch import load_file

folder, source, scale = ".", "photo.jpg", 4
{vae}unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").eval()
{adapters}prompt = load_file(f"{{folder}}/prompt.safetensors")["positive"][None]
prompt = prompt.to(unet.dtype)

image = Image.open(source).convert("RGB")
width, height = round(scale * image.width), round(scale * image.height)
x = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float32)
# Mirrored beyond all edges: convolutions continue with zeros there.
extra = [({margin}, {after} + -side % {multiple}) for side in (height, width)]
x = np.pad(x / 127.5 - 1, [*extra, (0, 0)], mode="reflect")
x = torch.tensor(x).permute(2, 0, 1)[None].to(unet.dtype)
with torch.no_grad():
{networks}
y = (y[0].float().clamp(-1, 1) + 1).permute(1, 2, 0) * 127.5
y = y[{margin}:, {margin}:][:height, :width]
Image.fromarray(y.round().byte().numpy()).save("restored.png")
```

{method} `gendr restore` adds a colour
fix after this (AdaIN against the bicubic enlargement).
"""
PIPELINE = """
## As a pipeline of diffusers

```python
from diffusers import DiffusionPipeline
from PIL import Image

pipeline = DiffusionPipeline.from_pretrained(".", trust_remote_code=True)
pipeline(Image.open("photo.jpg"), scale=4).images[0].save("restored.png")
```

`trust_remote_code` runs `pipeline.py` of this folder: the program below.
"""
PIPELINE_CODE = '''\
"""One-step super-resolution as a pipeline of diffusers; written by gendr_jax."""

import os

import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from PIL import Image
from safetensors.torch import load_file


class GenDRPipeline(DiffusionPipeline):
    def __init__(
        self,
        unet,
        vae,
        prediction="eps",
        t_star=354,
        margin=32,
        after=32,
        multiple=64,
        adapters=False,
    ):
        super().__init__()
        self.register_modules(unet=unet, vae=vae)
        self.register_to_config(
            prediction=prediction,
            t_star=t_star,
            margin=margin,
            after=after,
            multiple=multiple,
            adapters=adapters,
        )
        self._prompt = None

    def _file(self, name):
        """A file of the folder, or of the repository, that this was loaded from."""
        source = str(self.config["_name_or_path"])
        if os.path.isdir(source):
            return os.path.join(source, name)
        from huggingface_hub import hf_hub_download

        return hf_hub_download(source, name)

    def _prepared(self):
        """The prompt; the first call also loads the folder's adapters."""
        if self._prompt is None:
            if self.config["adapters"]:
                folder, name = os.path.split(
                    self._file("pytorch_lora_weights.safetensors")
                )
                self.unet.load_lora_adapter(folder, weight_name=name, prefix="unet")
            self._prompt = load_file(self._file("prompt.safetensors"))["positive"][None]
        return self._prompt.to(self.unet.device, self.unet.dtype)

    @torch.no_grad()
    def __call__(self, image, scale=4):
        prompt, config, vae = self._prepared(), self.config, self.vae
        image = image.convert("RGB")
        width, height = round(scale * image.width), round(scale * image.height)
        up = image.resize((width, height), Image.Resampling.BICUBIC)
        # Mirrored beyond all edges: convolutions continue with zeros there.
        before, after = config["margin"], config["after"]
        extra = [(before, after + -s % config["multiple"]) for s in (height, width)]
        x = np.asarray(up, np.float32) / 127.5 - 1
        x = np.pad(x, [*extra, (0, 0)], mode="reflect")
        x = torch.tensor(x).permute(2, 0, 1)[None].to(vae.device, vae.dtype)
        shift = vae.config.shift_factor or 0.0
        factor = vae.config.scaling_factor
        z_l = (vae.encode(x).latent_dist.mode() - shift) * factor
        t = torch.tensor([config["t_star"]], device=self.unet.device)
        out = self.unet(z_l, t, prompt).sample
        if config["prediction"] == "v":
            z_g = 0.5**0.5 * (z_l - out)
        else:
            z_g = 2**0.5 * z_l - out
        y = vae.decode(z_g / factor + shift).sample
        y = (y[0].float().clamp(-1, 1) + 1).permute(1, 2, 0) * 127.5
        y = y[before:, before:][:height, :width].round().byte().cpu().numpy()
        return ImagePipelineOutput(images=[Image.fromarray(y)])
'''
BACK = """
## Back to JAX

```
gendr convert . -o WEIGHTS
```
"""
ADAPTERS = f"""\
unet.load_lora_adapter(folder, weight_name="{DIFFUSERS_LORA}", prefix="unet")
"""
VAE = """\
vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").eval()
"""
# The program's lines from the picture x to the result y, in [-1, 1], by kind.
GENDR = """\
    shift = vae.config.shift_factor or 0.0
    z_l = (vae.encode(x).latent_dist.mode() - shift) * vae.config.scaling_factor
    out = unet(z_l, torch.tensor([{t_star}]), prompt).sample
    z_g = {step}
    y = vae.decode(z_g / vae.config.scaling_factor + shift).sample"""
ADC = """\
    pixels = torch.nn.functional.pixel_unshuffle(x, {factor})
    z_g = unet(pixels, torch.tensor([{t_star}]), prompt).sample
    shift = vae.config.shift_factor or 0.0
    y = vae.decode(z_g / vae.config.scaling_factor + shift).sample"""
PIX = """\
    pixels = torch.nn.functional.pixel_unshuffle(x, {factor})
    out = unet(pixels, torch.tensor([{t_star}]), prompt).sample
    y = x + torch.nn.functional.pixel_shuffle(out, {factor})"""
METHODS = {
    "restorer": "One step of the network at alpha_bar = 1/2, without noise.",
    "adc": "One step of the network, from pixels to a latent.",
    "pix": "One step of the network, from pixels to pixels.",
}
STEPS = {
    "eps": "2**0.5 * z_l - out  # the network predicts the noise",
    "v": "0.5**0.5 * (z_l - out)  # the network predicts v",
}


def restores(weights: Weights) -> bool:
    """Whether the weights have all that pipeline.py needs."""
    return weights.kind not in ("adc", "pix") and _complete(weights, ("unet", "vae"))


def _complete(weights: Weights, networks: tuple[str, ...]) -> bool:
    return set(networks) <= weights.params.keys() and "positive" in weights.prompt


def model_index(weights: Weights) -> dict[str, Any]:
    """model_index.json of a restorer: the pipeline's class, networks and settings."""
    return {
        "_class_name": ["pipeline", "GenDRPipeline"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "prediction": weights.prediction,
        "t_star": weights.t_star,
        "margin": MARGIN,
        "after": _after(weights),
        "multiple": _multiple(weights),
        "adapters": "lora" in weights.params,
    }


def readme(weights: Weights) -> str:
    """The text for these weights, with a program where they suffice to restore."""
    lines = []
    for name, params in weights.params.items():
        config = weights.configs[name]
        lines.append(
            f"- `{name}`: {type(config).__name__}, {nets.count(params):,} numbers"
        )
    if weights.prompt:
        shapes = {n: tuple(x.shape) for n, x in weights.prompt.items()}
        lines.append(f"- `prompt.safetensors`: {shapes}")
    text = TITLE.format(contents="\n".join(lines))
    if restores(weights):
        text += PIPELINE + _program(weights, "restorer", GENDR)
    elif weights.kind == "adc" and _complete(weights, ("unet", "vae")):
        text += _program(weights, "adc", ADC)
    elif weights.kind == "pix" and _complete(weights, ("unet",)):
        text += _program(weights, "pix", PIX)
    return text + BACK


def _program(weights: Weights, kind: str, networks: str) -> str:
    """README.md's program of this kind."""
    with_vae = kind != "pix"
    return RESTORE.format(
        classes="AutoencoderKL, UNet2DConditionModel"
        if with_vae
        else "UNet2DConditionModel",
        vae=VAE if with_vae else "",
        adapters=ADAPTERS if "lora" in weights.params else "",
        multiple=_multiple(weights),
        margin=MARGIN,
        after=_after(weights),
        networks=networks.format(
            t_star=weights.t_star,
            step=STEPS[weights.prediction],
            factor=_factor(weights),
        ),
        method=METHODS[kind],
    )


def _factor(weights: Weights) -> int:
    """Pixels a side for each position of the UNet's input."""
    if weights.kind in ("adc", "pix"):
        return math.isqrt(weights.configs["unet"].in_channels // 3)
    return weights.configs["vae"].factor


def _after(weights: Weights) -> int:
    """Mirrored pixels below and to the right, without those that fill a multiple."""
    multiple = _multiple(weights)
    return -(-2 * MARGIN // multiple) * multiple - MARGIN


def _multiple(weights: Weights) -> int:
    """Padded sides are multiples of this, so that every feature map has even sides."""
    halvings = len(weights.configs["unet"].block_out_channels) - 1
    return max(64, _factor(weights) * 2**halvings)
