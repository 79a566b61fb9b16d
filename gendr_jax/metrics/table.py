"""Every metric by name, opened with the settings of a command."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from gendr_jax.errors import InputError, UsageError
from gendr_jax.image_io import arrays, resize
from gendr_jax.metrics import niqe_files, psnr_ssim, sharpness_blockiness
from gendr_jax.metrics.kinds import (
    PYIQA,
    Measure,
    Metric,
    Opened,
    OpenedSet,
    Pictures,
    Settings,
)
from gendr_jax.metrics.mean_colour import colour_error
from gendr_jax.metrics.naturalness import niqe
from gendr_jax.metrics.upsampling_grid import upsampling_grid
from gendr_jax.restore import residual, tiling

METRICS = (
    Metric("psnr", "gt", "higher", 3, "dB, {channel}, not rounded, crop {crop}"),
    Metric("ssim", "gt", "higher", 4, "{channel}, rounded, crop {crop}, 11x11 window"),
    Metric("niqe", "nothing", "lower", 3, "full-range Y, rounded, crop {crop}, {told}"),
    Metric("lpips", "gt", "lower", 4, "LPIPS 0.1, RGB in [-1, 1], {told}"),
    Metric("dists", "gt", "lower", 4, "RGB in [0, 1], full size, {told}"),
    Metric("dino", "gt", "lower", 4, "1 - cos of patch tokens, mean; {told}"),
    Metric("dino-mean", "gt", "lower", 4, "1 - cos of mean patch tokens; {told}"),
    Metric("sharpness", "nothing", "neither", 2, "rms slope of Y, levels a pixel"),
    Metric("blockiness", "nothing", "neither", 3, "jumps of Y at 8x8 blocks / inside"),
    Metric("grid", "nothing", "neither", 3, "strongest phase of steps, 2, 4, 8 px"),
    Metric("colour", "gt", "lower", 2, "mean colour, |difference| in levels, RGB"),
    Metric("seam", "lr", "lower", 2, "worst bend at {tile}-px tiles / median"),
    Metric("residual", "lr", "lower", 4, "rms of reduced result less input"),
)
THREADS = 4  # pictures at a time; each takes some ten times its size in float64
NEEDS = {
    "niqe": "a folder of photographs or a file of parameters (.npz, .mat)",
    "lpips": "weights of LPIPS, AlexNet or VGG16 (docs/weights.md)",
    "dists": "weights of DISTS (docs/weights.md)",
    "dino": "weights of DINOv2 (docs/weights.md)",
}
CHANNELS = {"y": "BT.601 studio luma", "rgb": "RGB"}


def open_set_metrics(names: Sequence[str]) -> list[OpenedSet]:
    """The metrics of these names of OF_SETS; errors as of `open_metrics`."""
    from gendr_jax.metrics import pyiqa_bridge

    return [pyiqa_bridge.open_distance(name.removeprefix(PYIQA)) for name in names]


def open_metrics(names: Sequence[str], settings: Settings) -> list[Opened]:
    """The metrics of these names, in their order.

    "pyiqa:NAME" is a metric of pyiqa, which the user has to install (pyiqa_bridge.py).

    Raises:
        UsageError: an unknown name, or a setting that is wrong or absent.
        InputError: parameters that cannot be used.
    """
    known = {metric.name: metric for metric in METRICS}
    if settings.channel not in CHANNELS:
        raise UsageError(f"channel is {settings.channel!r}. Use 'y' or 'rgb'.")
    for name in names:
        if name not in known and not name.startswith(PYIQA):
            raise UsageError(
                f"metric {name!r} is unknown. Choose from {', '.join(known)}, or "
                f"{PYIQA}NAME."
            )
    return [
        _open(known[name], settings) if name in known else _foreign(name, settings)
        for name in names
    ]


def _foreign(name: str, settings: Settings) -> Opened:
    from gendr_jax.metrics import pyiqa_bridge

    return pyiqa_bridge.open_pyiqa(name.removeprefix(PYIQA), settings)


def _open(metric: Metric, settings: Settings) -> Opened:
    measure, told = _measure(metric.name, settings)
    protocol = metric.protocol.format(
        channel=CHANNELS[settings.channel],
        crop=settings.crop,
        tile=settings.tile,
        told=told,
    )
    return Opened(metric, protocol, measure)


def _measure(name: str, settings: Settings) -> tuple[Measure, str]:
    """The function, and what the parameters that were opened say of themselves."""
    if name in ("lpips", "dists", "dino", "dino-mean"):
        return _network(name, settings)
    channel, crop = settings.channel, settings.crop
    match name:
        case "psnr":
            return _each(
                lambda sr, gt: psnr_ssim.psnr(sr, gt, channel=channel, crop=crop)
            ), ""
        case "ssim":
            return _each(
                lambda sr, gt: psnr_ssim.ssim(sr, gt, channel=channel, crop=crop)
            ), ""
        case "niqe":
            pristine = niqe_files.open_niqe(_named("niqe", settings.niqe))
            each = _each_alone(lambda sr: niqe(sr, pristine, crop=settings.crop))
            return each, niqe_files.described(pristine)
        case "sharpness":
            return _each_alone(sharpness_blockiness.sharpness), ""
        case "blockiness":
            return _each_alone(sharpness_blockiness.blockiness), ""
        case "grid":
            return _each_alone(upsampling_grid), ""
        case "colour":
            return _each(colour_error), ""
        case "seam":
            return _each(lambda sr, lr: _seam(sr, lr, settings)), ""
        case "residual":
            return _each(lambda sr, lr: _residual(sr, lr, settings.scale)), ""
    raise AssertionError(f"{name} is in METRICS and opens nothing")


def _named(option: str, path: Path | None) -> Path:
    """The path of a metric's parameters, or what to give."""
    if path is None:
        raise UsageError(f"{option} needs {NEEDS[option]}. Name it with --{option}.")
    return path


