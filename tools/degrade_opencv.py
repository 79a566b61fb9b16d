"""The degradation by OpenCV and NumPy, for comparing speed.

For tools/bench_degrade.py; not shipped, not run by a test. Distributions and kernels
are those of degrade_reference.py, the JPEG is libjpeg's.
"""

import cv2
import numpy as np

from tools.degrade_reference import NONE, Reference

MODES = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
LUMA = np.float32([0.2989, 0.587, 0.114])


def degrade(reference: Reference, rng, hq_hwc: np.ndarray, p: dict) -> np.ndarray:
    """uint8 -> uint8, four times smaller. rng: a NumPy generator."""
    x, end = hq_hwc.astype(np.float32) / 255, [n // 4 for n in hq_hwc.shape[:2]]
    for k in (1, 2):
        x = _filter(reference, x, p, f"k{k}_")
        sides = x.shape[:2] if k == 1 else end
        x = _resize(x, [int(n * p[f"s{k}"]) for n in sides], p[f"mode{k}"])
        x = _noise(rng, x, p, k)
        x = _jpeg(x, p["q1"]) if k == 1 else x
    x = x if p["jpeg_last"] else _jpeg(x, p["q2"])
    x = _filter(reference, _resize(x, end, p["mode3"]), p, "k3_")
    x = _jpeg(x, p["q2"]) if p["jpeg_last"] else x
    return np.clip(np.round(x * 255), 0, 255).astype(np.uint8)


def _filter(reference, x, p, at):
    if p[at + "kind"] == NONE:
        return x
    kernel, cut = reference.kernel(p, at), 10 - p[at + "size"] // 2
    return cv2.filter2D(x, -1, kernel[cut : 21 - cut, cut : 21 - cut])


def _resize(x, size, mode):
    return cv2.resize(x, size[::-1], interpolation=MODES[mode])


def _noise(rng, x, p, k):
    base = (x @ LUMA)[..., None] if p[f"gray{k}"] else x
    if p[f"gauss{k}"]:
        noise = rng.standard_normal(base.shape, np.float32) * (p[f"sigma{k}"] / 255)
    else:
        levels = np.clip(np.round(base * 255), 0, 255).astype(np.uint8)
        count = np.count_nonzero(np.bincount(levels.ravel(), minlength=256))
        v, b = 2 ** np.ceil(np.log2(count)), levels.astype(np.float32) / 255
        noise = (rng.poisson(b * v) / v - b).astype(np.float32) * p[f"shot{k}"]
    return np.clip(x + noise, 0, 1)


def _jpeg(x, quality):
    levels = np.clip(np.round(x * 255), 0, 255).astype(np.uint8)
    flags = [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
    _, stream = cv2.imencode(".jpg", levels, flags)
    return cv2.imdecode(stream, cv2.IMREAD_COLOR).astype(np.float32) / 255
