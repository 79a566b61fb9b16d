"""PSNR and SSIM by the protocol of published super-resolution tables.

The protocol (pyiqa `psnr`/`ssim` with test_y_channel=True, color_space="ycbcr"),
checked against the per-image logs of OSEDiff to 1e-5 dB:

    Y     = (65.481 R + 128.553 G + 24.966 B + 16) / 255    BT.601 studio range (1)
    PSNR  = 10 log10(1 / (mean (Y_sr - Y_gt)^2 + 1e-8))     Y not rounded       (2)
    SSIM  = mean over valid windows of
            (2 m1 m2 + C1) / (m1^2 + m2^2 + C1)
            * max(0, (2 s12 + C2) / (s1^2 + s2^2 + C2))     on round(255 Y)     (3)
            11x11 Gaussian, sigma 1.5, C1 = (.01*255)^2, C2 = (.03*255)^2

Other papers differ by more than the methods they compare: RGB is lower by 1.6 to 2.1
dB, a crop of `scale` pixels higher by up to 0.1 dB. State channel and crop with a
figure. Not here: reading files, averaging over a test set, no-reference metrics.
"""

from typing import Literal

import numpy as np

from gendr_jax.errors import InputError, UsageError

WINDOW = 11
SIGMA = 1.5
# Results of networks are not clipped and leave [0, 1] by some tenths; floats of 0..255,
# and those of [-1, 1], leave it by far.
BEYOND = (-0.5, 1.5)

Channel = Literal["y", "rgb"]
Range = Literal["full", "studio"]


def psnr(
    sr: np.ndarray, gt: np.ndarray, *, channel: Channel = "y", crop: int = 0
) -> float:
    """Peak signal-to-noise ratio in dB, equation (2); 80 dB for equal pictures.

    Args:
        sr, gt: two pictures of one shape and dtype range, HWC with 1 or 3 channels or
            HW: uint8, uint16, or floats in [0, 1] (not clipped; beyond [-0.5, 1.5] they
            are refused).
        channel: "y" compares luma, "rgb" all channels with one mean.
        crop: pixels left out at each border.

    Raises:
        InputError: shapes differ, or a picture is none, smaller than the crop, or
            has floats of another range.
        UsageError: unknown channel or negative crop.
    """
    a_hwc, b_hwc = _prepare(sr, gt, channel, crop, smallest=1)
    return float(-10.0 * np.log10(np.mean((a_hwc - b_hwc) ** 2) + 1e-8))


def ssim(
    sr: np.ndarray, gt: np.ndarray, *, channel: Channel = "y", crop: int = 0
) -> float:
    """Structural similarity, equation (3); 1 for equal pictures.

    Arguments and errors as in `psnr`; each side needs 11 pixels after the crop. With
    "rgb" the mean is over the three channels, each rounded to 8 bits.
    """
    a_hwc, b_hwc = _prepare(sr, gt, channel, crop, smallest=WINDOW)
    return float(np.mean(_ssim_map(np.round(a_hwc * 255.0), np.round(b_hwc * 255.0))))


def luma(rgb_hwc: np.ndarray) -> np.ndarray:
    """Studio-range Y in [16/255, 235/255] of RGB in [0, 1], equation (1): [H, W, 1]."""
    return (rgb_hwc @ np.array([[65.481], [128.553], [24.966]]) + 16.0) / 255.0


def levels(
    picture: np.ndarray, *, smallest: int = 1, luma_range: Range = "studio"
) -> np.ndarray:
    """255 Y of one picture, not rounded: float64 [H, W].

    "full" is Y from 0 to 255 (MATLAB's rgb2gray), "studio" equation (1).

    Raises:
        InputError: no picture, or a side below `smallest`.
        UsageError: another range.
    """
    if luma_range not in ("full", "studio"):
        raise UsageError(f"luma range is {luma_range!r}. Use 'full' or 'studio'.")
    x_hwc = unit_range(picture, "the picture")
    if min(x_hwc.shape[:2]) < smallest:
        raise InputError(
            f"the picture has {x_hwc.shape[0]}x{x_hwc.shape[1]} pixels, each side "
            f"needs {smallest}. Use a larger one."
        )
    if x_hwc.shape[2] == 1:  # grey is R = G = B
        x_hwc = np.repeat(x_hwc, 3, axis=2)
    if luma_range == "full":
        return 255.0 * (x_hwc @ np.array([0.299, 0.587, 0.114]))
    return 255.0 * luma(x_hwc)[..., 0]


