"""Output folders and files of weights, written atomically; also to object stores."""

import atexit
import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from gendr_jax import files
from gendr_jax.errors import InputError, UsageError
from gendr_jax.weights.remote_paths import as_epath, is_remote

# Files that mark a complete folder and are written last; --force replaces only these.
MARKS = ("gendr.json", "gendr_export.json", "adapter_config.json")
FULL = ("no space left", "disk quota exceeded", "resource_exhausted")


def destination_of(text: str | Path) -> Path | epath.Path:
    """The path that a user typed, `~` expanded; or a URL of an object store.

    Raises:
        UsageError: an unknown scheme, or its library is not installed.
    """
    return as_epath(text) if is_remote(text) else Path(text).expanduser()


def refuse_existing(destination: Path | epath.Path, force: bool) -> None:
    """Refuse a destination that exists, unless ``force``; never a file."""
    if destination.is_file():
        raise UsageError(f"{destination} is a file. Name a folder.")
    if not destination.is_dir() or not any(map(_is_content, destination.iterdir())):
        return
    if not force:
        raise UsageError(f"{destination} exists. Name another path, or add --force.")
    if not any((destination / mark).is_file() for mark in MARKS):
        raise UsageError(
            f"{destination} holds no weights that --force could replace "
            f"({', '.join(MARKS)}). Name another path."
        )


def refuse_existing_file(destination: Path | epath.Path, force: bool) -> None:
    """As ``refuse_existing``, of one safetensors file; never a folder."""
    if Path(destination.name).suffix != ".safetensors":
        raise UsageError(
            f"{destination} would be one file. Give a name that ends in .safetensors."
        )
    if destination.is_dir():
        raise UsageError(f"{destination} is a folder. Name a file.")
    if destination.exists() and not force:
        raise UsageError(f"{destination} exists. Name another path, or add --force.")


def _is_content(path: Path | epath.Path) -> bool:
    """Not lost+found, which every ext4 disk has, and no temporary name."""
    return path.name != "lost+found" and not files.is_temporary(Path(path.name))


@contextlib.contextmanager
def replacing_folder(destination: Path | epath.Path) -> Iterator[Path]:
    """A temporary folder on this machine that becomes the destination.

    An existing folder is renamed, then removed; the caller has checked that it may be
    (`refuse_existing`). Of a symbolic link the target is replaced; a mount point is
    filled.

    Raises:
        InputError: the disk is full; no temporary files remain.
    """
    if is_remote(destination):
        with (
            _uploaded(epath.Path(destination)) as temporary,
            _removed_on_error(temporary),
        ):
            yield temporary
        return
    path = Path(destination)
    target = path.resolve() if path.is_symlink() else path.absolute()
    replacing = (
        _filled_mount_point(target)
        if os.path.ismount(target)
        else files.replacing_folder(target)
    )
    with _full_disk_named(target), replacing as temporary, _removed_on_error(temporary):
        yield temporary


@contextlib.contextmanager
def replacing_file(destination: Path | epath.Path) -> Iterator[Path]:
    """A temporary file on this machine that becomes the destination.

    Raises:
        InputError: the disk is full; no temporary files remain.
    """
    if is_remote(destination):
        with tempfile.TemporaryDirectory(prefix="gendr-") as scratch:
            temporary = Path(scratch) / destination.name
            yield temporary
            epath.Path(destination).write_bytes(temporary.read_bytes())
        return
    target = Path(destination).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with _full_disk_named(target), files.replacing(target) as temporary:
        yield temporary


@contextlib.contextmanager
def _full_disk_named(target: Path) -> Iterator[None]:
    """Turns the error of a full disk into one line that names it."""
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        free = shutil.disk_usage(_existing(target)).free
        raise InputError(
            f"the disk of {target} is full, {free / 1e6:.0f} MB are free. Free some "
            "space, or name another path."
        ) from error


@contextlib.contextmanager
def _removed_on_error(temporary: Path) -> Iterator[None]:
    """Removes the folder of a failed write, whose threads may write on for a while."""
    try:
        yield
    except BaseException:
        # Again at exit, after the interpreter has joined its threads.
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        absent_checks, deadline = 0, time.monotonic() + 5.0
        while absent_checks < 3 and time.monotonic() < deadline:
            absent_checks = 0 if temporary.exists() else absent_checks + 1
            shutil.rmtree(temporary, ignore_errors=True)
            time.sleep(0.05)
        raise


@contextlib.contextmanager
def _filled_mount_point(target: Path) -> Iterator[Path]:
    """Fills a mount point, which cannot be renamed, from a temporary folder inside."""
    temporary = files.temporary_name(target / "folder")
    temporary.mkdir()
    try:
        yield temporary
        for existing in [p for p in target.iterdir() if _is_content(p)]:
            shutil.rmtree(
                existing
            ) if existing.is_dir() and not existing.is_symlink() else existing.unlink()
        for entry in sorted(temporary.iterdir(), key=lambda p: p.name in MARKS):
            os.replace(entry, target / entry.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _uploaded(target: epath.Path) -> Iterator[Path]:
    """A local folder, uploaded at the end; the marks last, as stores cannot rename."""
    with tempfile.TemporaryDirectory(prefix="gendr-") as scratch:
        temporary = Path(scratch) / "folder"
        temporary.mkdir()
        yield temporary
        if target.exists():
            target.rmtree()
        files_to_copy = [p for p in temporary.rglob("*") if p.is_file()]
        for file in sorted(files_to_copy, key=lambda p: p.name in MARKS):
            copy = target / file.relative_to(temporary).as_posix()
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())


def _is_full(error: BaseException | None) -> bool:
    """Whether a full disk caused an error; libraries wrap it in their own."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(error).lower() for words in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())
