"""What is measured: every picture with its truth, its input and each method's file."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gendr_jax import image_io
from gendr_jax.errors import InputError, UsageError
from gendr_jax.evaluate import files
from gendr_jax.evaluate.files import Found
from gendr_jax.evaluate.methods import Method
from gendr_jax.image_io.resize import output_size

Size = tuple[int, int]
DEFAULT_SCALE = 4.0
BY_NAMES = (
    "Pictures belong together by their names without the ending: rename them, or give "
    "what is added to the names with --sr-suffix or --lr-suffix."
)
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
        sr_suffix, lr_suffix: endings of stems of results and of inputs, if known.
    """

    gt: Path | None = None
    lr: Path | None = None
    scale: float | None = None
    partial: bool = False
    recursive: bool = False
    sr_suffix: str = ""
    lr_suffix: str = ""


def pair(folders: Folders, methods: Sequence[tuple[Method, Path | None]]) -> Pairs:
    """Find the files of all; methods without a folder make their pictures.

    Raises:
        UsageError: a folder that is absent or empty; a method that makes pictures of
            inputs that are not given; inputs or a method that have nothing of the test
            set.
    """
    problems: list[str] = []

    def look(folder: Path | None) -> Found:
        if folder is None:
            return Found()
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
        _require_common(theirs)
        stems = sorted({stem for *_, have in theirs for stem in have.files})
        wanted = Found(dict.fromkeys(stems, Path()))
    else:
        wanted = of_truths if folders.gt else of_lows
    truths, lows = of_truths.files, of_lows.files
    if folders.gt and folders.lr:
        lows = _partners(
            wanted, of_lows, folders.lr, folders.gt, problems, folders.lr_suffix
        )
    found = []
    for method, folder, have in theirs:
        own = {}
        if folder is not None:
            own = _matched(method, folder, have, wanted, folders, problems)
        found.append(replace(method, files=own))
    names = list(wanted.files)
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


def _require_common(theirs: Sequence[tuple[Method, Path | None, Found]]) -> None:
    """Each method has a picture that another one has too."""
    if len(theirs) < 2:
        return
    for method, folder, have in theirs:
        others = {n for m, _, f in theirs if m is not method for n in f.files}
        if others.isdisjoint(have.files):
            raise UsageError(
                f"{method.name}: no picture of {folder} is in another method's folder "
                "by its name without the ending. Rename them, or name what they belong "
                "to with --gt or --lr."
            )


def _partners(
    wanted: Found,
    have: Found,
    folder: Path,
    reference: Path,
    problems: list[str],
    suffix: str,
) -> dict[str, Path]:
    """Inputs by the stems of truths; a line for each that has none, both ways."""
    found = files.match(wanted.files, have.files, suffix)
    if not found:
        raise UsageError(
            f"no picture of {folder} has a partner in {reference}, as "
            f"{_any(have, folder)} has none. {BY_NAMES}"
        )
    problems += [
        f"{folder} has no picture {name}. Add it, or take it out of {reference}."
        for name in wanted.files
        if name not in found and name not in have.twins
    ]
    return _without_partner(found, wanted, have, str(reference), problems)


def _without_partner(
    found: dict[str, Path],
    wanted: Found,
    have: Found,
    reference: str,
    problems: list[str],
) -> dict[str, Path]:
    """`found`, and a line for what is surplus; twins have theirs already."""
    used = set(found.values())
    problems += [
        f"{path} has no partner in {reference}. Remove it, or name it as its partner."
        for stem, path in have.files.items()
        if path not in used and stem not in wanted.twins
    ]
    return found


def _matched(
    method: Method,
    folder: Path,
    have: Found,
    wanted: Found,
    folders: Folders,
    problems: list[str],
) -> dict[str, Path]:
    """A method's files by the stems of the test set."""
    reference = str(folders.gt or folders.lr or "the other folders")
    found = files.match(wanted.files, have.files, folders.sr_suffix)
    if not found:
        raise UsageError(
            f"{method.name}: no picture of {folder} has a partner in {reference}, as "
            f"{_any(have, folder)} has none. {BY_NAMES}"
        )
    if not folders.partial:
        problems += [
            f"{method.name}: {folder} has no picture {name}. Add it, or allow methods "
            "to lack pictures with --partial."
            for name in wanted.files
            if name not in found and name not in have.twins
        ]
    return _without_partner(found, wanted, have, reference, problems)


def _any(have: Found, folder: Path) -> str:
    return next((path.name for path in have.files.values()), f"all of {folder}")


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
