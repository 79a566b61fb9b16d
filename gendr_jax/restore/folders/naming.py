"""Find the input pictures of a command, and name their output files."""

import os
from dataclasses import dataclass
from pathlib import Path

from gendr_jax.errors import UsageError
from gendr_jax.image_io import FORMATS, PICTURE_SUFFIXES
from gendr_jax.image_io.loading import format_of_bytes
from gendr_jax.picture_walk import is_utf8, same_name, shown, walk


@dataclass(frozen=True)
class InputPicture:
    """A picture and its path relative to the folder that the user gave."""

    path: Path
    relative: Path


@dataclass(frozen=True)
class PicturePaths:
    """One picture to restore.

    Attributes:
        source: the file.
        target: the file of its result.
        relative: path of the result relative to the output folder.
    """

    source: Path
    target: Path
    relative: Path


def find(
    inputs: list[str], *, recursive: bool, outs: list[Path]
) -> tuple[list[InputPicture], dict[str, str], list[str]]:
    """(pictures in a stable order, {path: why it is left out}, other messages).

    A file is taken whatever its name; of a folder, files with the suffix of a picture,
    without hidden ones. Results of earlier runs below `outs` are not inputs.
    """
    left_out = {os.path.realpath(out) for out in outs}
    pictures: list[InputPicture] = []
    problems: dict[str, str] = {}
    notes: list[str] = []
    for text in inputs:
        try:
            path = Path(text)
            if path.is_dir():
                _add_folder(path, recursive, left_out, pictures, problems, notes)
            elif not path.exists():
                problems[text] = f"{shown(text)} does not exist. Check the path."
            elif not is_utf8(text):
                line = f"{shown(text)}: the name is not UTF-8. Rename the file."
                problems[shown(text)] = line
            else:
                pictures.append(InputPicture(path, Path(path.name)))
        except (OSError, ValueError) as error:  # such as a name that is too long
            reason = getattr(error, "strerror", None) or error
            line = f"{shown(text)} cannot be read ({reason}). Check the path."
            problems[shown(text)] = line
    unique = {os.path.abspath(f.path): f for f in pictures}
    return list(unique.values()), problems, notes


def assign(
    pictures: list[InputPicture],
    out: Path,
    *,
    ext: str,
    suffix: str,
    resume: bool = False,
) -> list[PicturePaths]:
    """Name the result of each picture, all different, and none an input.

    Args:
        out: a folder; or a file, by its suffix, for one picture.
        ext: "auto" keeps the format of the input if it can be written, else PNG.
        suffix: added to the stem.
        resume: existing files are not replaced, so results of an earlier run in the
            folder of their inputs are not inputs.

    Raises:
        UsageError: two folders have a picture of one name, a result would replace an
            input, or `out` is a file that conflicts with the other options.
    """
    if pictures and out.suffix.lower() in PICTURE_SUFFIXES and not out.is_dir():
        _require_one(pictures, out, ext, suffix)
        todo = [PicturePaths(pictures[0].path, out, Path(out.name))]
    else:
        if out.exists() and not out.is_dir():
            raise UsageError(f"-o {out} is a file, not a folder. Give a folder.")
        names = _names(pictures, out, ext, suffix)
        todo = [
            PicturePaths(f.path, out / n, n)
            for f, n in zip(pictures, names, strict=True)
        ]
        if resume:
            results = {os.path.realpath(paths.target) for paths in todo}
            todo = [j for j in todo if os.path.realpath(j.source) not in results]
    _refuse_replacing(todo)
    return todo


def _require_one(
    pictures: list[InputPicture], out: Path, ext: str, suffix: str
) -> None:
    """Refuse -o FILE that conflicts with the number of pictures or other options."""
    file_format, problem = FORMATS.get(out.suffix.lower()), ""
    if file_format is None:
        problem = f"has no supported suffix. Use one of {' '.join(FORMATS)}"
    elif len(pictures) > 1:
        problem = f"is a file, and there are {len(pictures)} pictures. Give a folder"
    elif suffix:
        problem = f"names the result, and --suffix {suffix} too. Leave one out"
    elif ext != "auto" and FORMATS[f".{ext}"] != file_format:
        problem = f"and --ext {ext} name two formats. Leave one out"
    if problem:
        raise UsageError(f"-o {out} {problem}.")


