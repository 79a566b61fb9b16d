"""How good a restored picture is: formulas on arrays, no files and no networks.

    psnr_ssim.py              fidelity to a reference
    naturalness.py            NIQE, distance from the statistics of photographs
    mean_colour.py            colour shift against a reference
    sharpness_blockiness.py   of one picture
    upsampling_grid.py        the grid that an upsampler leaves

Pictures are numpy arrays, results are float64 on the host: a metric is a figure in a
table, not a term of a loss. Above these, and not imported here:

    kinds.py        what a metric is: its settings, and the function once opened
    table.py        every metric under the name that `gendr evaluate` takes
    perceptual.py   LPIPS, DISTS and DINOv2 distances, with weights
    pyiqa_bridge.py metrics of pyiqa, where it is installed
    niqe_files.py   NIQE's parameters in files, and from a folder
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
