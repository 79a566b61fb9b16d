"""The README of an exported folder: how to use it from PyTorch, ready to copy.

What lives here: text. What does not: the folder (``export_files.py``).
"""

from gendr_jax.weights.gendr_json import Weights

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
extra = [(0, -height % {multiple}), (0, -width % {multiple}), (0, 0)]
x = np.pad(x / 127.5 - 1, extra, mode="reflect")
x = torch.tensor(x).permute(2, 0, 1)[None].to(vae.dtype)
with torch.no_grad():
    shift = vae.config.shift_factor or 0.0
    z_l = (vae.encode(x).latent_dist.mode() - shift) * vae.config.scaling_factor
    out = unet(z_l, torch.tensor([{t_star}]), prompt).sample
    z_g = {step}
    y = vae.decode(z_g / vae.config.scaling_factor + shift).sample
y = (y[0].float().clamp(-1, 1) + 1).permute(1, 2, 0)[:height, :width] * 127.5
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
