"""What is measured: every picture with its truth, its input and each method's file."""

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
NEAR = 0.02  # of a whole number: truths that were not cut to a multiple


@dataclass(frozen=True)
class Item:
    """One picture of the test set.

    Attributes:
        name: the stem that belongs to it everywhere.
        gt, lr: files of the truth and of the low-quality input, where given.
        size_hw: at which results are compared.
        lr_hw: of the input.
        fit: how truth and results come to that size; None: they have it.
    """

    name: str
    gt: Path | None
    lr: Path | None
    size_hw: Size
    lr_hw: Size | None
    fit: Fit | None = None

    @property
    def effective_fit(self) -> Fit:
        """`fit`, or that of pictures which have their size."""
        return self.fit or Fit(self.size_hw, self.size_hw)


@dataclass(frozen=True)
class Pairs:
    """Items in order of names, methods with their files, and what has no partner.

    `scale` is that from inputs to results: what was given, else what most truths show,
    else DEFAULT_SCALE. `protocol` says in one line how pictures were paired and cut.
    """

    items: list[Item]
    methods: list[Method]
    problems: list[str]
    scale: float
    protocol: str = "paired by name"


def pair(folders: Folders, methods: Sequence[tuple[Method, Path | None]]) -> Pairs:
    """Find the files of all; methods without a folder make their pictures.

    Raises:
        UsageError: a folder that is absent or empty; a method that makes pictures of
            inputs that are not given; inputs or a method that have nothing of the test
            set.
    """
    problems: list[str] = []
    ordered: list[str] = []

    def look(folder: Path | None) -> FolderPictures:
        if folder is None:
            return FolderPictures()
        found = files.find(folder, recursive=folders.recursive)
        problems.extend(found.problems)
        return found

    for method, folder in methods:
        if folder is None and folders.lr is None:
            raise UsageError(
                f"{method.name} is made of low-quality pictures, and none are given. "
                "Name their folder with --lr."
            )
    of_truths, of_lows = look(folders.gt), look(folders.lr)
    theirs = [(method, folder, look(folder)) for method, folder in methods]
    if folders.gt is None and folders.lr is None:
        require_common(theirs)
        stems = sorted({stem for *_, have in theirs for stem in have.files})
        wanted = FolderPictures(dict.fromkeys(stems, Path()))
    else:
        wanted = of_truths if folders.gt else of_lows
    truths, lows = of_truths.files, of_lows.files
    if folders.gt and folders.lr:
        lows = of_inputs(wanted, of_lows, folders, problems, ordered)
    found = []
    for method, folder, have in theirs:
        own = {}
        if folder is not None:
            own = of_method(method, folder, have, wanted, folders, problems, ordered)
        found.append(replace(method, files=own))
    names = list(wanted.files)
    known = _sizes(truths, problems), _sizes(lows, problems)
    scale = folders.scale or _scale(*known)
    items = []
    for name in names:
        files_of = truths.get(name), lows.get(name)
        if any(path and name not in s for path, s in zip(files_of, known, strict=True)):
            continue  # a header that cannot be read has been told
        try:
            fit, lr_hw = _fitting(name, files_of, known, scale, found)
        except InputError as error:
            problems.append(str(error))
            continue
        items.append(Item(name, *files_of, fit.size_hw, lr_hw, fit))
    told = [*ordered] if ordered else ["paired by name"]
    told += (
        [sizes.describe_cuts(item.effective_fit for item in items)]
        if folders.gt
        else []
    )
    return Pairs(items, found, problems, scale, "; ".join(told))


def _sizes(paths: dict[str, Path], problems: list[str]) -> dict[str, Size]:
    """By the headers; a line for each that cannot be read."""
    sizes = {}
    for name, path in paths.items():
        try:
            sizes[name] = _size(path)
        except InputError as error:
            problems.append(str(error))
    return sizes


def _scale(truths: dict[str, Size], lows: dict[str, Size]) -> float:
    """The median of what pairs show, the whole number where it is near to one."""
    shown = [_shown(truths[name], lows[name]) for name in lows if name in truths]
    if not shown:
        return DEFAULT_SCALE
    scale = statistics.median(shown)
    whole = round(scale)
    return float(whole) if abs(scale - whole) < NEAR * scale else scale


def _shown(truth_hw: Size, lr_hw: Size) -> float:
    """The scale of one pair: whole, where the truth is that but for what is cut."""
    whole = max(1, round(truth_hw[0] / lr_hw[0]))
    if sizes.near(truth_hw, output_size(*lr_hw, whole), sizes.most_cut(whole)):
        return whole
    return truth_hw[0] / lr_hw[0]


def _fitting(
    name: str,
    paths: tuple[Path | None, Path | None],
    known: tuple[dict[str, Size], dict[str, Size]],
    scale: float,
    methods: list[Method],
) -> tuple[Fit, Size | None]:
    """The sizes of truth and results, and that of the input.

    Raises:
        InputError: a truth that is not `scale` times its input.
    """
    truth_hw, lr_hw = (own.get(name) for own in known)
    large_hw = output_size(*lr_hw, scale) if lr_hw else None
    theirs = [m.files[name] for m in methods if name in m.files]
    if truth_hw is None:
        # Nothing to cut to: results have the size that the scale gives.
        size_hw = large_hw or _size(theirs[0])
        return Fit(size_hw, size_hw), lr_hw
    most = sizes.most_cut(scale)
    if large_hw and not sizes.near(truth_hw, large_hw, most):
        raise InputError(
            f"{paths[0]} is {_text(truth_hw)}, {scale:g} times {paths[1]} would be "
            f"{_text(large_hw)}; up to {most} pixels are cut. Cut or replace one of "
            "them, or give the scale with -s."
        )
    of_results = [size_hw for path in theirs if (size_hw := _size_if_any(path))]
    return sizes.fit(truth_hw, large_hw, of_results, scale), lr_hw


def _size_if_any(path: Path) -> Size | None:
    """None of a file that cannot be read, which is told when its pixels are wanted."""
    try:
        return _size(path)
    except InputError:
        return None


def _size(path: Path) -> Size:
    header = image_io.probe(path)
    return header.height, header.width


def _text(size_hw: Size) -> str:
    return f"{size_hw[1]}x{size_hw[0]}"
