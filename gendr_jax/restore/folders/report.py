"""What `gendr restore` tells while it works: a bar or lines, and a file of JSON."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from gendr_jax.errors import UsageError

# Control characters, line ends of Unicode, and what turns the direction of writing.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
KEYS = tuple(
    "input output width height seconds tiles compiled status error "
    "stages residual residual_peak warning flops peak_bytes expected_seconds".split()
)


def printable(text: str) -> str:
    """Line breaks and what else a name may tell a terminal, written out."""
    return UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def say_error(text: str) -> None:
    """One line on stderr, in the form that all commands use."""
    print(f"gendr: error: {printable(text)}", file=sys.stderr)


@contextmanager
def progress(total: int) -> Iterator[tuple[Callable[[str], None], ...]]:
    """(advance(line), say(line)): a bar on a terminal, plain lines otherwise.

    `advance` counts a picture and prints its line; `say` prints on stderr.
    """
    if not sys.stderr.isatty():
        yield (
            lambda line: print(printable(line), flush=True) if line else None,
            lambda text: print(printable(text), file=sys.stderr, flush=True),
        )
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="image") as bar:
        yield (
            lambda line: bar.update() and None,
            lambda text: bar.write(printable(text), file=sys.stderr),
        )


@contextmanager
def lines(path: str | None) -> Iterator[Callable[[dict], None]]:
    """A function that writes one line a picture; absent values are null.

    Raises:
        UsageError: the file cannot be written.
    """
    if path is None:
        yield lambda entry: None
        return
    try:
        file: TextIO = open(path, "w", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--report {path} cannot be written ({error.strerror}). Name another file."
        ) from error
    with file:
        yield lambda entry: print(
            json.dumps({key: entry.get(key) for key in KEYS}), file=file, flush=True
        )
