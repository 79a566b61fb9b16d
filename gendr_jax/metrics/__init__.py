"""How good a restored picture is: formulas on arrays, no files and no networks.

`psnr_ssim` (fidelity to a reference). Pictures are numpy arrays, results are float64
on the host: a metric is a figure in a table, not a term of a loss.
"""

from gendr_jax.metrics.psnr_ssim import luma, psnr, ssim

__all__ = ["luma", "psnr", "ssim"]
