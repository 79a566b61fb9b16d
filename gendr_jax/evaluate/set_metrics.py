"""Figures of a method as a whole: its pictures and their truths compared as two sets.

Such a metric (FID) reads folders. Pictures of a method may lie among others, have 16
bits, or be made within the command, so all are written as they were measured, as 8-bit
PNG files in a temporary folder.

A figure of few pictures is higher than one of many of the same kind: methods that lack
pictures are measured on their own and once more on the pictures that all have. There
is no interval: a picture that is drawn twice narrows the set, so that the bootstrap is
biased.
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
from gendr_jax.evaluate.measuring import Seen
from gendr_jax.metrics.kinds import OpenedSet

FEWEST = 2  # pictures of which there is a covariance
TRUTHS = "truths"


@dataclass(frozen=True)
class Figure:
    """A value, and the number of pictures that it is of."""

    value: float
    n: int


@dataclass
class SetFigures:
    """`own[method][metric]` of all its pictures, `common` of those that all have."""

    own: dict[str, dict[str, Figure]] = field(default_factory=dict)
    common: dict[str, dict[str, Figure]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Collection:
    """The pictures of every method that have a truth, as files."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._numbers: dict[str, int] = {}  # of pictures, by name
        self._have: dict[str, list[str]] = {}  # names of pictures, by method

    def add(self, seen: Seen) -> None:
        """Keep the pixels of one item."""
        if seen.gt is None:
            return
        name = seen.item.name
        number = self._numbers.setdefault(name, len(self._numbers))
        _write(seen.gt, self._file(TRUTHS, number))
        for method, picture in seen.results.items():
            have = self._have.setdefault(method, [])
            have.append(name)
            _write(picture, self._file(self._folder_name(method), number))

    def measure(
        self, methods: Sequence[str], metrics: Sequence[OpenedSet]
    ) -> SetFigures:
        """Every metric of every method; a line for each that cannot be had."""
        whole = SetFigures()
        names = {method: self._have.get(method, []) for method in methods}
        shared = set.intersection(*(set(own) for own in names.values()))
        for method, own in names.items():
            whole.own[method] = self._figures(method, own, metrics, whole.problems)
            if len(own) == len(shared):
                whole.common[method] = whole.own[method]
            elif len(shared) >= FEWEST:
                whole.common[method] = self._figures(
                    method, sorted(shared), metrics, whole.problems
                )
        return whole

    def _figures(
        self,
        method: str,
        names: list[str],
        metrics: Sequence[OpenedSet],
        problems: list[str],
    ) -> dict[str, Figure]:
        if len(names) < FEWEST:
            problems += [
                f"{method}: {opened.metric.name} is of {FEWEST} pictures or more, "
                f"there is {len(names)} with a truth. Add some, or leave it out."
                for opened in metrics
            ]
            return {}
        found = {}
        with tempfile.TemporaryDirectory(dir=self._folder) as chosen:
            sides = Path(chosen, "results"), Path(chosen, TRUTHS)
            for side, place in zip(
                sides, (self._folder_name(method), TRUTHS), strict=True
            ):
                side.mkdir()
                for name in names:
                    file = self._file(place, self._numbers[name])
                    _link(file, side / file.name)
            for opened in metrics:
                try:
                    value = opened.measure(*sides)
                except InputError as error:
                    problems.append(f"{method}: {error}")
                    continue
                if not math.isfinite(value):
                    problems.append(
                        f"{method}: {opened.metric.name} of {len(names)} pictures is "
                        f"{value}, which is no figure. Give it more pictures."
                    )
                    continue
                found[opened.metric.name] = Figure(value, len(names))
        return found

    def _folder_name(self, method: str) -> str:
        """A name that any method may have would not do for a folder."""
        return str(list(self._have).index(method))

    def _file(self, place: str, number: int) -> Path:
        folder = self._folder / place
        folder.mkdir(exist_ok=True)
        return folder / f"{number:06d}.png"


def _link(file: Path, name: Path) -> None:
    try:
        os.link(file, name)
    except OSError:  # some file systems have no links
        shutil.copyfile(file, name)


def _write(picture_hwc: np.ndarray, path: Path) -> None:
    pixels = gallery.to_8_bits(picture_hwc)
    Pil.fromarray(pixels).save(path, compress_level=1)  # read once or twice, then gone


@contextmanager
def collecting() -> Iterator[Collection]:
    """A collection whose files are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="gendr-evaluate-") as folder:
        yield Collection(Path(folder))
