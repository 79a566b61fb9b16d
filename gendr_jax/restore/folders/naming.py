"""From the paths of a command line to pairs of input and output files."""

import os
from dataclasses import dataclass
from pathlib import Path

from gendr_jax.errors import UsageError
from gendr_jax.image_io import FORMATS, PICTURE_SUFFIXES
from gendr_jax.image_io.loading import format_of_bytes
from gendr_jax.picture_walk import is_utf8, same_name, shown, walk


@dataclass(frozen=True)
class InputPicture:
    """A picture and its place below the path that the user named."""

    path: Path
    relative: Path


@dataclass(frozen=True)
class Job:
    """One picture to restore.

    Attributes:
        source: the file.
        target: that of its result.
        relative: the result's place below the output folder.
    """

    source: Path
    target: Path
    relative: Path


def find(
    inputs: list[str], *, recursive: bool, outs: list[Path]
) -> tuple[list[InputPicture], dict[str, str], list[str]]:
    """(pictures in a stable order, {path: why it is not taken}, what else to say).

    A file is taken whatever its name; of a folder, files with the suffix of a picture,
    hidden ones left out. What an earlier run left below `outs` is not taken.
    """
    left_out = {os.path.realpath(out) for out in outs}
    found: list[InputPicture] = []
    problems: dict[str, str] = {}
    notes: list[str] = []
    for text in inputs:
        try:
            path = Path(text)
            if path.is_dir():
                _add_folder(path, recursive, left_out, found, problems, notes)
            elif not path.exists():
                problems[text] = f"{shown(text)} does not exist. Check the path."
            elif not is_utf8(text):
                line = f"{shown(text)}: the name is not UTF-8. Rename the file."
                problems[shown(text)] = line
            else:
                found.append(InputPicture(path, Path(path.name)))
        except (OSError, ValueError) as error:  # such as a name that is too long
            reason = getattr(error, "strerror", None) or error
            line = f"{shown(text)} cannot be looked at ({reason}). Check the path."
            problems[shown(text)] = line
    once = {os.path.abspath(f.path): f for f in found}
    return list(once.values()), problems, notes


def assign(
    found: list[InputPicture], out: Path, *, ext: str, suffix: str, resume: bool = False
) -> list[Job]:
    """Name a result for each picture; no two share one, and none is an input.

    Args:
        out: a folder; or a file, by its suffix, for one picture.
        ext: "auto" keeps the format of the input where it is written, else PNG.
        suffix: added to the stem.
        resume: nothing that exists is replaced. Results of an earlier run that lie
            beside their inputs are left out, then.

    Raises:
        UsageError: two folders have a picture of one name, a result would replace an
            input, or `out` is a file and does not go with the rest.
    """
    if found and out.suffix.lower() in PICTURE_SUFFIXES and not out.is_dir():
        _require_one(found, out, ext, suffix)
        jobs = [Job(found[0].path, out, Path(out.name))]
    else:
        if out.exists() and not out.is_dir():
            raise UsageError(f"-o {out} is a file, there must be a folder. Name one.")
        names = _names(found, out, ext, suffix)
        jobs = [Job(f.path, out / n, n) for f, n in zip(found, names, strict=True)]
        if resume:
            results = {os.path.realpath(job.target) for job in jobs}
            jobs = [j for j in jobs if os.path.realpath(j.source) not in results]
    _refuse_replacing(jobs)
    return jobs


def _require_one(found: list[InputPicture], out: Path, ext: str, suffix: str) -> None:
    """Refuse the name of a file that cannot be that of the one result."""
    kind, problem = FORMATS.get(out.suffix.lower()), ""
    if kind is None:
        problem = f"is no format that is written. Use one of {' '.join(FORMATS)}"
    elif len(found) > 1:
        problem = f"is a file, and there are {len(found)} pictures. Name a folder"
    elif suffix:
        problem = f"names the result, and --suffix {suffix} too. Leave one out"
    elif ext != "auto" and FORMATS[f".{ext}"] != kind:
        problem = f"and --ext {ext} name two formats. Leave one out"
    if problem:
        raise UsageError(f"-o {out} {problem}.")


