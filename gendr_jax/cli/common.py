"""What commands share: argument parsing, logs of libraries, caches, SIGTERM."""

import argparse
import contextlib
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from gendr_jax.errors import UsageError

# As in weights/resolve.py, whose imports would make --help slow.
DEFAULT_WEIGHTS = "gendr-tiny"
# Names that --size takes, (height, width).
SIZES = {"4k": (2160, 3840)}


def silence_libraries() -> None:
    """Hide the logs and warnings of libraries, except with --debug.

    Orbax logs a traceback for every damaged file in addition to the error it raises.
    """
    if os.environ.get("GENDR_DEBUG"):
        return
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.FATAL)
    # pyvips also raises an error for each damaged image that it logs.
    logging.getLogger("pyvips").setLevel(logging.CRITICAL)
    for package in ("orbax", "jax", "flax"):
        warnings.filterwarnings("ignore", module=rf"{package}\b")
    _silence_closed_loops()


def _silence_closed_loops() -> None:
    """Hide what tensorstore's threads print when one of many reads has failed.

    They report to an event loop that Orbax has already closed, or leave unawaited tasks
    in it; the failure itself is raised as an exception.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    shown = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            shown(unraisable)

    sys.unraisablehook = hook


def cache_folder(name: str) -> Path | None:
    """A folder in the cache that commands share; None: the cache is off."""
    from gendr_jax import program_cache

    return program_cache.folder(name)


def cache_programs() -> Path | None:
    """Cache compiled programs on disk, so that a second run need not compile."""
    from gendr_jax import program_cache

    return program_cache.enable()


@contextlib.contextmanager
def tidy_when_terminated() -> Iterator[None]:
    """On SIGTERM clean up as on Ctrl-C: temporary files are removed."""
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
    """Raises UsageError; flags cannot be abbreviated. `prog`: as "gendr restore"."""

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


def size_of(text: str) -> tuple[int, int]:
    """(height, width) of "512", "768x512" (width first) or "4k".

    Raises:
        UsageError: anything else.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if text.lower() in SIZES:
        return SIZES[text.lower()]
    if not match:
        raise UsageError(f"--size {text!r} is not a size. Give 512, 768x512 or 4k.")
    return int(match[2] or match[1]), int(match[1])
