"""Which files of two folders belong together, and a line for each that has no partner.

By names, by a template, or in the order of names (files.py); what there is in a folder
is files.py's, too, sizes are sizes.py's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gendr_jax.errors import UsageError
from gendr_jax.evaluate import files
from gendr_jax.evaluate.files import FolderPictures
from gendr_jax.evaluate.methods import Method

BY_NAMES = (
    "Pictures belong together by their names without the ending: rename them, give "
    "their names with --sr-template or --lr-template, or, as the last resort, pair "
    "them in the order of names with --by-order."
)


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


def require_common(
    theirs: Sequence[tuple[Method, Path | None, FolderPictures]],
) -> None:
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


def of_inputs(
    wanted: FolderPictures,
    have: FolderPictures,
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
    wanted: FolderPictures,
    have: FolderPictures,
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


def of_method(
    method: Method,
    folder: Path,
    have: FolderPictures,
    wanted: FolderPictures,
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
    wanted: FolderPictures,
    have: FolderPictures,
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


def _any(have: FolderPictures, folder: Path) -> str:
    return next((path.name for path in have.files.values()), f"all of {folder}")
