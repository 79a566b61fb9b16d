"""Fill the colours of transparent pixels from their surroundings.

A file may have any colour where alpha is 0. Resizing and networks would mix it into
visible neighbours.
"""

import numpy as np


def bleed(rgb_hwc: np.ndarray, alpha_hw: np.ndarray) -> np.ndarray:
    """Colours where pixels with alpha 0 get those of visible pixels near them.

    A pixel gets the mean, weighted by alpha, of the smallest block of 2x2, 4x4, ...
    pixels that has a visible one; visible pixels keep their colours. A picture without
    visible pixels is returned as it is.
    """
    hidden = alpha_hw <= 0
    if not hidden.any() or hidden.all():
        return rgb_hwc
    return np.where(hidden[..., None], _filled(rgb_hwc, alpha_hw), rgb_hwc)


def _filled(rgb_hwc: np.ndarray, weight_hw: np.ndarray) -> np.ndarray:
    """Pixels of weight 0 get the colour of the picture at half size, recursively."""
    if min(weight_hw.shape) == 1 or (weight_hw > 0).all():
        total = weight_hw.sum()
        if not (weight_hw <= 0).any() or total <= 0:
            return rgb_hwc
        mean = (rgb_hwc * weight_hw[..., None]).sum((0, 1)) / total
        return np.where((weight_hw <= 0)[..., None], mean, rgb_hwc)
    height, width = weight_hw.shape
    padding = ((0, height % 2), (0, width % 2))
    weight = np.pad(weight_hw, padding)
    sums = np.pad(rgb_hwc * weight_hw[..., None], (*padding, (0, 0)))
    quarters = [(y, x) for y in (0, 1) for x in (0, 1)]
    zero = np.zeros((), weight.dtype)
    weight = sum((weight[y::2, x::2] for y, x in quarters), start=zero)
    sums = sum((sums[y::2, x::2] for y, x in quarters), start=zero)
    half = sums / np.maximum(weight, np.finfo(np.float32).tiny)[..., None]
    half = _filled(half, weight)
    enlarged = half.repeat(2, 0).repeat(2, 1)[:height, :width]
    return np.where((weight_hw <= 0)[..., None], enlarged, rgb_hwc)