def _add_folder(
    folder: Path,
    recursive: bool,
    outs: set[str],
    pictures: list[InputPicture],
    problems: dict[str, str],
    notes: list[str],
) -> None:
    """Add the pictures of a folder, except those below an output folder."""
    walked = walk(folder, PICTURE_SUFFIXES, recursive=recursive)

    def is_result(path: Path) -> bool:
        parents = list(path.relative_to(folder).parents)[:-1]
        return any(
            os.path.realpath(folder / folder_part) in outs for folder_part in parents
        )

    names = [name for name in walked.names if not is_result(folder / name)]
    pictures += [InputPicture(folder / name, Path(name)) for name in names]
    problems |= walked.left_out
    if not names and not walked.left_out:
        deeper = "" if recursive else " (--recursive looks deeper)"
        line = f"{shown(folder)} has no pictures{deeper}. Give another folder."
        problems[shown(folder)] = line
    notes += walked.repeated.values()
    for name in sorted(walked.others):
        file_format = "" if is_result(folder / name) else _looks_like(folder / name)
        if file_format:
            notes.append(
                f"{shown(folder / name)} is left out, {file_format} by its content and "
                "not by its name. Rename it, or give its path with -i."
            )
    subfolders = [p for p in walked.deeper if os.path.realpath(p) not in outs]
    if names and subfolders:
        count = f"{len(subfolders)} folder{'s' * (len(subfolders) > 1)}"
        text = (
            f"{count} in {shown(folder)} left out, such as {shown(subfolders[0].name)}"
        )
        notes.append(f"{text}. --recursive reads subfolders.")


def _looks_like(path: Path) -> str:
    """The image format of a file by content, or ""; also "" if it is unreadable."""
    try:
        with open(path, "rb") as file:
            file_format = format_of_bytes(file.read(64))
            return (
                file_format if file_format not in (None, "BMP", "PPM") else ""
            )  # text files may start like these
    except OSError:
        return ""


def _names(
    pictures: list[InputPicture], out: Path, ext: str, suffix: str
) -> list[Path]:
    """Relative paths of results, all different on every file system.

    Pictures that would share a path get their suffix in the name: a.jpg and a.png of
    one folder become a_jpg.png and a_png.png; of a.JPG and a.jpg the second also gets a
    number. A picture whose result from an earlier run has the plain name keeps it.
    """
    plain = [_name(f, ext, suffix, "") for f in pictures]
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(plain):
        groups.setdefault(_key(name), []).append(i)
    tagged = [_name(f, ext, suffix, f.path.suffix.replace(".", "_")) for f in pictures]
    names = list(plain)
    taken = set(groups)
    for group in groups.values():
        if len(group) == 1:
            continue
        _refuse_twice([pictures[i] for i in group], out / plain[group[0]])
        owner = _owner(
            group, [f.path for f in pictures], out / plain[group[0]], out, tagged
        )
        for i in group:
            if i != owner:
                names[i] = _free(tagged[i], taken)
                taken.add(_key(names[i]))
    return names


def _refuse_twice(pictures: list[InputPicture], target: Path) -> None:
    """Refuse two input folders that have a picture of the same relative path."""
    seen: dict[Path, Path] = {}
    for picture in pictures:
        other = seen.setdefault(picture.relative, picture.path)
        if other is not picture.path:
            raise UsageError(
                f"{other} and {picture.path} would both be written to {target}. "
                "Restore them with different -o."
            )


def _owner(
    group: list[int], sources: list[Path], result: Path, out: Path, tagged: list[Path]
) -> int | None:
    """Which picture of a group had the plain name in an earlier run; None if unknown.

    The one without a result of the longer name while the others have one; or the only
    one that is older than the result.
    """
    try:
        result_time = result.stat().st_mtime
        candidates = [i for i in group if not (out / tagged[i]).exists()]
        if len(candidates) == len(group):
            candidates = [i for i in group if sources[i].stat().st_ctime <= result_time]
    except OSError:
        return None
    return candidates[0] if len(candidates) == 1 else None


def _free(name: Path, taken: set[str]) -> Path:
    """The name, with a number if it is taken."""
    candidate, number = name, 2
    while _key(candidate) in taken:
        candidate = name.with_name(f"{name.stem}_{number}{name.suffix}")
        number += 1
    return candidate


def _name(picture: InputPicture, ext: str, suffix: str, tag: str) -> Path:
    """The result's path relative to the output folder."""
    relative = picture.relative
    own = relative.suffix if relative.suffix.lower() in FORMATS else ".png"
    end = own if ext == "auto" else f".{ext}"
    return relative.with_name(f"{relative.stem}{tag}{suffix}{end}")


def _key(path: Path) -> str:
    """A key that is equal for names that are one file on some file systems."""
    return same_name(os.path.normpath(path))


def _refuse_replacing(todo: list[PicturePaths]) -> None:
    sources = {os.path.realpath(paths.source) for paths in todo}
    for paths in todo:
        if os.path.realpath(paths.target) in sources:
            raise UsageError(
                f"{paths.target} would replace an input. Give another -o, or a "
                "--suffix."
            )
