"""Pair the files of two folders, and report each file without a partner.

By names, by a template, or in the order of names (files.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gendr_jax.errors import UsageError
from gendr_jax.evaluate import files
from gendr_jax.evaluate.files import FolderPictures
from gendr_jax.evaluate.methods import Method

BY_NAMES = (
    "Pictures are paired by their names without the ending: rename them, give "
    "their names with --sr-template or --lr-template, or, as the last resort, pair "
    "them in the order of names with --by-order."
)


@dataclass(frozen=True)
class Folders:
    """The folders of a command, and how their files are paired.

    Attributes:
        gt, lr: folders of truths and inputs; the first one given names the pictures.
        scale: from input to result; None: measured from the truths.
        partial: methods may lack pictures.
        recursive: read subfolders too.
        sr_template, lr_template: stems of results and of inputs, with {} for that of
            the truth.
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


def require_common(
    method_pictures: Sequence[tuple[Method, Path | None, FolderPictures]],
) -> None:
    """Refuse a method that has no picture in common with the others."""
    if len(method_pictures) < 2:
        return
    for method, folder, available in method_pictures:
        others = {n for m, _, f in method_pictures if m is not method for n in f.files}
        if others.isdisjoint(available.files):
            raise UsageError(
                f"{method.name}: no picture of {folder} is in another method's folder "
                "by its name without the ending. Rename them, or give the folder of "
                "truths or inputs with --gt or --lr."
            )


def of_inputs(
    wanted: FolderPictures,
    available: FolderPictures,
    folders: Folders,
    problems: list[str],
    ordered: list[str],
) -> dict[str, Path]:
    """Inputs by the stems of truths; a problem for each without a partner."""
    folder, reference = folders.lr, folders.gt
    assert folder is not None and reference is not None
    matched = files.match(wanted.files, available.files, folders.lr_template)
    if not matched and folders.by_order:
        return _by_order("inputs", wanted, available, folder, reference, ordered)
    if not matched:
        raise UsageError(
            f"no picture of {folder} has a partner in {reference}, as "
            f"{_example(available, folder)} has none. {BY_NAMES}"
        )
    problems += [
        f"{folder} has no picture {name}. Add it, or take it out of {reference}."
        for name in wanted.files
        if name not in matched and name not in available.twins
    ]
    return _without_partner(matched, wanted, available, str(reference), problems)


def _without_partner(
    matched: dict[str, Path],
    wanted: FolderPictures,
    available: FolderPictures,
    reference: str,
    problems: list[str],
) -> dict[str, Path]:
    """`matched`, and a problem for each surplus file; twins have one already."""
    used = set(matched.values())
    problems += [
        f"{path} has no partner in {reference}. Remove it, or rename it like its "
        "partner."
        for stem, path in available.files.items()
        if path not in used and stem not in wanted.twins
    ]
    return matched


def of_method(
    method: Method,
    folder: Path,
    available: FolderPictures,
    wanted: FolderPictures,
    folders: Folders,
    problems: list[str],
    ordered: list[str],
) -> dict[str, Path]:
    """A method's files by the stems of the test set."""
    first = folders.gt or folders.lr
    reference = str(first or "the other folders")
    matched = files.match(wanted.files, available.files, folders.sr_template)
    if not matched and folders.by_order and first is not None:
        return _by_order(method.name, wanted, available, folder, first, ordered)
    if not matched:
        raise UsageError(
            f"{method.name}: no picture of {folder} has a partner in {reference}, as "
            f"{_example(available, folder)} has none. {BY_NAMES}"
        )
    if not folders.partial:
        problems += [
            f"{method.name}: {folder} has no picture {name}. Add it, or allow methods "
            "to lack pictures with --partial."
            for name in wanted.files
            if name not in matched and name not in available.twins
        ]
    return _without_partner(matched, wanted, available, reference, problems)


def _by_order(
    label: str,
    wanted: FolderPictures,
    available: FolderPictures,
    folder: Path,
    reference: Path,
    ordered: list[str],
) -> dict[str, Path]:
    """Pairs in the order of names, noted in the protocol (`ordered`).

    Raises:
        UsageError: numbers of pictures differ, or a picture cannot be used.
    """
    if problems := [*wanted.problems, *available.problems]:
        raise UsageError(f"{problems[0]} --by-order needs every picture.")
    if len(wanted.files) != len(available.files):
        raise UsageError(
            f"{folder} has {len(available.files)} pictures, {reference} has "
            f"{len(wanted.files)}: --by-order needs as many. Add or remove some."
        )
    matched = files.by_order(wanted.files, available.files)
    (first, a), *_, (last, b) = [*matched.items()] * 2
    ordered.append(
        f"{label} paired by the order of names ({a.name} with {first} to {b.name} with "
        f"{last})"
    )
    return matched


def _example(available: FolderPictures, folder: Path) -> str:
    return next((path.name for path in available.files.values()), f"all of {folder}")
