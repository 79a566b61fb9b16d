"""How far the mean colour of a restored picture is from the truth's."""

import numpy as np

from gendr_jax.errors import InputError
from gendr_jax.metrics.psnr_ssim import unit_range


def colour_error(sr: np.ndarray, gt: np.ndarray) -> float:
    """Mean over R, G, B of |mean(sr) - mean(gt)|, in levels of 255.

    Args:
        sr, gt: HWC with the same number of channels or HW: uint8, uint16, or floats in
            [0, 1]. Sizes may differ: only means are compared.

    Raises:
        InputError: no pictures, or different numbers of channels.
    """
    sr_hwc, gt_hwc = unit_range(sr, "the result"), unit_range(gt, "the truth")
    if sr_hwc.shape[2] != gt_hwc.shape[2]:
        raise InputError(
            f"the result has {sr_hwc.shape[2]} channels, the truth {gt_hwc.shape[2]}. "
            f"Convert both to RGB or both to grey."
        )
    difference_c = sr_hwc.mean((0, 1)) - gt_hwc.mean((0, 1))
    return float(255.0 * np.abs(difference_c).mean())
