"""What a metric is: its line of the table, its settings, and one ready to measure."""

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
    """What a table says of a metric.

    Attributes:
        name: as on the command line.
        against: the second picture that it takes.
        better: which way is good; "neither" is a description, not a score.
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
    """What metrics may be told.

    Attributes:
        channel: of psnr and ssim, "y" or "rgb".
        crop: pixels that psnr, ssim and niqe leave out at each border.
        niqe, lpips, dists, dino: files and folders of parameters, where needed.
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
        metric: its line of the table.
        protocol: with the settings filled in; belongs into every file of results.
        measure: (pictures, the other pictures or None) -> one figure a pair. Pictures
            are HWC uint8, uint16 or float in [0, 1], those of a list of one shape.
    """

    metric: Metric
    protocol: str
    measure: Measure


@dataclass(frozen=True)
class OpenedSet:
    """A metric of a set of pictures as a whole, ready to measure.

    Attributes:
        metric, protocol: as in `Opened`.
        measure: (folder of results, folder of truths) -> the figure. The folders have
            8-bit PNG files and nothing else.
    """

    metric: Metric
    protocol: str
    measure: Callable[[Path, Path], float]
