"""List the pictures of a folder, and match those of two folders by name.

Pictures match by file stem: `a.png` and `a.jpg`. Endings that programs add (`a_x4`,
`0801x4`, `a_bicLRx4`, `a-out`, `a_LR4`) are ignored where the match is unambiguous, and
so is the Unicode normal form, which differs in archives made on a Mac. A template
(`SR_{}_x4`) replaces these rules; the order of names is used only on request.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from gendr_jax import picture_walk
from gendr_jax.errors import UsageError
from gendr_jax.image_io import PICTURE_SUFFIXES

ENDINGS = re.compile(
    r"((?<=\d)x[2-8][a-z]?$|[-_](bic)?lrx\d|[-_](x\d+(\.\d+)?|\d+x|[lhs]r\d*|[lh]q|gt|out|output|result|restored))+$",
    re.IGNORECASE,
)


MARK = "{}"  # in a template: the stem of the truth


@dataclass(frozen=True)
class FolderPictures:
    """The pictures of a folder.

    Attributes:
        files: {stem: file} in order of stems, which contain subfolders: "night/a".
        twins: stems of several files, none of which is used.
        problems: a line for each of these, and for names that are not UTF-8.
    """

    files: dict[str, Path] = field(default_factory=dict)
    twins: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()


def find(folder: Path, *, recursive: bool = False) -> FolderPictures:
    """The pictures of a folder by stem, without hidden files.

    Raises:
        UsageError: no such folder, no picture in it, or a name that is not UTF-8.
    """
    if not picture_walk.is_utf8(folder):
        shown = picture_walk.shown(folder)
        raise UsageError(f"{shown}: the name is not UTF-8. Rename the folder.")
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"{folder} {problem}. Give a folder of pictures.")
    walked = picture_walk.walk(folder, PICTURE_SUFFIXES, recursive=recursive)
    paths = [folder / name for name in walked.names]
    problems = list(walked.left_out.values())
    if not paths and not problems:
        deeper = "" if recursive else " (--recursive looks deeper)"
        raise UsageError(f"{folder} has no pictures{deeper}. Give another folder.")
    by_stem: dict[str, list[Path]] = {}
    for path in paths:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        by_stem.setdefault(stem, []).append(path)
    twins = {stem: paths for stem, paths in by_stem.items() if len(paths) > 1}
    problems += [
        f"{folder} has {' and '.join(path.name for path in paths)}, one picture by "
        "name. Keep one of them."
        for paths in twins.values()
    ]
    single = {s: paths[0] for s, paths in sorted(by_stem.items()) if s not in twins}
    return FolderPictures(single, frozenset(twins), tuple(problems))


def match(
    wanted: Iterable[str], available: dict[str, Path], template: str = ""
) -> dict[str, Path]:
    """{wanted stem: file}: equal stems, then stems that are equal without endings.

    Without endings, only if one wanted and one available stem become equal. If nothing
    matches, one ending that all available stems share, such as a network's name:
    `a_SwinIR`, `b_SwinIR`. Stems without a partner are not in the result.

    Args:
        template: form of the available stems, with {} for the wanted stem; if given,
            nothing else is tried.
    """
    wanted = list(wanted)
    if template:
        template_stems = {stem: filled(template, stem) for stem in wanted}
        return {
            stem: available[name]
            for stem, name in template_stems.items()
            if name in available
        }
    matched = {stem: available[stem] for stem in wanted if stem in available}
    available_groups = _without_endings(
        stem for stem in available if stem not in matched
    )
    for base, wanted_group in _without_endings(
        stem for stem in wanted if stem not in matched
    ).items():
        if len(wanted_group) == 1 and len(available_groups.get(base, ())) == 1:
            matched[wanted_group[0]] = available[available_groups[base][0]]
    if matched:
        return matched
    shared = _shared_ending(wanted, list(available))
    return {
        w: available[w + shared] for w in wanted if shared and w + shared in available
    }


def filled(template: str, stem: str) -> str:
    """The template applied to a stem; its folders stay in front: night/SR_a."""
    folder, slash, name = stem.rpartition("/")
    return folder + slash + template.replace(MARK, name)


def by_order(wanted: Iterable[str], available: dict[str, Path]) -> dict[str, Path]:
    """{wanted stem: file} in the order of names, in which 10 comes after 9."""
    names = zip(
        sorted(wanted, key=_natural_key),
        sorted(available, key=_natural_key),
        strict=True,
    )
    return {stem: available[name] for stem, name in names}


def _natural_key(stem: str) -> list[tuple[int, str]]:
    """Sort key that compares digits in names as numbers."""
    pieces = re.split(r"(\d+)", unicodedata.normalize("NFC", stem))
    return [(int(piece), "") if k % 2 else (0, piece) for k, piece in enumerate(pieces)]


def _shared_ending(wanted: list[str], available: list[str]) -> str:
    """The ending that all available stems have after a wanted one; "" if they differ.

    It begins with a separator, so that `10` is not matched with `1`.
    """
    known, endings = set(wanted), set()
    for stem in available:
        cuts = [k for k in range(len(stem) - 1, 0, -1) if stem[:k] in known]
        cuts = [k for k in cuts if stem[k] in "-_. "]
        if not cuts:
            return ""
        endings.add(stem[cuts[0] :])
    return endings.pop() if len(endings) == 1 else ""


def _without_endings(stems: Iterable[str]) -> dict[str, list[str]]:
    """Stems grouped by their form without endings, Unicode-normalised (NFC)."""
    groups: dict[str, list[str]] = {}
    for stem in stems:
        base = ENDINGS.sub("", stem) or stem
        groups.setdefault(unicodedata.normalize("NFC", base), []).append(stem)
    return groups
