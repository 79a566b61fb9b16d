"""What `gendr restore` tells while it works: a bar or lines, and a file of JSON."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gendr_jax.errors import UsageError

# Control characters, line ends of Unicode, and what turns the direction of writing.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
KEYS = tuple(
    "input output width height seconds tiles compiled status error "
    "stages residual residual_peak warning flops peak_bytes expected_seconds "
    "metadata_lost".split()
)
BETWEEN_LINES = 10.0  # seconds


def printable(text: str) -> str:
    """Line breaks and what else a name may tell a terminal, written out."""
    return UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def say_error(text: str) -> None:
    """One line on stderr, in the form that all commands use."""
    print(f"gendr: error: {printable(text)}", file=sys.stderr)


@dataclass(frozen=True)
class Reporter:
    """How a command speaks while it works.

    Attributes:
        advance: counts a picture and prints its line.
        say: prints a line on stderr.
        tiles: (picture, done, all) while a picture is done by tiles.
    """

    advance: Callable[[str], None]
    say: Callable[[str], None]
    tiles: Callable[[str, int, int], None]


@contextmanager
def progress(total: int) -> Iterator[Reporter]:
    """A bar on a terminal, plain lines otherwise."""
    if not sys.stderr.isatty():
        yield Reporter(_print_line, _print_on_stderr, _tile_lines())
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="image") as bar:

        def advance(_: str) -> None:
            bar.set_postfix_str("", refresh=False)
            bar.update()

        def say(text: str) -> None:
            bar.write(printable(text), file=sys.stderr)

        def tiles(_: str, done: int, count: int) -> None:
            bar.set_postfix_str(f"tile {done}/{count}")

        yield Reporter(advance, say, tiles)


def _print_line(line: str) -> None:
    if line:
        print(printable(line), flush=True)


def _print_on_stderr(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def _tile_lines() -> Callable[[str, int, int], None]:
    """A line now and then: of a picture that is done soon, none."""
    last: dict[str, float] = {}

    def tiles(name: str, done: int, count: int) -> None:
        now = time.monotonic()
        begin = last.setdefault(name, now)
        if done < count and now - begin >= BETWEEN_LINES:
            last[name] = now
            _print_on_stderr(f"{name}: tile {done} of {count}")

    return tiles


class Report:
    """One line of JSON a picture; absent values are null.

    A line is written completely or not at all. What a full disk does not take is kept,
    and written when there is room again.
    """

    def __init__(self, path: str | None):
        """Empty the file.

        Raises:
            UsageError: it cannot be written.
        """
        self._path, self._waiting = path, b""
        if path is None:
            return
        try:
            self._file = open(path, "wb", buffering=0)
        except OSError as error:
            raise UsageError(
                f"--report {path} cannot be written ({error.strerror}). Name another "
                "file."
            ) from error

    def __call__(self, entry: dict) -> None:
        """Write one line."""
        if self._path is None:
            return
        line = json.dumps({key: entry.get(key) for key in KEYS}) + "\n"
        self._waiting += line.encode()
        self._flush()

    def close(self) -> str:
        """Write what is left; what to say of what still does not fit, or ""."""
        if self._path is None:
            return ""
        reason = self._flush()
        self._file.close()
        count = self._waiting.count(b"\n")
        if not count:
            return ""
        lines = f"{count} line{'s' * (count > 1)}"
        return f"--report {self._path} lacks {lines} ({reason}). Make room."

    def _flush(self) -> str:
        """Why not all could be written, or ""."""
        end = self._file.tell()
        try:
            while self._waiting:
                line = self._waiting[: self._waiting.index(b"\n") + 1]
                left = memoryview(line)
                while left:
                    left = left[self._file.write(left) or 0 :]
                self._waiting, end = self._waiting[len(line) :], end + len(line)
        except OSError as error:
            self._file.truncate(end)
            self._file.seek(end)
            return error.strerror or str(error)
        return ""


def figures(path: str | None) -> dict[str, dict]:
    """{output: what an earlier report says of it}, where it was done."""
    found: dict[str, dict] = {}
    if path is None:
        return found
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # torn by an earlier version, or not ours
            continue
        if isinstance(entry, dict) and entry.get("status") in ("done", "skipped"):
            if entry.get("width"):
                found[str(entry.get("output"))] = entry
    return found
