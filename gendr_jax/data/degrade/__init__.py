"""Real-ESRGAN's second-order degradation as one pure, keyed, batched function.

    recipe.py    presets by name: ranges and probabilities
    draws.py     one sample's random parameters from its key
    chain.py     the order of the stages, canvases, `degrade`
    batch.py     the loop over samples, split over devices
    kernels.py   blur kernels        blur.py     filtering
    resize.py    area, bilinear, bicubic as matrices
    noise.py     Gaussian and shot   fields.py   fields of standard normals
    jpeg.py      DiffJPEG            unsharp.py  sharpening of the ground truth

Deliberate differences from the reference: every parameter is drawn by sample, not by
batch, so no pool of training pairs is needed; the result is rounded to 8 bits at its
own size, as files are; samples never share a noise field.
"""

from gendr_jax.data.degrade.chain import degrade, sample_keys
from gendr_jax.data.degrade.recipe import PRESETS, Recipe, recipe
from gendr_jax.data.degrade.unsharp import sharpen

__all__ = ["PRESETS", "Recipe", "degrade", "recipe", "sample_keys", "sharpen"]
