"""Pictures of a folder, and which of them belong together.

Pictures belong together by file stem: `a.png` and `a.jpg`. Endings that programs add
(`a_x4`, `a-out`, `a_LR4`) are looked through where that leaves no doubt. What lives
here: names. What does not: reading any of the files.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from gendr_jax.errors import UsageError
from gendr_jax.restore.image_io import PICTURE_SUFFIXES

ENDINGS = re.compile(
    r"([-_](x\d+(\.\d+)?|\d+x|[lhs]r\d*|[lh]q|gt|out|output|result|restored))+$",
    re.IGNORECASE,
)


def find(folder: Path, *, recursive: bool = False) -> tuple[dict[str, Path], list[str]]:
    """({stem: file} in order of stems, what is wrong).

    A stem has the folders below `folder` in it, as "night/a". Hidden files are left
    out; of two files of one stem neither is taken.

    Raises:
        UsageError: no such folder, or no picture in it.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"{folder} {what}. Give a folder of pictures.")
    paths = sorted(walk(folder, recursive=recursive))
    if not paths:
        deeper = "" if recursive else " (--recursive looks deeper)"
        raise UsageError(f"{folder} has no pictures{deeper}. Give another folder.")
    by_stem: dict[str, list[Path]] = {}
    for path in paths:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        by_stem.setdefault(stem, []).append(path)
    problems = [
        f"{folder} has {' and '.join(path.name for path in twins)}, one picture by "
        "name. Keep one of them."
        for twins in by_stem.values()
        if len(twins) > 1
    ]
    single = {s: twins[0] for s, twins in sorted(by_stem.items()) if len(twins) == 1}
    return single, problems


def match(wanted: Iterable[str], have: dict[str, Path]) -> dict[str, Path]:
    """{wanted stem: file}: equal stems, then stems that are equal without endings.

    The second only where one wanted and one given stem come to the same. What found
    no partner is not in the result.
    """
    wanted = list(wanted)
    found = {stem: have[stem] for stem in wanted if stem in have}
    theirs = _plain(stem for stem in have if stem not in found)
    for plain, mine in _plain(stem for stem in wanted if stem not in found).items():
        if len(mine) == 1 and len(theirs.get(plain, ())) == 1:
            found[mine[0]] = have[theirs[plain][0]]
    return found


def _plain(stems: Iterable[str]) -> dict[str, list[str]]:
    """Stems by what is left of them without endings."""
    groups: dict[str, list[str]] = {}
    for stem in stems:
        groups.setdefault(ENDINGS.sub("", stem) or stem, []).append(stem)
    return groups


def walk(folder: Path, *, recursive: bool) -> Iterable[Path]:
    """The picture files of a folder, by their suffix, in no order."""
    for root, below, names in os.walk(folder, followlinks=True):
        below[:] = [b for b in below if recursive and not b.startswith(".")]
        for name in names:
            path = Path(root, name)
            if path.suffix.lower() in PICTURE_SUFFIXES and not name.startswith("."):
                yield path
