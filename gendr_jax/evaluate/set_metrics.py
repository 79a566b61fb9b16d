"""Metrics of sets of pictures (FID): all results of a method against all truths.

These metrics read folders. A method's pictures may be in a folder with others, have 16
bits, or be computed by the command, so they are written as they were measured, as 8-bit
PNG files in a temporary folder.

FID is higher for fewer pictures: methods that lack some are measured on their own
pictures, and again on those that all methods have. There is no interval: a bootstrap
sample repeats pictures, which narrows the set and biases FID.
"""

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image as Pil

from gendr_jax.errors import InputError
from gendr_jax.evaluate import gallery
from gendr_jax.evaluate.measuring import ItemPixels
from gendr_jax.metrics.kinds import OpenedSet

FEWEST = 2  # pictures that a covariance needs
TRUTHS = "truths"


@dataclass(frozen=True)
class Figure:
    """A value and its number of pictures."""

    value: float
    n: int


@dataclass
class SetFigures:
    """`own[method][metric]` of a method's pictures, `common` of those that all have."""

    own: dict[str, dict[str, Figure]] = field(default_factory=dict)
    common: dict[str, dict[str, Figure]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Collection:
    """Pictures of every method that have a truth, written as files."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._numbers: dict[str, int] = {}  # of pictures, by name
        self._names_by_method: dict[str, list[str]] = {}  # names of pictures, by method

    def add(self, pixels: ItemPixels) -> None:
        """Write the pixels of one item."""
        if pixels.gt is None:
            return
        name = pixels.item.name
        number = self._numbers.setdefault(name, len(self._numbers))
        _write(pixels.gt, self._file(TRUTHS, number))
        for method, picture in pixels.results.items():
            names = self._names_by_method.setdefault(method, [])
            names.append(name)
            _write(picture, self._file(self._folder_name(method), number))

    def measure(
        self, methods: Sequence[str], metrics: Sequence[OpenedSet]
    ) -> SetFigures:
        """Every metric of every method; a problem for each that cannot be computed."""
        set_figures = SetFigures()
        names = {method: self._names_by_method.get(method, []) for method in methods}
        shared = set.intersection(*(set(own) for own in names.values()))
        for method, own in names.items():
            set_figures.own[method] = self._figures(
                method, own, metrics, set_figures.problems
            )
            if len(own) == len(shared):
                set_figures.common[method] = set_figures.own[method]
            elif len(shared) >= FEWEST:
                set_figures.common[method] = self._figures(
                    method, sorted(shared), metrics, set_figures.problems
                )
        return set_figures

    def _figures(
        self,
        method: str,
        names: list[str],
        metrics: Sequence[OpenedSet],
        problems: list[str],
    ) -> dict[str, Figure]:
        if len(names) < FEWEST:
            problems += [
                f"{method}: {opened.metric.name} needs {FEWEST} pictures or more, "
                f"{len(names)} have a truth. Add some, or leave the metric out."
                for opened in metrics
            ]
            return {}
        figures = {}
        with tempfile.TemporaryDirectory(dir=self._folder) as temporary:
            folders = Path(temporary, "results"), Path(temporary, TRUTHS)
            for folder, subfolder in zip(
                folders, (self._folder_name(method), TRUTHS), strict=True
            ):
                folder.mkdir()
                for name in names:
                    file = self._file(subfolder, self._numbers[name])
                    _link(file, folder / file.name)
            for opened in metrics:
                try:
                    value = opened.measure(*folders)
                except InputError as error:
                    problems.append(f"{method}: {error}")
                    continue
                if not math.isfinite(value):
                    problems.append(
                        f"{method}: {opened.metric.name} of {len(names)} pictures is "
                        f"{value}, not a finite number. Give it more pictures."
                    )
                    continue
                figures[opened.metric.name] = Figure(value, len(names))
        return figures

    def _folder_name(self, method: str) -> str:
        """A number: names of methods may not be valid folder names."""
        return str(list(self._names_by_method).index(method))

    def _file(self, subfolder: str, number: int) -> Path:
        folder = self._folder / subfolder
        folder.mkdir(exist_ok=True)
        return folder / f"{number:06d}.png"


def _link(file: Path, name: Path) -> None:
    try:
        os.link(file, name)
    except OSError:  # some file systems have no hard links
        shutil.copyfile(file, name)


def _write(picture_hwc: np.ndarray, path: Path) -> None:
    pixels = gallery.to_8_bits(picture_hwc)
    Pil.fromarray(pixels).save(path, compress_level=1)  # temporary, read once or twice


@contextmanager
def collecting() -> Iterator[Collection]:
    """A collection whose files are deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="gendr-evaluate-") as folder:
        yield Collection(Path(folder))
