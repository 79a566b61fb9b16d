"""What is measured: every picture with its truth, its input and each method's file.

What lives here: who belongs to whom, sizes by the headers, and a line for whatever has
no partner. What does not: names (files.py), pixels (measuring.py).
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gendr_jax.errors import InputError, UsageError
from gendr_jax.evaluate import files
from gendr_jax.evaluate.methods import Method
from gendr_jax.restore import image_io
from gendr_jax.restore.resize import output_size

Size = tuple[int, int]
DEFAULT_SCALE = 4.0
NEAR = 0.02  # of a whole number: truths that were not cut to a multiple


@dataclass(frozen=True)
class Item:
    """One picture of the test set.

    Attributes:
        name: the stem that belongs to it everywhere.
        gt, lr: files of the truth and of the low-quality input, where given.
        size_hw: of every method's result.
        lr_hw: of the input.
    """

    name: str
    gt: Path | None
    lr: Path | None
    size_hw: Size
    lr_hw: Size | None


@dataclass(frozen=True)
class Pairs:
    """Items in order of names, methods with their files, and what has no partner.

    `scale` is that from inputs to results: what was given, else what most truths show,
    else DEFAULT_SCALE.
    """

    items: list[Item]
    methods: list[Method]
    problems: list[str]
    scale: float


@dataclass(frozen=True)
class Folders:
    """What a command names, and how it is to be taken.

    Attributes:
        gt, lr: folders; the stems of the first one given name the pictures.
        scale: from input to result; None: what the truths show.
        partial: methods may lack pictures.
        recursive: look into folders below.
    """

    gt: Path | None = None
    lr: Path | None = None
    scale: float | None = None
    partial: bool = False
    recursive: bool = False


def pair(folders: Folders, methods: Sequence[tuple[Method, Path | None]]) -> Pairs:
    """Find the files of all; methods without a folder make their pictures.

    Raises:
        UsageError: a folder that is absent or empty; a method that makes pictures of
            inputs that are not given; a method that has nothing of the test set.
    """
    problems: list[str] = []

    def look(folder: Path | None) -> dict[str, Path]:
        if folder is None:
            return {}
        found, wrong = files.find(folder, recursive=folders.recursive)
        problems.extend(wrong)
        return found

    for method, folder in methods:
        if folder is None and folders.lr is None:
            raise UsageError(
                f"{method.name} is made of low-quality pictures, and none are given. "
                "Name their folder with --lr."
            )
    truths, lows = look(folders.gt), look(folders.lr)
    theirs = [(method, folder, look(folder)) for method, folder in methods]
    names = list(truths or lows or dict.fromkeys(n for *_, f in theirs for n in f))
    if truths and lows:
        lows = _partners(names, lows, str(folders.lr), str(folders.gt), problems)
    found = []
    for method, folder, have in theirs:
        if folder is not None:
            have = _matched(method, folder, have, names, folders, problems)
        found.append(replace(method, files=have))
    sizes = _sizes(truths, problems), _sizes(lows, problems)
    scale = folders.scale or _scale(*sizes)
    items = []
    for name in names:
        files_of = truths.get(name), lows.get(name)
        if any(path and name not in s for path, s in zip(files_of, sizes, strict=True)):
            continue  # a header that cannot be read has been told
        try:
            size_hw, lr_hw = _fitting(name, files_of, sizes, scale, found)
        except InputError as error:
            problems.append(str(error))
            continue
        items.append(Item(name, *files_of, size_hw, lr_hw))
    return Pairs(items, found, problems, scale)


def _partners(
    names: list[str],
    have: dict[str, Path],
    folder: str,
    reference: str,
    problems: list[str],
) -> dict[str, Path]:
    """Inputs by the stems of truths; a line for each that has none, both ways."""
    found = files.match(names, have)
    problems += [
        f"{folder} has no picture {name}. Add it, or take it out of {reference}."
        for name in names
        if name not in found
    ]
    return _without_partner(found, have, reference, problems)


def _without_partner(
    found: dict[str, Path], have: dict[str, Path], reference: str, problems: list[str]
) -> dict[str, Path]:
    used = set(found.values())
    problems += [
        f"{path} has no partner in {reference}. Remove it, or name it as its partner."
        for path in have.values()
        if path not in used
    ]
    return found


def _matched(
    method: Method,
    folder: Path,
    have: dict[str, Path],
    names: list[str],
    folders: Folders,
    problems: list[str],
) -> dict[str, Path]:
    """A method's files by the stems of the test set."""
    reference = str(folders.gt or folders.lr or "the other folders")
    found = files.match(names, have)
    if not found:
        raise UsageError(
            f"{method.name}: no picture of {folder} has a partner in {reference}, as "
            f"{next(iter(have.values())).name} has none. Pictures belong together by "
            "their names without the ending: rename them."
        )
    if not folders.partial:
        problems += [
            f"{method.name}: {folder} has no picture {name}. Add it, or allow methods "
            "to lack pictures with --partial."
            for name in names
            if name not in found
        ]
    return _without_partner(found, have, reference, problems)


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
    shown = [truths[name][0] / lows[name][0] for name in lows if name in truths]
    if not shown:
        return DEFAULT_SCALE
    scale = statistics.median(shown)
    whole = round(scale)
    return float(whole) if abs(scale - whole) < NEAR * scale else scale


def _fitting(
    name: str,
    paths: tuple[Path | None, Path | None],
    sizes: tuple[dict[str, Size], dict[str, Size]],
    scale: float,
    methods: list[Method],
) -> tuple[Size, Size | None]:
    """The size of results, and that of the input.

    Raises:
        InputError: a truth that is not `scale` times its input.
    """
    size_hw, lr_hw = (own.get(name) for own in sizes)
    if lr_hw is not None:
        expected = output_size(*lr_hw, scale)
        if size_hw not in (None, expected):
            raise InputError(
                f"{paths[0]} is {_text(size_hw)}, {scale:g} times {paths[1]} would be "
                f"{_text(expected)}. Cut or replace one of them, or give the scale "
                "with -s."
            )
        size_hw = expected
    if size_hw is None:
        size_hw = _size(next(m.files[name] for m in methods if name in m.files))
    return size_hw, lr_hw


def _size(path: Path) -> Size:
    header = image_io.probe(path)
    return header.height, header.width


def _text(size_hw: Size) -> str:
    return f"{size_hw[1]}x{size_hw[0]}"
