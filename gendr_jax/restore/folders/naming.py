"""From the paths of a command line to pairs of input and output files."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from gendr_jax.errors import UsageError
from gendr_jax.image_io import FORMATS, PICTURE_SUFFIXES


@dataclass(frozen=True)
class Found:
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
) -> tuple[list[Found], dict[str, str]]:
    """(pictures in a stable order, {path: why it is not taken}).

    A file is taken whatever its name; of a folder, files with the suffix of a picture,
    hidden ones left out. What an earlier run left below `outs` is not taken.
    """
    left_out = {out.resolve() for out in outs}
    found: list[Found] = []
    problems: dict[str, str] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            inside, closed = _pictures(path, recursive, left_out)
            found += inside
            problems |= closed
            if not inside and not closed:
                deeper = "" if recursive else " (--recursive looks deeper)"
                problems[text] = f"{path} has no pictures{deeper}. Name another folder."
        elif path.exists():
            found.append(Found(path, Path(path.name)))
        else:
            problems[text] = f"{path} does not exist. Check the path."
    shown = {f.path: str(f.path).encode(errors="replace").decode() for f in found}
    for path, text in shown.items():
        if text != str(path):
            problems[text] = f"{text}: the name is not UTF-8. Rename the file."
    found = [f for f in found if shown[f.path] == str(f.path)]
    return list({os.path.abspath(f.path): f for f in found}.values()), problems


def assign(
    found: list[Found], out: Path, *, ext: str, suffix: str, resume: bool = False
) -> list[Job]:
    """Name a result for each picture; no two share one, and none is an input.

    Args:
        out: a folder; or a file, by its suffix, for one picture.
        ext: "auto" keeps the format of the input where it is written, else PNG.
        suffix: added to the stem.
        resume: nothing that exists is replaced. Results of an earlier run that lie
            beside their inputs are left out, then.

    Raises:
        UsageError: two results would share a name, a result would replace an input,
            or `out` is a file and does not go with the rest.
    """
    if found and out.suffix.lower() in PICTURE_SUFFIXES and not out.is_dir():
        _require_one(found, out, ext, suffix)
        jobs = [Job(found[0].path, out, Path(out.name))]
    else:
        if out.exists() and not out.is_dir():
            raise UsageError(f"-o {out} is a file, there must be a folder. Name one.")
        plain = [_name(f, ext, suffix, "") for f in found]
        count = Counter(map(_key, plain))
        # a.jpg and a.png in one folder: a_jpg.png and a_png.png.
        names = [
            name
            if count[_key(name)] == 1
            else _name(f, ext, suffix, f.path.suffix.replace(".", "_"))
            for f, name in zip(found, plain, strict=True)
        ]
        jobs = [Job(f.path, out / n, n) for f, n in zip(found, names, strict=True)]
        if resume:
            results = {os.path.realpath(job.target) for job in jobs}
            jobs = [j for j in jobs if os.path.realpath(j.source) not in results]
    _refuse_clashes(jobs)
    return jobs


def _require_one(found: list[Found], out: Path, ext: str, suffix: str) -> None:
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


def _pictures(
    folder: Path, recursive: bool, outs: set[Path]
) -> tuple[list[Found], dict[str, str]]:
    """(pictures, {folder that may not be read: what to say of it})."""
    found, closed = [], {}

    def on_error(error: OSError) -> None:
        text = f"{error.filename} cannot be read ({error.strerror})"
        closed[str(error.filename)] = f"{text}. Check its permissions."

    for root, folders, names in os.walk(folder, onerror=on_error):
        here = Path(root)
        folders[:] = sorted(
            name
            for name in folders
            if recursive
            and not name.startswith(".")
            and (here / name).resolve() not in outs
        )
        for name in sorted(names):
            path = here / name
            if path.suffix.lower() in PICTURE_SUFFIXES and not name.startswith("."):
                found.append(Found(path, path.relative_to(folder)))
    return found, closed


def _name(found: Found, ext: str, suffix: str, tag: str) -> Path:
    """The result's place below the output folder."""
    relative = found.relative
    own = relative.suffix if relative.suffix.lower() in FORMATS else ".png"
    end = own if ext == "auto" else f".{ext}"
    return relative.with_name(f"{relative.stem}{tag}{suffix}{end}")


def _key(path: Path) -> str:
    """Equal for names that some file systems do not tell apart."""
    return os.path.normpath(path).casefold()


def _refuse_clashes(jobs: list[Job]) -> None:
    taken: dict[str, Path] = {}
    sources = {os.path.realpath(job.source) for job in jobs}
    for job in jobs:
        other = taken.setdefault(_key(job.target), job.source)
        if other is not job.source:
            raise UsageError(
                f"{other} and {job.source} would both be written to {job.target}. "
                "Restore them with different -o."
            )
        if os.path.realpath(job.target) in sources:
            raise UsageError(
                f"{job.target} would replace an input. Name another -o, or a --suffix."
            )
