"""Metrics of pyiqa (IQA-PyTorch) by name, if the user has installed it.

    pyiqa:musiq  pyiqa:clipiqa  pyiqa:maniqa-pipal  pyiqa:liqe  pyiqa:qalign
    pyiqa:topiq_nr  pyiqa:niqe  ...: those of `pyiqa.list_models()`

pyiqa is under the PolyForm Noncommercial License 1.0.0 (parts: NTU S-Lab License): it
is no dependency, none of our extras installs it, and nothing else needs it. It
downloads weights at a metric's first use.

Options are pyiqa's defaults, those of the published tables, but for psnr and ssim,
whose tables are in studio luma: color_space="ycbcr" where pyiqa's default is "yiq",
1.32 dB lower. Pictures go in one by one, as float32 RGB in [0, 1].

`open_distance` is for metrics of two folders (fid).
"""

import contextlib
import difflib
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gendr_jax.errors import InputError, UsageError
from gendr_jax.image_io import arrays
from gendr_jax.metrics.kinds import (
    OF_SETS,
    PYIQA,
    Metric,
    Opened,
    OpenedSet,
    Pictures,
    Settings,
)

DIGITS = {"psnr": 3, "psnry": 3, "niqe": 3, "musiq": 2}  # others 4
LICENCE = "PolyForm Noncommercial 1.0.0, which forbids commercial use"


def open_pyiqa(name: str, settings: Settings) -> Opened:
    """The metric of this name, without the prefix.

    Raises:
        UsageError: pyiqa is not installed or does not work; it has no such metric, or
            one that is not of single pictures.
        InputError: pyiqa cannot create it, usually because weights are missing.
    """
    pyiqa = _pyiqa(name)
    if PYIQA + name in OF_SETS:
        raise UsageError(
            f"{PYIQA}{name} compares sets, not single pictures. Open it by "
            "open_set_metrics."
        )
    if name == "inception_score":
        raise UsageError(
            f"{PYIQA}{name} has no ground truth to compare with. Use {OF_SETS[0]}."
        )
    options = _options(name, settings)
    model = _create(pyiqa, name, options)
    metric = Metric(
        name=PYIQA + name,
        against="gt" if model.metric_mode == "FR" else "nothing",
        better="lower" if model.lower_better else "higher",
        digits=DIGITS.get(name, 4),
        protocol=_protocol(pyiqa, name, options),
    )

    def measure(sr: Pictures, other: Pictures | None) -> list[float]:
        if metric.against == "nothing":
            return [_figure(model(_tensor(picture))) for picture in sr]
        assert other is not None, "a metric of pairs was given no second pictures"
        pairs = zip(sr, other, strict=True)
        return [_figure(model(_tensor(a), _tensor(b))) for a, b in pairs]

    return Opened(metric, metric.protocol, measure)


def open_distance(name: str) -> OpenedSet:
    """A distance of two folders of pictures: "fid", "sfid" or "fid_dinov2".

    pyiqa reads and resizes ("clean" FID). It needs thousands of pictures; figures of a
    hundred, as in tables on RealSR, are comparable only for the same hundred.

    Raises:
        UsageError, InputError: as `open_pyiqa`.
    """
    if PYIQA + name not in OF_SETS:
        raise UsageError(
            f"{PYIQA}{name} does not compare sets. Use one of {', '.join(OF_SETS)}."
        )
    pyiqa = _pyiqa(name)
    model = _create(pyiqa, name, {})

    def measure(sr: Path, gt: Path) -> float:
        # No worker processes: a fork of a process with threads may never end.
        options = {"num_workers": 0, "verbose": False}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of singular matrices: docs/metrics.md
                return _figure(model(str(gt), str(sr), **options))
        except Exception as error:  # of torch, of scipy
            raise InputError(
                f"pyiqa cannot measure {name} ({_reason(error)}). Give it more "
                "pictures, or leave it out."
            ) from error

    metric = Metric(PYIQA + name, "gt", "lower", 3, _protocol(pyiqa, name, {}))
    return OpenedSet(metric, metric.protocol, measure)


def _pyiqa(name: str) -> ModuleType:
    try:
        import pyiqa
    except ModuleNotFoundError as error:
        missing = error.name or "pyiqa"
        raise UsageError(
            f"{PYIQA}{name} needs {missing}, which is not installed. pyiqa's licence "
            f"is {LICENCE}; if you accept it: pip install {missing}"
        ) from error
    except Exception as error:  # torchvision of another torch raises RuntimeError
        raise UsageError(
            f"pyiqa cannot be imported ({_reason(error)}). Install it again, with "
            "torch and torchvision of one release."
        ) from error
    return pyiqa


def _options(name: str, settings: Settings) -> dict[str, Any]:
    """Options that differ from pyiqa's defaults."""
    if name not in ("psnr", "ssim"):
        return {}
    options: dict[str, Any] = {"test_y_channel": settings.channel == "y"}
    if settings.channel == "y":
        options["color_space"] = "ycbcr"
    return options | ({"crop_border": settings.crop} if settings.crop else {})


def _create(pyiqa: ModuleType, name: str, options: dict[str, Any]) -> Any:
    names = pyiqa.list_models()
    if name not in names:
        nearest = sorted((m for m in names if m.startswith(name)), key=len)
        nearest = nearest[:4] or difflib.get_close_matches(name, names, n=3)
        hint = ", ".join(nearest) or "pyiqa.list_models() lists them"
        raise UsageError(f"pyiqa has no metric {name!r}. Nearest: {hint}.")
    try:
        # pyiqa prints which files it loads, torchvision warns of deprecations.
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pyiqa.create_metric(name, **options)
    except Exception as error:  # downloads, packages and files, each with its own type
        raise InputError(
            f"pyiqa cannot create {name} ({_reason(error)}). Its weights are "
            "downloaded at first use: check the network, or leave the metric out."
        ) from error


def _protocol(pyiqa: ModuleType, name: str, options: dict[str, Any]) -> str:
    options_text = ", ".join(f"{key}={value}" for key, value in options.items())
    version = getattr(pyiqa, "__version__", "unknown")
    return f"pyiqa {version} {name}, {options_text or 'its defaults'}"


def _tensor(picture: np.ndarray) -> Any:
    import torch

    rgb_hwc, _ = arrays.to_unit(arrays.take(picture))
    rgb_chw = np.ascontiguousarray(rgb_hwc.transpose(2, 0, 1))
    return torch.from_numpy(rgb_chw).clamp(0.0, 1.0)[None]


def _figure(output: Any) -> float:
    return float(output.item()) if hasattr(output, "item") else float(output)


def _reason(error: Exception) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:160]}"
