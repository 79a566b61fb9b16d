"""Real-ESRGAN's second-order degradation as one pure, keyed, batched function.

    recipe.py    the numbers: presets by name
    draws.py     the laws: one sample's parameters from its key
    chain.py     the order of the stages, canvases, `degrade`
    batch.py     the loop over samples, split over devices
    kernels.py   blur kernels        blur.py     filtering
    resize.py    area, bilinear, bicubic as matrices
    noise.py     Gaussian and shot   fields.py   the normals they are made of
    jpeg.py      DiffJPEG            unsharp.py  sharpening of the truth (StableSR)

Differences from the reference, on purpose: every draw is by sample, not by batch, so
there is no pool of training pairs; the result is rounded to 8 bits at its own size,
as files are; colour and gray noise fields are never shared between samples.
"""

from gendr_jax.data.degrade.chain import degrade, sample_keys
from gendr_jax.data.degrade.recipe import PRESETS, Recipe, recipe
from gendr_jax.data.degrade.unsharp import sharpen

__all__ = ["PRESETS", "Recipe", "degrade", "recipe", "sample_keys", "sharpen"]
