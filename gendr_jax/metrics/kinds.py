"""Types: `Metric` (name and protocol), `Settings`, and `Opened`, ready to measure."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from gendr_jax.metrics import psnr_ssim

Pictures = list[np.ndarray]
Measure = Callable[[Pictures, Pictures | None], list[float]]


PYIQA = "pyiqa:"
OF_SETS = (PYIQA + "fid", PYIQA + "sfid", PYIQA + "fid_dinov2")


@dataclass(frozen=True)
class Metric:
    """Name and description of a metric.

    Attributes:
        name: on the command line.
        against: the second picture that it needs.
        better: direction of better values; "neither" is a description, not a score.
        digits: decimals in tables.
        protocol: in one line; `Opened.protocol` has the settings filled in.
    """

    name: str
    against: Literal["nothing", "gt", "lr"]
    better: Literal["higher", "lower", "neither"]
    digits: int
    protocol: str


@dataclass(frozen=True)
class Settings:
    """Settings of metrics.

    Attributes:
        channel: of psnr and ssim, "y" or "rgb".
        crop: pixels that psnr, ssim and niqe leave out at each border.
        niqe, lpips, dists, dino: paths of parameters or weights, where needed.
        scale: from input to result.
        tile, overlap: of tiled restoring, in pixels of the result (seam).
    """

    channel: psnr_ssim.Channel = "y"
    crop: int = 0
    niqe: Path | None = None
    lpips: Path | None = None
    dists: Path | None = None
    dino: Path | None = None
    scale: float = 4
    tile: int = 512
    overlap: int | None = None


@dataclass(frozen=True)
class Opened:
    """A metric ready to measure.

    Attributes:
        metric: name and description.
        protocol: with the settings filled in; written into every file of results.
        measure: (pictures, the other pictures or None) -> one figure a pair. Pictures
            are HWC uint8, uint16 or float in [0, 1], those of a list of one shape.
    """

    metric: Metric
    protocol: str
    measure: Measure


@dataclass(frozen=True)
class OpenedSet:
    """A metric of two sets of pictures (FID), ready to measure.

    Attributes:
        metric, protocol: as in `Opened`.
        measure: (folder of results, folder of truths) -> the figure. The folders have
            8-bit PNG files and nothing else.
    """

    metric: Metric
    protocol: str
    measure: Callable[[Path, Path], float]
