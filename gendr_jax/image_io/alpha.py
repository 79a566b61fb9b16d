"""Colours under transparency: what no one sees must not reach what is seen."""

import numpy as np


def bleed(rgb_hwc: np.ndarray, alpha_hw: np.ndarray) -> np.ndarray:
    """Colours of what is seen, spread under what is not (alpha 0).

    Means over 2x2, 4x4, ... pixels weighted by alpha, as far as there is none; pixels
    that show at all keep their colours. A picture that shows nowhere stays.
    """
    hidden = alpha_hw <= 0
    if not hidden.any() or hidden.all():
        return rgb_hwc
    return np.where(hidden[..., None], _filled(rgb_hwc, alpha_hw), rgb_hwc)


def _filled(rgb_hwc: np.ndarray, weight_hw: np.ndarray) -> np.ndarray:
    """Pixels without weight take the colour of the halved picture, filled alike."""
    if min(weight_hw.shape) == 1 or (weight_hw > 0).all():
        total = weight_hw.sum()
        if not (weight_hw <= 0).any() or total <= 0:
            return rgb_hwc
        mean = (rgb_hwc * weight_hw[..., None]).sum((0, 1)) / total
        return np.where((weight_hw <= 0)[..., None], mean, rgb_hwc)
    height, width = weight_hw.shape
    even = ((0, height % 2), (0, width % 2))
    weight = np.pad(weight_hw, even)
    sums = np.pad(rgb_hwc * weight_hw[..., None], (*even, (0, 0)))
    quarters = [(y, x) for y in (0, 1) for x in (0, 1)]
    zero = np.zeros((), weight.dtype)
    weight = sum((weight[y::2, x::2] for y, x in quarters), start=zero)
    sums = sum((sums[y::2, x::2] for y, x in quarters), start=zero)
    small = sums / np.maximum(weight, np.finfo(np.float32).tiny)[..., None]
    small = _filled(small, weight)
    large = small.repeat(2, 0).repeat(2, 1)[:height, :width]
    return np.where((weight_hw <= 0)[..., None], large, rgb_hwc)
