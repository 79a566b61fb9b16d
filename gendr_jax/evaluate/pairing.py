"""What is measured: every picture with its truth, its input and each method's file."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gendr_jax import image_io
from gendr_jax.errors import InputError, UsageError
from gendr_jax.evaluate import files, sizes
from gendr_jax.evaluate.files import Found
from gendr_jax.evaluate.methods import Method
from gendr_jax.evaluate.sizes import Fit, Size
from gendr_jax.image_io.resize import output_size

DEFAULT_SCALE = 4.0
BY_NAMES = (
    "Pictures belong together by their names without the ending: rename them, give "
    "their names with --sr-template or --lr-template, or, as the last resort, pair "
    "them in the order of names with --by-order."
)
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
    def fitted(self) -> Fit:
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


@dataclass(frozen=True)
class Folders:
    """What a command names, and how it is to be taken.

    Attributes:
        gt, lr: folders; the stems of the first one given name the pictures.
        scale: from input to result; None: what the truths show.
        partial: methods may lack pictures.
        recursive: look into folders below.
        sr_template, lr_template: stems of results and of inputs, {} being that of the
            truth, if known.
        by_order: folders without any common name are paired in the order of names.
    """

    gt: Path | None = None
    lr: Path | None = None
    scale: float | None = None
    partial: bool = False
    recursive: bool = False
    sr_template: str = ""
    lr_template: str = ""
    by_order: bool = False


def pair(folders: Folders, methods: Sequence[tuple[Method, Path | None]]) -> Pairs:
    """Find the files of all; methods without a folder make their pictures.

    Raises:
        UsageError: a folder that is absent or empty; a method that makes pictures of
            inputs that are not given; inputs or a method that have nothing of the test
            set.
    """
    problems: list[str] = []
    ordered: list[str] = []

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
        lows = _partners(wanted, of_lows, folders, problems, ordered)
    found = []
    for method, folder, have in theirs:
        own = {}
        if folder is not None:
            own = _matched(method, folder, have, wanted, folders, problems, ordered)
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
    told += [sizes.told(item.fitted for item in items)] if folders.gt else []
    return Pairs(items, found, problems, scale, "; ".join(told))


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
    folders: Folders,
    problems: list[str],
    ordered: list[str],
) -> dict[str, Path]:
    """Inputs by the stems of truths; a line for each that has none, both ways."""
    folder, reference = folders.lr, folders.gt
    assert folder is not None and reference is not None
    found = files.match(wanted.files, have.files, folders.lr_template)
    if not found and folders.by_order:
        return _by_order("inputs", wanted, have, folder, reference, ordered)
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
    ordered: list[str],
) -> dict[str, Path]:
    """A method's files by the stems of the test set."""
    first = folders.gt or folders.lr
    reference = str(first or "the other folders")
    found = files.match(wanted.files, have.files, folders.sr_template)
    if not found and folders.by_order and first is not None:
        return _by_order(method.name, wanted, have, folder, first, ordered)
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


def _by_order(
    what: str,
    wanted: Found,
    have: Found,
    folder: Path,
    reference: Path,
    ordered: list[str],
) -> dict[str, Path]:
    """Pairs in the order of names, and a part of the protocol that says so.

    Raises:
        UsageError: numbers of pictures differ, or a picture on either side has no place
            in the order.
    """
    if problems := [*wanted.problems, *have.problems]:
        raise UsageError(f"{problems[0]} --by-order needs every picture.")
    if len(wanted.files) != len(have.files):
        raise UsageError(
            f"{folder} has {len(have.files)} pictures, {reference} has "
            f"{len(wanted.files)}: --by-order needs as many. Add or remove some."
        )
    found = files.by_order(wanted.files, have.files)
    (first, a), *_, (last, b) = [*found.items()] * 2
    ordered.append(
        f"{what} paired by the order of names ({a.name} with {first} to {b.name} with "
        f"{last})"
    )
    return found


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
