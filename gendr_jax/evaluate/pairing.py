"""What is measured: every picture with its truth, its input and each method's file.

What lives here: who belongs to whom, sizes by the headers, and a line for whatever has
no partner. What does not: names (files.py), pixels (measuring.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gendr_jax.errors import InputError, UsageError
from gendr_jax.evaluate import files
from gendr_jax.evaluate.methods import Method
from gendr_jax.restore import image_io
from gendr_jax.restore.resize import output_size

Size = tuple[int, int]


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
    """Items in order of names, methods with their files, and what has no partner."""

    items: list[Item]
    methods: list[Method]
    problems: list[str]


@dataclass(frozen=True)
class Folders:
    """What a command names, and how it is to be taken.

    Attributes:
        gt, lr: folders; the stems of the first one given name the pictures.
        scale: from input to result, where no truth shows it.
        partial: methods may lack pictures.
        recursive: look into folders below.
    """

    gt: Path | None = None
    lr: Path | None = None
    scale: float = 4.0
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
    items = _items(names, truths, lows, found, folders.scale, problems)
    return Pairs(items, found, problems)


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


def _items(
    names: list[str],
    truths: dict[str, Path],
    lows: dict[str, Path],
    methods: list[Method],
    scale: float,
    problems: list[str],
) -> list[Item]:
    """Those whose headers can be read and whose sizes fit."""
    items = []
    for name in names:
        gt, lr = truths.get(name), lows.get(name)
        results = (m.files[name] for m in methods if name in m.files)
        try:
            lr_hw = None if lr is None else _size(lr)
            if gt is not None:
                size = _size(gt)
            elif lr_hw is not None:
                size = output_size(*lr_hw, scale)
            else:
                size = _size(next(results))
            if lr_hw is not None and not _in_proportion(lr_hw, size):
                raise InputError(
                    f"{lr} is {_text(lr_hw)} and {gt} {_text(size)}, which is not in "
                    "proportion. Cut the larger one to a multiple of the smaller."
                )
        except InputError as error:
            problems.append(str(error))
            continue
        items.append(Item(name, gt, lr, size, lr_hw))
    return items


def _size(path: Path) -> Size:
    header = image_io.probe(path)
    return header.height, header.width


def _in_proportion(small: Size, large: Size) -> bool:
    """Whether one scale, rounded, leads from the one to the other."""
    least = max((large[i] - 0.5) / small[i] for i in (0, 1))
    most = min((large[i] + 0.5) / small[i] for i in (0, 1))
    return least <= most


def _text(size_hw: Size) -> str:
    return f"{size_hw[1]}x{size_hw[0]}"
