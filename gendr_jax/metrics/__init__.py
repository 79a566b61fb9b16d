"""Image quality metrics: formulas on arrays, without files and networks.

    psnr_ssim.py              fidelity to a reference
    naturalness.py            NIQE, distance from the statistics of photographs
    mean_colour.py            colour shift against a reference
    sharpness_blockiness.py   no-reference figures of one picture
    upsampling_grid.py        visibility of an upsampler's periodic grid

Pictures are numpy arrays, results are float64 on the host: these are not losses. Not
imported here:

    kinds.py        types: a metric, its settings, an opened metric
    table.py        every metric under the name that `gendr evaluate` takes
    perceptual.py   LPIPS, DISTS and DINOv2 distances, with weights
    pyiqa_bridge.py metrics of pyiqa, if it is installed
    niqe_files.py   NIQE's parameters from files, or fitted to a folder
"""

from gendr_jax.metrics.mean_colour import colour_error
from gendr_jax.metrics.naturalness import Pristine, fit_niqe, niqe
from gendr_jax.metrics.psnr_ssim import luma, psnr, ssim
from gendr_jax.metrics.sharpness_blockiness import blockiness, sharpness
from gendr_jax.metrics.upsampling_grid import upsampling_grid

__all__ = [
    "Pristine",
    "blockiness",
    "colour_error",
    "fit_niqe",
    "luma",
    "niqe",
    "psnr",
    "sharpness",
    "ssim",
    "upsampling_grid",
]
