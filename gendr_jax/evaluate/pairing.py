"""Test items: every picture with its ground truth, input and each method's file."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gendr_jax import image_io
from gendr_jax.errors import InputError, UsageError
from gendr_jax.evaluate import files, sizes
from gendr_jax.evaluate.files import FolderPictures
from gendr_jax.evaluate.methods import Method
from gendr_jax.evaluate.partners import (
    Folders,
    of_inputs,
    of_method,
    require_common,
)
from gendr_jax.evaluate.sizes import Fit, Size
from gendr_jax.image_io.resize import output_size

DEFAULT_SCALE = 4.0
NEAR = 0.02  # relative distance of a scale from an integer, for truths not cut


@dataclass(frozen=True)
class Item:
    """One picture of the test set.

    Attributes:
        name: its stem in the reference folder.
        gt, lr: files of the ground truth and of the low-quality input, if given.
        size_hw: at which results are compared.
        lr_hw: of the input.
        fit: how truth and results are cut to that size; None: they have it.
    """

    name: str
    gt: Path | None
    lr: Path | None
    size_hw: Size
    lr_hw: Size | None
    fit: Fit | None = None

    @property
    def effective_fit(self) -> Fit:
        """`fit`, or one that cuts nothing."""
        return self.fit or Fit(self.size_hw, self.size_hw)


@dataclass(frozen=True)
class Pairs:
    """Items in order of names, methods with their files, problems.

    `scale` is that from inputs to results: as given, else the median of the pairs, else
    DEFAULT_SCALE. `protocol` says in one line how pictures were paired and cut.
    """

    items: list[Item]
    methods: list[Method]
    problems: list[str]
    scale: float
    protocol: str = "paired by name"


def pair(folders: Folders, methods: Sequence[tuple[Method, Path | None]]) -> Pairs:
    """Find the files of all methods; those without a folder compute their pictures.

    Raises:
        UsageError: a folder that is missing or empty; a method that computes pictures
            from inputs that are not given; inputs or a method without any picture of
            the test set.
    """
    problems: list[str] = []
    ordered: list[str] = []

    def list_pictures(folder: Path | None) -> FolderPictures:
        if folder is None:
            return FolderPictures()
        pictures = files.find(folder, recursive=folders.recursive)
        problems.extend(pictures.problems)
        return pictures

    for method, folder in methods:
        if folder is None and folders.lr is None:
            raise UsageError(
                f"{method.name} is computed from low-quality pictures, and none are "
                "given. Give their folder with --lr."
            )
    truth_folder, low_folder = list_pictures(folders.gt), list_pictures(folders.lr)
    method_pictures = [
        (method, folder, list_pictures(folder)) for method, folder in methods
    ]
    if folders.gt is None and folders.lr is None:
        require_common(method_pictures)
        stems = sorted(
            {stem for *_, available in method_pictures for stem in available.files}
        )
        wanted = FolderPictures(dict.fromkeys(stems, Path()))
    else:
        wanted = truth_folder if folders.gt else low_folder
    truths, lows = truth_folder.files, low_folder.files
    if folders.gt and folders.lr:
        lows = of_inputs(wanted, low_folder, folders, problems, ordered)
    paired_methods = []
    for method, folder, available in method_pictures:
        method_files = {}
        if folder is not None:
            method_files = of_method(
                method, folder, available, wanted, folders, problems, ordered
            )
        paired_methods.append(replace(method, files=method_files))
    names = list(wanted.files)
    header_sizes = _sizes(truths, problems), _sizes(lows, problems)
    scale = folders.scale or _scale(*header_sizes)
    items = []
    for name in names:
        item_paths = truths.get(name), lows.get(name)
        if any(
            path and name not in s
            for path, s in zip(item_paths, header_sizes, strict=True)
        ):
            continue  # the unreadable header is among the problems
        try:
            fit, lr_hw = _fitting(name, item_paths, header_sizes, scale, paired_methods)
        except InputError as error:
            problems.append(str(error))
            continue
        items.append(Item(name, *item_paths, fit.size_hw, lr_hw, fit))
    protocol = [*ordered] if ordered else ["paired by name"]
    protocol += (
        [sizes.describe_cuts(item.effective_fit for item in items)]
        if folders.gt
        else []
    )
    return Pairs(items, paired_methods, problems, scale, "; ".join(protocol))


def _sizes(paths: dict[str, Path], problems: list[str]) -> dict[str, Size]:
    """Sizes by the headers; a problem for each that cannot be read."""
    sizes = {}
    for name, path in paths.items():
        try:
            sizes[name] = _size(path)
        except InputError as error:
            problems.append(str(error))
    return sizes


def _scale(truths: dict[str, Size], lows: dict[str, Size]) -> float:
    """The median scale of the pairs, rounded if it is close to an integer."""
    scales = [_pair_scale(truths[name], lows[name]) for name in lows if name in truths]
    if not scales:
        return DEFAULT_SCALE
    scale = statistics.median(scales)
    nearest = round(scale)
    return float(nearest) if abs(scale - nearest) < NEAR * scale else scale


def _pair_scale(truth_hw: Size, lr_hw: Size) -> float:
    """The scale of one pair: an integer if the truth fits it after cutting."""
    integer = max(1, round(truth_hw[0] / lr_hw[0]))
    if sizes.near(truth_hw, output_size(*lr_hw, integer), sizes.most_cut(integer)):
        return integer
    return truth_hw[0] / lr_hw[0]


def _fitting(
    name: str,
    paths: tuple[Path | None, Path | None],
    header_sizes: tuple[dict[str, Size], dict[str, Size]],
    scale: float,
    methods: list[Method],
) -> tuple[Fit, Size | None]:
    """(how truth and results are cut, size of the input).

    Raises:
        InputError: a truth that is not `scale` times its input.
    """
    truth_hw, lr_hw = (own.get(name) for own in header_sizes)
    enlarged_hw = output_size(*lr_hw, scale) if lr_hw else None
    method_paths = [m.files[name] for m in methods if name in m.files]
    if truth_hw is None:
        # Without a truth nothing is cut: results have the size by the scale.
        size_hw = enlarged_hw or _size(method_paths[0])
        return Fit(size_hw, size_hw), lr_hw
    tolerance = sizes.most_cut(scale)
    if enlarged_hw and not sizes.near(truth_hw, enlarged_hw, tolerance):
        raise InputError(
            f"{paths[0]} is {_text(truth_hw)}, {scale:g} times {paths[1]} would be "
            f"{_text(enlarged_hw)}; up to {tolerance} pixels are cut. Cut or replace "
            "one of them, or give the scale with -s."
        )
    result_sizes = [size_hw for path in method_paths if (size_hw := _size_if_any(path))]
    return sizes.fit(truth_hw, enlarged_hw, result_sizes, scale), lr_hw


def _size_if_any(path: Path) -> Size | None:
    """None for an unreadable file, which is reported when its pixels are read."""
    try:
        return _size(path)
    except InputError:
        return None


def _size(path: Path) -> Size:
    header = image_io.probe(path)
    return header.height, header.width


def _text(size_hw: Size) -> str:
    return f"{size_hw[1]}x{size_hw[0]}"
