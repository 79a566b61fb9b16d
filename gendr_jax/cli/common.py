"""What libraries log and cache while a command runs; nothing of our own output."""

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from gendr_jax.errors import UsageError

# That of weights/resolve.py, which imports what --help cannot wait for.
DEFAULT_WEIGHTS = "gendr-tiny"


def silence_libraries() -> None:
    """Keep the logs and warnings of libraries off the terminal, but with --debug.

    Orbax logs a traceback for every damaged file, beside the error that it raises.
    """
    if os.environ.get("GENDR_DEBUG"):
        return
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.FATAL)
    # What it logs of a damaged picture comes to us as an error as well.
    logging.getLogger("pyvips").setLevel(logging.CRITICAL)
    for package in ("orbax", "jax", "flax"):
        warnings.filterwarnings("ignore", module=rf"{package}\b")
    _silence_closed_loops()


def _silence_closed_loops() -> None:
    """Drop what tensorstore's threads print when one read of many has failed.

    They report to an event loop that Orbax has closed by then, or leave it tasks that
    nobody asks; the failure itself comes to us as an exception.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    shown = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            shown(unraisable)

    sys.unraisablehook = hook


def cache_folder(name: str) -> Path | None:
    """The folder of that name among what is kept from one command to the next."""
    from gendr_jax import program_cache

    return program_cache.folder(name)


def cache_programs() -> Path | None:
    """Keep compiled programs on disk, so that a second run need not compile."""
    from gendr_jax import program_cache

    return program_cache.enable()


@contextlib.contextmanager
def tidy_when_terminated() -> Iterator[None]:
    """End by SIGTERM as by the keyboard: temporary files go, what is written stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: Any) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Parser(argparse.ArgumentParser):
    """`prog` is the whole command, such as "gendr restore"; names are not guessed."""

    def __init__(self, prog: str, description: str):
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise UsageError(f"{message}. See {self.prog} --help.")