def _network(name: str, settings: Settings) -> tuple[Measure, str]:
    from gendr_jax.metrics import perceptual  # whoever needs no network waits for none

    match name:
        case "lpips":
            measure, told = perceptual.open_lpips(_named(name, settings.lpips))
        case "dists":
            measure, told = perceptual.open_dists(_named(name, settings.dists))
        case _:
            over = "patches" if name == "dino" else "mean"
            measure, told = perceptual.open_dinov2(_named("dino", settings.dino), over)

    def of_pairs(sr: Pictures, other: Pictures | None) -> list[float]:
        assert other is not None, "a metric of pairs was given no second pictures"
        return measure(sr, other)

    return of_pairs, told


def _each(figure: Callable[[np.ndarray, np.ndarray], float]) -> Measure:
    def measure(sr: Pictures, other: Pictures | None) -> list[float]:
        assert other is not None, "a metric of pairs was given no second pictures"
        assert len(sr) == len(other), f"{len(sr)} pictures and {len(other)} others"
        with ThreadPoolExecutor(THREADS) as pool:  # numpy lets go of the lock
            return list(pool.map(figure, sr, other))

    return measure


def _each_alone(figure: Callable[[np.ndarray], float]) -> Measure:
    def measure(sr: Pictures, other: Pictures | None) -> list[float]:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(figure, sr))

    return measure


def _seam(sr: np.ndarray, lr: np.ndarray, settings: Settings) -> float:
    """Jump of `tiling.seams`; 0 where one tile holds the picture."""
    _require_scale(sr, lr, settings.scale)
    (after, _), (before, _) = (arrays.to_unit(arrays.take(x)) for x in (sr, lr))
    height, width = after.shape[:2]
    plan = tiling.layout(height, width, settings.tile, settings.overlap, resize.BUCKET)
    added = after - resize.bicubic(before, (height, width))
    return tiling.seams(added, plan)[0]


def _residual(sr: np.ndarray, lr: np.ndarray, scale: float) -> float:
    _require_scale(sr, lr, scale)
    return residual.residual(arrays.take(sr), arrays.take(lr)).rms


def _require_scale(sr: np.ndarray, lr: np.ndarray, scale: float) -> None:
    expected = resize.output_size(*lr.shape[:2], scale)
    if sr.shape[:2] != expected:
        raise InputError(
            f"a result has {sr.shape[0]}x{sr.shape[1]} pixels, its input of "
            f"{lr.shape[0]}x{lr.shape[1]} gives {expected[0]}x{expected[1]} at scale "
            f"{scale:g}. Name the scale, or the right folders."
        )
