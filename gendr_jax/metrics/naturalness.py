"""NIQE: distance of a picture's statistics from those of pristine photographs.

    n      = (Y - m) / (s + 1),  m, s local mean and deviation,                     (1)
             7x7 Gaussian of sigma 7/6, borders repeated
    f_B    = AGGD of n and of its products with four neighbours, in blocks of 96,   (2)
             on Y and on Y halved (MATLAB's imresize): 36 numbers a block
    NIQE   = sqrt((a - b)' ((A + B) / 2)^+ (a - b)),                                (3)
             a, A mean and covariance of f_B over pristine blocks; b, B of the picture

Source: Mittal, Soundararajan, Bovik, "Making a completely blind image quality
analyzer", 2013, and what its MATLAB release, BasicSR and pyiqa agree on. AGGD is the
asymmetric generalised Gaussian, fitted by moments on a grid of shapes .2, .201 .. 10.

Y is rounded. Protocols differ in its range: "full" (.299 R + .587 G + .114 B,
as MATLAB's rgb2gray and pyiqa) or "studio" (BT.601 16 to 235, as BasicSR).
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gendr_jax.errors import InputError, UsageError
from gendr_jax.metrics.psnr_ssim import Range, levels

BLOCK = 96  # pixels; half of it after halving
FEATURES = 36
SHARP = 0.75  # of the sharpest block of a picture: blocks above it are fitted
ROUNDING = 1e-9  # above the rounding errors of _blur in float64, far below one level
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))


@dataclass(frozen=True, eq=False)
class Pristine:
    """The statistics of pristine photographs.

    Attributes:
        mean_d: [36]; covariance_dd: [36, 36].
        provenance: where they come from, JSON values.
    """

    mean_d: np.ndarray
    covariance_dd: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)


def niqe(
    picture: np.ndarray, pristine: Pristine, *, crop: int = 0, luma: Range = "full"
) -> float:
    """The distance (3); smaller is better, photographs have about 2 to 6.

    Args:
        picture: HWC with 1 or 3 channels or HW: uint8, uint16, or floats in [0, 1].
        pristine: what to compare with.
        crop: pixels left out at each border.
        luma: range of Y.

    Raises:
        InputError: no picture, too small for one block, or without any texture.
        UsageError: unknown range or negative crop.
    """
    features_nd = features(picture, crop=crop, luma=luma)
    complete_n = ~np.isnan(features_nd).any(axis=1)
    if not complete_n.any():
        raise InputError(
            f"none of {len(features_nd)} blocks of {BLOCK} pixels has texture, NIQE "
            "has no value for such a picture. Leave it out."
        )
    # As in the references, blocks with some NaN features still count in the mean.
    mean_d = np.nanmean(features_nd, axis=0)
    difference_d = pristine.mean_d - mean_d
    pooled_dd = (pristine.covariance_dd + _covariance(features_nd[complete_n])) / 2
    inverse_dd = np.linalg.pinv(pooled_dd, rcond=FEATURES * np.finfo(np.float64).eps)
    return float(np.sqrt(difference_d @ inverse_dd @ difference_d))


def fit_niqe(pictures: Iterable[np.ndarray], *, luma: Range = "full") -> Pristine:
    """Fit the statistics to the sharp blocks of these photographs.

    Sharp are blocks whose mean local deviation is above .75 of that of the sharpest
    block of the same picture. Pictures are read one by one.

    Raises:
        InputError: a picture that cannot be used, or fewer than 72 sharp blocks in
            total, too few for a covariance of 36 features.
    """
    sharp_features, count = [], 0
    for picture in pictures:
        features_nd, sharp_n = _features(_luma(picture, 0, luma))
        features_nd = features_nd[sharp_n > SHARP * sharp_n.max()]
        sharp_features.append(features_nd[~np.isnan(features_nd).any(axis=1)])
        count += 1
    features_nd = (
        np.concatenate(sharp_features) if sharp_features else np.zeros((0, FEATURES))
    )
    if len(features_nd) < 2 * FEATURES:
        raise InputError(
            f"{count} pictures have {len(features_nd)} sharp blocks of {BLOCK} pixels, "
            f"NIQE needs {2 * FEATURES}. Give more or larger photographs."
        )
    provenance = {"pictures": count, "blocks": len(features_nd), "luma": luma}
    return Pristine(features_nd.mean(0), _covariance(features_nd), provenance)


def features(picture: np.ndarray, *, crop: int = 0, luma: Range = "full") -> np.ndarray:
    """The features (2) of every complete block, [N, 36]; arguments as of `niqe`.

    Per scale: shape and scale of n, then shape, mean, left and right scale of each of
    the four products. NaN where a block has values of one sign only.
    """
    return _features(_luma(picture, crop, luma))[0]


def _luma(picture: np.ndarray, crop: int, luma: Range) -> np.ndarray:
    if crop < 0:
        raise UsageError(f"crop is {crop} pixels. Use 0 or more.")
    y_hw = levels(picture, smallest=BLOCK + 2 * crop, luma_range=luma)
    # First to 6 decimals, so that x.5 with a rounding error is rounded to even like an
    # exact x.5: in flat areas one level decides whether there is texture.
    y_hw = np.round(np.round(y_hw, 6))
    height, width = y_hw.shape
    return y_hw[crop : height - crop, crop : width - crop]


def _features(y_hw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([N, 36] features, [N] mean local deviation) of the complete blocks."""
    rows, columns = (side // BLOCK for side in y_hw.shape)
    y_hw = y_hw[: rows * BLOCK, : columns * BLOCK]
    scales = []
    for block in (BLOCK, BLOCK // 2):
        normal_hw, deviation_hw = _normalised(y_hw)
        blocks_nhw = _blocks(normal_hw, block)
        maps = [blocks_nhw] + [
            blocks_nhw * np.roll(blocks_nhw, shift, axis=(1, 2)) for shift in NEIGHBOURS
        ]
        scales.append(_scale_features([aggd(m.reshape(len(m), -1)) for m in maps]))
        if block == BLOCK:
            sharp_n = _blocks(deviation_hw, block).mean((1, 2))
            y_hw = _halved(_halved(y_hw).T).T
    return np.concatenate(scales, axis=1), sharp_n


def _scale_features(
    fits: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> np.ndarray:
    """[N, 18]: the features of one scale from the fits of its five maps."""
    (shape_n, left_n, right_n), *products = fits
    columns = [shape_n, (left_n + right_n) / 2]
    for shape_n, left_n, right_n in products:
        grid = _grid()
        index = np.searchsorted(grid.shape, shape_n)
        columns += [shape_n, (right_n - left_n) * grid.mean[index], left_n, right_n]
    return np.stack(columns, axis=1)


def _normalised(y_hw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """n of equation (1), and the local deviation."""
    mean = _blur(y_hw)
    deviation = np.sqrt(np.abs(_blur(y_hw * y_hw) - mean * mean))
    normal = (y_hw - mean) / (deviation + 1.0)
    # Exactly 0 in flat areas: the fit counts signs, also those of rounding errors.
    return np.where(np.abs(normal) < ROUNDING, 0.0, normal), deviation


def _blur(x_hw: np.ndarray) -> np.ndarray:
    """7x7 Gaussian of sigma 7/6, borders repeated."""
    taps = gaussian_taps()
    height, width = x_hw.shape
    x_hw = np.pad(x_hw, len(taps) // 2, mode="edge")
    rows = sum(tap * x_hw[i : i + height] for i, tap in enumerate(taps))
    return sum(tap * rows[:, i : i + width] for i, tap in enumerate(taps))


def gaussian_taps() -> np.ndarray:
    """One axis of the window; the window is the outer product, and sums to 1."""
    taps = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    return taps / taps.sum()


def _halved(x_hw: np.ndarray) -> np.ndarray:
    """Half as many rows, as MATLAB's imresize(x, .5); the number of rows is even.

    Keys' cubic (a = -1/2) stretched by 2, the picture mirrored beyond its border.
    """
    distance = np.abs(np.arange(-3.5, 4)) / 2
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    taps = np.where(distance <= 1, near, far) / 2
    count = len(x_hw) // 2
    x_hw = np.pad(x_hw, ((3, 3), (0, 0)), mode="symmetric")
    return sum(tap * x_hw[i : i + 2 * count : 2] for i, tap in enumerate(taps))


def _blocks(x_hw: np.ndarray, block: int) -> np.ndarray:
    """[N, block, block], row by row."""
    rows, columns = (side // block for side in x_hw.shape)
    x = x_hw.reshape(rows, block, columns, block).swapaxes(1, 2)
    return x.reshape(-1, block, block)


@dataclass(frozen=True)
class _Grid:
    """Tables over the shapes of the grid, [9801], for the fit.

    With G the gamma function and a the shape: `ratio` G(2/a)^2 / (G(1/a) G(3/a)),
    `scale` sqrt(G(1/a) / G(3/a)), `mean` G(2/a) / G(1/a).
    """

    shape: np.ndarray
    ratio: np.ndarray
    scale: np.ndarray
    mean: np.ndarray


@functools.cache
def _grid() -> _Grid:
    shape = np.arange(0.2, 10.001, 0.001)
    one, two, three = (np.array([math.gamma(k / a) for a in shape]) for k in (1, 2, 3))
    return _Grid(shape, two**2 / (one * three), np.sqrt(one / three), two / one)


def aggd(x_nm: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(shape, left scale, right scale), each [N], of N samples of M values.

    The fit by moments of Lasmar, Stitou and Berthoumieu 2009. Scales are NaN where
    values have one sign only; the shape is then the least.
    """
    square = x_nm * x_nm
    with np.errstate(divide="ignore", invalid="ignore"):  # NaN is an answer here
        left, right = (
            np.sqrt((square * side).sum(1) / side.sum(1))
            for side in (x_nm < 0, x_nm > 0)
        )
        gamma = left / right
        ratio = np.abs(x_nm).mean(1) ** 2 / square.mean(1)
        ratio *= (gamma**3 + 1) * (gamma + 1) / (gamma**2 + 1) ** 2
    grid = _grid()
    # The ratio increases with the shape: the nearest is one of two neighbours.
    above = np.clip(np.searchsorted(grid.ratio, ratio), 1, len(grid.shape) - 1)
    is_below = np.abs(grid.ratio[above - 1] - ratio) <= np.abs(
        grid.ratio[above] - ratio
    )
    index = np.where(np.isnan(ratio), 0, np.where(is_below, above - 1, above))
    return grid.shape[index], left * grid.scale[index], right * grid.scale[index]


def _covariance(features_nd: np.ndarray) -> np.ndarray:
    """Sample covariance (n - 1); zero for a single block."""
    centred_nd = features_nd - features_nd.mean(0)
    return centred_nd.T @ centred_nd / max(len(centred_nd) - 1, 1)
