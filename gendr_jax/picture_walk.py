"""List the image files of a folder: one walk for every command that reads folders.

Files are selected by suffix. Symbolic links are followed, and each folder is read once
however many links lead to it, so that link loops end. Hidden and temporary names are
skipped without a message; every other file that is skipped has a line that says why.
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
    """The files of a folder.

    Attributes:
        names: paths of pictures below the folder, with "/", sorted.
        left_out: {printable path: one line why it is skipped}.
        repeated: {folder that was read already under another name: one line}; no
            picture is missed because of these.
        others: paths of regular files with other suffixes, as `names`, not sorted.
        deeper: subfolders that were not read, since the walk is not recursive.
    """

    names: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    repeated: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    deeper: list[Path] = field(default_factory=list)


def walk(root: Path, suffixes: Collection[str], *, recursive: bool = True) -> Walk:
    """The pictures below `root`; none if there is no such folder.

    Args:
        suffixes: in lower case, with the dot.
        recursive: read subfolders too.
    """
    walked, seen = Walk(), set()
    # Real folders are read before links, so that a picture that both lead to is named
    # by its real path.
    folders, links = [root], []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        identity = _identity(folder)
        if identity is None or identity in seen:
            if identity is not None:
                text = f"{shown(folder)} is a link to a folder that was read already."
                walked.repeated[shown(folder)] = text
            continue
        seen.add(identity)
        for entry in _entries(folder, walked):
            _add_entry(entry, root, suffixes, recursive, walked, folders, links)
    walked.names.sort()
    return walked


def shown(path: Path | str) -> str:
    """A printable path: bytes that are not UTF-8 become question marks."""
    return str(path).encode(errors="replace").decode()


def is_utf8(path: Path | str) -> bool:
    """Whether the name is UTF-8, as it has to be in JSON and CSV files."""
    return shown(path) == str(path)


def same_name(name: str) -> str:
    """A key that is equal for names that are one file on some file systems.

    Those ignore case (Windows, macOS) and how accents are encoded (macOS).
    """
    # Folding case may undo the normal form, hence twice.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _entries(folder: Path, walked: Walk) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        walked.left_out[shown(folder)] = (
            f"{shown(folder)} cannot be read ({error.strerror}). Check its permissions."
        )
        return []


def _add_entry(
    entry: os.DirEntry[str],
    root: Path,
    suffixes: Collection[str],
    recursive: bool,
    walked: Walk,
    folders: list[Path],
    links: list[Path],
) -> None:
    """Add one entry to the list of `walked` that it belongs to, or to what is read."""
    path = Path(entry.path)
    if entry.name.startswith(".") or files.is_temporary(path):
        return
    wanted = path.suffix.lower() in suffixes
    try:
        mode = entry.stat().st_mode
    except OSError as error:  # a broken link, a file that was deleted meanwhile
        if wanted:
            walked.left_out[shown(path)] = (
                f"{shown(path)} cannot be read ({error.strerror}). Remove or repair it."
            )
        return
    is_folder = stat.S_ISDIR(mode)
    if is_folder and not recursive:
        walked.deeper.append(path)
    elif stat.S_ISREG(mode) and not wanted:
        walked.others.append(path.relative_to(root).as_posix())
    if not (is_folder and recursive) and not (wanted and not is_folder):
        return
    if not is_utf8(path.relative_to(root)):
        walked.left_out[shown(path)] = (
            f"{shown(path)}: the name is not UTF-8. Rename the "
            f"{'folder' if is_folder else 'file'}."
        )
    elif is_folder:
        (links if entry.is_symlink() else folders).append(path)
    elif stat.S_ISREG(mode):
        walked.names.append(path.relative_to(root).as_posix())
    else:
        text = f"{shown(path)} is not a regular file. Remove it or give another folder."
        walked.left_out[shown(path)] = text


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