def _ssim_map(a_hwc: np.ndarray, b_hwc: np.ndarray) -> np.ndarray:
    c1, c2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2
    mean_a, mean_b = _blur(a_hwc), _blur(b_hwc)
    var_a = _blur(a_hwc * a_hwc) - mean_a**2
    var_b = _blur(b_hwc * b_hwc) - mean_b**2
    covariance = _blur(a_hwc * b_hwc) - mean_a * mean_b
    contrast = (2.0 * covariance + c2) / (var_a + var_b + c2)
    luminance = (2.0 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance * np.maximum(contrast, 0.0)


def _blur(x_hwc: np.ndarray) -> np.ndarray:
    """The Gaussian mean over each valid window: H and W shrink by WINDOW - 1."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    taps = np.exp(-(offsets**2) / (2.0 * SIGMA**2))
    taps /= taps.sum()
    height, width = (side - WINDOW + 1 for side in x_hwc.shape[:2])
    rows = sum(tap * x_hwc[i : i + height] for i, tap in enumerate(taps))
    return sum(tap * rows[:, i : i + width] for i, tap in enumerate(taps))


def _prepare(
    sr: np.ndarray, gt: np.ndarray, channel: Channel, crop: int, smallest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both pictures as float64 [H, W, C] in [0, 1], converted and cropped."""
    if channel not in ("y", "rgb"):
        raise UsageError(f"channel is {channel!r}. Use 'y' or 'rgb'.")
    if crop < 0:
        raise UsageError(f"crop is {crop} pixels. Use 0 or more.")
    a_hwc, b_hwc = unit_range(sr, "sr"), unit_range(gt, "gt")
    if a_hwc.shape != b_hwc.shape:
        raise InputError(
            f"sr has shape {a_hwc.shape} and gt {b_hwc.shape}. Compare pictures of one "
            "size: crop or resize the one that is off."
        )
    height, width, channels = a_hwc.shape
    if min(height, width) - 2 * crop < smallest:
        raise InputError(
            f"{height}x{width} pixels less a crop of {crop} at each border leave fewer "
            f"than {smallest} a side. Crop less or use a larger picture."
        )
    if channel == "y" and channels == 1:  # grey is R = G = B
        a_hwc, b_hwc = (np.repeat(x, 3, axis=2) for x in (a_hwc, b_hwc))
    if channel == "y":
        a_hwc, b_hwc = luma(a_hwc), luma(b_hwc)
    inside = slice(crop, height - crop), slice(crop, width - crop)
    return a_hwc[inside], b_hwc[inside]


def unit_range(picture: np.ndarray, name: str) -> np.ndarray:
    """One picture as float64 HWC in [0, 1]; errors call it `name`."""
    x = np.asarray(picture)
    if x.ndim == 2:
        x = x[..., None]
    if x.ndim != 3 or x.shape[2] not in (1, 3):
        raise InputError(
            f"{name} has shape {x.shape}. Give one picture: [H, W], [H, W, 1] or "
            "[H, W, 3]; drop an alpha channel first."
        )
    if x.dtype in (np.uint8, np.uint16):
        return x.astype(np.float64) / np.iinfo(x.dtype).max
    if x.dtype.kind == "f" or x.dtype.name == "bfloat16":
        return _checked(x.astype(np.float64), name)
    raise InputError(
        f"{name} is {x.dtype}. Give uint8, uint16, or floats in [0, 1] "
        "(x.astype(np.uint8) for 8-bit values held as integers)."
    )


def _checked(x_hwc: np.ndarray, name: str) -> np.ndarray:
    """The floats, if they are of [0, 1] as far as results of networks go beyond it."""
    low, high = float(x_hwc.min(initial=0.0)), float(x_hwc.max(initial=0.0))
    if not (low >= BEYOND[0] and high <= BEYOND[1]):
        raise InputError(
            f"{name} has floats from {low:.4g} to {high:.4g}, expected [0, 1]. Divide "
            "by the white level (x / 255), or give x.astype(np.uint8)."
        )
    return x_hwc