def _add_folder(
    folder: Path,
    recursive: bool,
    outs: set[str],
    found: list[InputPicture],
    problems: dict[str, str],
    notes: list[str],
) -> None:
    """What a folder has, without what lies below an output folder."""
    walked = walk(folder, PICTURE_SUFFIXES, recursive=recursive)

    def is_result(path: Path) -> bool:
        above = list(path.relative_to(folder).parents)[:-1]
        return any(os.path.realpath(folder / part) in outs for part in above)

    names = [name for name in walked.names if not is_result(folder / name)]
    found += [InputPicture(folder / name, Path(name)) for name in names]
    problems |= walked.left_out
    if not names and not walked.left_out:
        deeper = "" if recursive else " (--recursive looks deeper)"
        line = f"{shown(folder)} has no pictures{deeper}. Name another folder."
        problems[shown(folder)] = line
    notes += walked.repeated.values()
    for name in sorted(walked.others):
        kind = "" if is_result(folder / name) else _looks_like(folder / name)
        if kind:
            notes.append(
                f"{shown(folder / name)} is left out, {kind} by its content and not by "
                "its name. Rename it, or name it with -i."
            )
    closed = [p for p in walked.deeper if os.path.realpath(p) not in outs]
    if names and closed:
        count = f"{len(closed)} folder{'s' * (len(closed) > 1)}"
        text = f"{count} in {shown(folder)} left out, such as {shown(closed[0].name)}"
        notes.append(f"{text}. --recursive looks into folders.")


def _looks_like(path: Path) -> str:
    """The format of a picture with another name, or ""; what cannot be read is none."""
    try:
        with open(path, "rb") as file:
            kind = format_of_bytes(file.read(64))
            return kind if kind not in (None, "BMP", "PPM") else ""  # text may start so
    except OSError:
        return ""


def _names(found: list[InputPicture], out: Path, ext: str, suffix: str) -> list[Path]:
    """Places of results, all different on every file system.

    Pictures that would share one get their suffix into it: of a.jpg and a.png in one
    folder a_jpg.png and a_png.png; of a.JPG and a.jpg the second a number too. The
    one whose result has the plain name already keeps it.
    """
    plain = [_name(f, ext, suffix, "") for f in found]
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(plain):
        groups.setdefault(_key(name), []).append(i)
    tagged = [_name(f, ext, suffix, f.path.suffix.replace(".", "_")) for f in found]
    names = list(plain)
    taken = set(groups)
    for group in groups.values():
        if len(group) == 1:
            continue
        _refuse_twice([found[i] for i in group], out / plain[group[0]])
        owner = _owner(
            group, [f.path for f in found], out / plain[group[0]], out, tagged
        )
        for i in group:
            if i != owner:
                names[i] = _free(tagged[i], taken)
                taken.add(_key(names[i]))
    return names


def _refuse_twice(found: list[InputPicture], target: Path) -> None:
    """Folders that have the same names below cannot share one folder of results."""
    seen: dict[Path, Path] = {}
    for one in found:
        other = seen.setdefault(one.relative, one.path)
        if other is not one.path:
            raise UsageError(
                f"{other} and {one.path} would both be written to {target}. "
                "Restore them with different -o."
            )


def _owner(
    group: list[int], sources: list[Path], result: Path, out: Path, tagged: list[Path]
) -> int | None:
    """Which of these an earlier run has given the plain name; None if that is open.

    The one without a result under the longer name where the others have theirs; or the
    one that was there before the result.
    """
    try:
        made = result.stat().st_mtime
        without = [i for i in group if not (out / tagged[i]).exists()]
        if len(without) == len(group):
            without = [i for i in group if sources[i].stat().st_ctime <= made]
    except OSError:
        return None
    return without[0] if len(without) == 1 else None


def _free(name: Path, taken: set[str]) -> Path:
    """The name, with a number where it is taken."""
    found, number = name, 2
    while _key(found) in taken:
        found = name.with_name(f"{name.stem}_{number}{name.suffix}")
        number += 1
    return found


def _name(found: InputPicture, ext: str, suffix: str, tag: str) -> Path:
    """The result's place below the output folder."""
    relative = found.relative
    own = relative.suffix if relative.suffix.lower() in FORMATS else ".png"
    end = own if ext == "auto" else f".{ext}"
    return relative.with_name(f"{relative.stem}{tag}{suffix}{end}")


def _key(path: Path) -> str:
    """Equal for names that some file systems do not tell apart."""
    return same_name(os.path.normpath(path))


def _refuse_replacing(jobs: list[Job]) -> None:
    sources = {os.path.realpath(job.source) for job in jobs}
    for job in jobs:
        if os.path.realpath(job.target) in sources:
            raise UsageError(
                f"{job.target} would replace an input. Name another -o, or a --suffix."
            )
