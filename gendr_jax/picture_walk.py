"""Which picture files a folder has: one walk for every command that reads folders.

Files are taken by their suffix. Symbolic links are followed, a folder is read once
however many links lead to it, so that a link to a folder above ends. Hidden names and
our temporary ones are left out in silence; everything else that is not taken has a line
that says why.
"""

import os
import stat
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from gendr_jax import files


@dataclass
class Walk:
    """What a folder has.

    Attributes:
        names: paths of pictures below the folder, with "/", sorted.
        left_out: {path as it can be printed: one line why it is not taken}.
        repeated: {folder that a link leads to a second time: one line}; nothing is
            lost with these.
        others: paths of regular files with other suffixes, as `names`, not sorted.
        deeper: folders that were not looked into, as it was not asked for.
    """

    names: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    repeated: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    deeper: list[Path] = field(default_factory=list)


def walk(root: Path, suffixes: Collection[str], *, recursive: bool = True) -> Walk:
    """The pictures below `root`; of a folder that is not there, none.

    Args:
        suffixes: in lower case, with the dot.
        recursive: look into folders below.
    """
    found, seen = Walk(), set()
    # Real folders go before links: a picture has the name without a link, if any.
    folders, links = [root], []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        identity = _identity(folder)
        if identity is None or identity in seen:
            if identity is not None:
                text = f"{shown(folder)} is a link to a folder that is read already."
                found.repeated[shown(folder)] = text
            continue
        seen.add(identity)
        for entry in _entries(folder, found):
            _sort(entry, root, suffixes, recursive, found, folders, links)
    found.names.sort()
    return found


def shown(path: Path | str) -> str:
    """The path as it can be printed: bytes that are not UTF-8 as question marks."""
    return str(path).encode(errors="replace").decode()


def is_utf8(path: Path | str) -> bool:
    """Whether the name can stand in a file of results."""
    return shown(path) == str(path)


def same_name(name: str) -> str:
    """Equal for names that some file systems do not tell apart.

    Letters of either case (Windows, macOS) and both ways to write an accent (macOS).
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _entries(folder: Path, found: Walk) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        found.left_out[shown(folder)] = (
            f"{shown(folder)} cannot be read ({error.strerror}). Check its permissions."
        )
        return []


def _sort(
    entry: os.DirEntry[str],
    root: Path,
    suffixes: Collection[str],
    recursive: bool,
    found: Walk,
    folders: list[Path],
    links: list[Path],
) -> None:
    """Put one entry where it belongs."""
    path = Path(entry.path)
    if entry.name.startswith(".") or files.is_temporary(path):
        return
    wanted = path.suffix.lower() in suffixes
    try:
        mode = entry.stat().st_mode
    except OSError as error:  # a link to nothing, a file that went
        if wanted:
            found.left_out[shown(path)] = (
                f"{shown(path)} cannot be read ({error.strerror}). Remove or repair it."
            )
        return
    is_folder = stat.S_ISDIR(mode)
    if is_folder and not recursive:
        found.deeper.append(path)
    elif stat.S_ISREG(mode) and not wanted:
        found.others.append(path.relative_to(root).as_posix())
    if not (is_folder and recursive) and not (wanted and not is_folder):
        return
    if not is_utf8(path.relative_to(root)):
        found.left_out[shown(path)] = (
            f"{shown(path)}: the name is not UTF-8. Rename the "
            f"{'folder' if is_folder else 'file'}."
        )
    elif is_folder:
        (links if entry.is_symlink() else folders).append(path)
    elif stat.S_ISREG(mode):
        found.names.append(path.relative_to(root).as_posix())
    else:
        text = f"{shown(path)} is no regular file. Remove it or give another folder."
        found.left_out[shown(path)] = text


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
