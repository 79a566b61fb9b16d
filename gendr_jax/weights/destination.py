"""Where weights are written: taken places are refused, and a folder appears whole."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from gendr_jax.errors import UsageError

# What --force may replace holds one of these files.
MARKS = ("gendr.json", "gendr_export.json", "adapter_config.json")


def refuse_taken(destination: Path, force: bool) -> None:
    """Refuse a destination that exists, unless ``force``; never a file."""
    if destination.is_file():
        raise UsageError(f"{destination} is a file. Name a folder.")
    if not destination.is_dir() or not any(destination.iterdir()):
        return
    if not force:
        raise UsageError(f"{destination} exists. Name another place, or add --force.")
    if not any((destination / mark).is_file() for mark in MARKS):
        raise UsageError(
            f"{destination} holds no weights that --force could replace "
            f"({', '.join(MARKS)}). Name another place."
        )


@contextlib.contextmanager
def replacing_folder(destination: Path) -> Iterator[Path]:
    """A temporary folder that takes the destination's place when all went well.

    What was there is set aside, then removed; whether it may be is the caller's to say.
    """
    destination = destination.absolute()
    destination.parent.mkdir(parents=True, exist_ok=True)
    stem = f".{destination.name}.{os.getpid()}"
    temporary, old = (destination.with_name(f"{stem}.{end}") for end in ("tmp", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if destination.exists():
            os.replace(destination, old)
        try:
            os.replace(temporary, destination)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.replace(old, destination)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
