"""Pictures of a folder, and which of them belong together.

Pictures belong together by file stem: `a.png` and `a.jpg`. Endings that programs add
(`a_x4`, `0801x4`, `a_bicLRx4`, `a-out`, `a_LR4`) are looked through where that leaves
no doubt, and so are the two ways to write an accent, of which archives made on a Mac
use the other one. A template (`SR_{}_x4`) says it outright; the order of names is the
last resort, and only where it is asked for.
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
        files: {stem: file} in order of stems. A stem has the folders below in it, as
            "night/a".
        twins: stems of several files, of which none is taken.
        problems: a line for each of these, and for names that are not UTF-8.
    """

    files: dict[str, Path] = field(default_factory=dict)
    twins: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()


def find(folder: Path, *, recursive: bool = False) -> FolderPictures:
    """Its pictures by stem; hidden files are left out.

    Raises:
        UsageError: no such folder, no picture in it, or a name that is not UTF-8.
    """
    if not picture_walk.is_utf8(folder):
        shown = picture_walk.shown(folder)
        raise UsageError(f"{shown}: the name is not UTF-8. Rename the folder.")
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"{folder} {what}. Give a folder of pictures.")
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
    wanted: Iterable[str], have: dict[str, Path], template: str = ""
) -> dict[str, Path]:
    """{wanted stem: file}: equal stems, then stems that are equal without endings.

    The second only where one wanted and one given stem come to the same. The last
    resort is one ending that all the rest share, as a network's name: `a_SwinIR`,
    `b_SwinIR`. What found no partner is not in the result.

    Args:
        template: what the given stems are made of, with {} for the wanted stem, if it
            is known; nothing else is tried.
    """
    wanted = list(wanted)
    if template:
        made = {stem: filled(template, stem) for stem in wanted}
        return {stem: have[name] for stem, name in made.items() if name in have}
    found = {stem: have[stem] for stem in wanted if stem in have}
    theirs = _plain(stem for stem in have if stem not in found)
    for plain, mine in _plain(stem for stem in wanted if stem not in found).items():
        if len(mine) == 1 and len(theirs.get(plain, ())) == 1:
            found[mine[0]] = have[theirs[plain][0]]
    if found:
        return found
    shared = _shared_ending(wanted, list(have))
    return {w: have[w + shared] for w in wanted if shared and w + shared in have}


def filled(template: str, stem: str) -> str:
    """The template for a stem; folders of the stem stay in front: night/SR_a."""
    folder, slash, name = stem.rpartition("/")
    return folder + slash + template.replace(MARK, name)


def by_order(wanted: Iterable[str], have: dict[str, Path]) -> dict[str, Path]:
    """{wanted stem: file} in the order of names, in which 10 comes after 9."""
    names = zip(sorted(wanted, key=_counted), sorted(have, key=_counted), strict=True)
    return {stem: have[name] for stem, name in names}


def _counted(stem: str) -> list[tuple[int, str]]:
    """A key by which numbers within names count as numbers."""
    parts = re.split(r"(\d+)", unicodedata.normalize("NFC", stem))
    return [(int(part), "") if k % 2 else (0, part) for k, part in enumerate(parts)]


def _shared_ending(wanted: list[str], have: list[str]) -> str:
    """What every given stem has behind a wanted one; "" where they differ.

    It begins with a mark, so that `10` is no partner of `1`.
    """
    known, endings = set(wanted), set()
    for stem in have:
        cuts = [k for k in range(len(stem) - 1, 0, -1) if stem[:k] in known]
        cuts = [k for k in cuts if stem[k] in "-_. "]
        if not cuts:
            return ""
        endings.add(stem[cuts[0] :])
    return endings.pop() if len(endings) == 1 else ""


def _plain(stems: Iterable[str]) -> dict[str, list[str]]:
    """Stems by what is left of them without endings, accents written in one way."""
    groups: dict[str, list[str]] = {}
    for stem in stems:
        left = ENDINGS.sub("", stem) or stem
        groups.setdefault(unicodedata.normalize("NFC", left), []).append(stem)
    return groups
