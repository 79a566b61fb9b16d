"""How good a restored picture is: formulas on arrays, no files and no networks.

`psnr_ssim` (fidelity to a reference), `figures` (sharpness and blockiness of one
picture). Pictures are numpy arrays, results are float64 on the host: a metric is a
figure in a table, not a term of a loss. `table` joins them, and those that need files
or networks, under the names that `gendr evaluate` takes; it is not imported here.
"""

from gendr_jax.metrics.figures import blockiness, sharpness
from gendr_jax.metrics.psnr_ssim import luma, psnr, ssim

__all__ = ["blockiness", "luma", "psnr", "sharpness", "ssim"]
