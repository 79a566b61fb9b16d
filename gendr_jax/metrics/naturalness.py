"""NIQE: how far the statistics of a picture are from those of pristine photographs.

    n      = (Y - m) / (s + 1),  m, s local mean and deviation,                     (1)
             7x7 Gaussian of sigma 7/6, borders repeated
    f_B    = AGGD of n and of its products with four neighbours, in blocks of 96,   (2)
             on Y and on Y halved (MATLAB's imresize): 36 numbers a block
    NIQE   = sqrt((a - b)' ((A + B) / 2)^+ (a - b)),                                (3)
             a, A mean and covariance of f_B over pristine blocks; b, B of the picture

Source: Mittal, Soundararajan, Bovik, "Making a completely blind image quality
analyzer", 2013, and what its MATLAB release, BasicSR and pyiqa agree on. AGGD is the
asymmetric generalised Gaussian, fitted by moments on a grid of shapes .2, .201 .. 10.

Y is rounded. Its range is where the protocols part: "full" (.299 R + .587 G + .114 B,
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
SHARP = 0.75  # of the sharpest block of its picture: enough to be fitted on
ROUNDING = 1e-9  # of float64 sums of 255 levels squared, and far below a level
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
    whole = ~np.isnan(features_nd).any(axis=1)
    if not whole.any():
        raise InputError(
            f"none of {len(features_nd)} blocks of {BLOCK} pixels has texture, NIQE "
            "has no value for such a picture. Leave it out."
        )
    # As the references: a block that is flat in part still counts in the mean.
    mean_d = np.nanmean(features_nd, axis=0)
    off_d = pristine.mean_d - mean_d
    both_dd = (pristine.covariance_dd + _covariance(features_nd[whole])) / 2
    inverse_dd = np.linalg.pinv(both_dd, rcond=FEATURES * np.finfo(np.float64).eps)
    return float(np.sqrt(off_d @ inverse_dd @ off_d))


def fit_niqe(pictures: Iterable[np.ndarray], *, luma: Range = "full") -> Pristine:
    """The statistics of these photographs, of their sharp blocks.

    A block counts where its mean local deviation is above .75 of that of the sharpest
    block of its picture. Pictures are taken one by one.

    Raises:
        InputError: a picture that cannot be used, or fewer than 72 sharp blocks in
            all, from which no covariance of 36 features can be told.
    """
    kept, count = [], 0
    for picture in pictures:
        features_nd, sharp_n = _features(_luma(picture, 0, luma))
        features_nd = features_nd[sharp_n > SHARP * sharp_n.max()]
        kept.append(features_nd[~np.isnan(features_nd).any(axis=1)])
        count += 1
    features_nd = np.concatenate(kept) if kept else np.zeros((0, FEATURES))
    if len(features_nd) < 2 * FEATURES:
        raise InputError(
            f"{count} pictures have {len(features_nd)} sharp blocks of {BLOCK} pixels, "
            f"NIQE needs {2 * FEATURES}. Take more or larger photographs."
        )
    provenance = {"pictures": count, "blocks": len(features_nd), "luma": luma}
    return Pristine(features_nd.mean(0), _covariance(features_nd), provenance)


def features(picture: np.ndarray, *, crop: int = 0, luma: Range = "full") -> np.ndarray:
    """The features (2) of every whole block, [N, 36]; arguments as of `niqe`.

    Per scale: shape and scale of n, then shape, mean, left and right scale of each of
    the four products. NaN where a block has values of one sign only.
    """
    return _features(_luma(picture, crop, luma))[0]


def _luma(picture: np.ndarray, crop: int, luma: Range) -> np.ndarray:
    if crop < 0:
        raise UsageError(f"crop is {crop} pixels. Use 0 or more.")
    y_hw = levels(picture, smallest=BLOCK + 2 * crop, luma_range=luma)
    # A half goes to the even side, also where its sum missed it by a rounding: in flat
    # parts of a picture the side of a half decides what is texture.
    y_hw = np.round(np.round(y_hw, 6))
    height, width = y_hw.shape
    return y_hw[crop : height - crop, crop : width - crop]


def _features(y_hw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([N, 36] features, [N] mean local deviation) of the whole blocks."""
    rows, columns = (side // BLOCK for side in y_hw.shape)
    y_hw = y_hw[: rows * BLOCK, : columns * BLOCK]
    found = []
    for block in (BLOCK, BLOCK // 2):
        normal_hw, deviation_hw = _normalised(y_hw)
        blocks_nhw = _blocks(normal_hw, block)
        maps = [blocks_nhw] + [
            blocks_nhw * np.roll(blocks_nhw, shift, axis=(1, 2)) for shift in NEIGHBOURS
        ]
        found.append(_numbers([aggd(m.reshape(len(m), -1)) for m in maps]))
        if block == BLOCK:
            sharp_n = _blocks(deviation_hw, block).mean((1, 2))
            y_hw = _halved(_halved(y_hw).T).T
    return np.concatenate(found, axis=1), sharp_n


def _numbers(fits: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """[N, 18]: the features of one scale from the fits of its five maps."""
    (shape_n, left_n, right_n), *products = fits
    columns = [shape_n, (left_n + right_n) / 2]
    for shape_n, left_n, right_n in products:
        grid = _grid()
        at = np.searchsorted(grid.shape, shape_n)
        columns += [shape_n, (right_n - left_n) * grid.mean[at], left_n, right_n]
    return np.stack(columns, axis=1)


def _normalised(y_hw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """n of equation (1), and the local deviation."""
    mean = _blur(y_hw)
    deviation = np.sqrt(np.abs(_blur(y_hw * y_hw) - mean * mean))
    normal = (y_hw - mean) / (deviation + 1.0)
    # Flat parts are 0 and not what rounding leaves of it, whose signs would count.
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
    """Half as many rows, as MATLAB's imresize(x, .5); an even number of them.

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
    """What the fit needs of each shape of the grid, [9801].

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
    # The ratio rises with the shape: the nearest is on one side of where it would be.
    above = np.clip(np.searchsorted(grid.ratio, ratio), 1, len(grid.shape) - 1)
    near = np.abs(grid.ratio[above - 1] - ratio) <= np.abs(grid.ratio[above] - ratio)
    at = np.where(np.isnan(ratio), 0, np.where(near, above - 1, above))
    return grid.shape[at], left * grid.scale[at], right * grid.scale[at]


def _covariance(features_nd: np.ndarray) -> np.ndarray:
    """With n - 1; of one block zero, as it says nothing of spread."""
    off_nd = features_nd - features_nd.mean(0)
    return off_nd.T @ off_nd / max(len(off_nd) - 1, 1)
