"""Progress of `gendr restore` (a bar or lines), and the JSON lines of --report."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gendr_jax.errors import UsageError

# Control characters, Unicode line ends, and marks of writing direction.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
KEYS = tuple(
    "input output width height seconds tiles compiled status error "
    "stages residual residual_peak warning flops peak_bytes expected_seconds "
    "metadata_lost".split()
)
BETWEEN_LINES = 10.0  # seconds


def printable(text: str) -> str:
    """Text with line breaks and control characters escaped, safe for a terminal."""
    return UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def say_error(text: str) -> None:
    """One line on stderr, in the form that all commands use."""
    print(f"gendr: error: {printable(text)}", file=sys.stderr)


@dataclass(frozen=True)
class Reporter:
    """Output functions of a command while it works.

    Attributes:
        advance: counts a picture and prints its line.
        say: prints a line on stderr.
        tiles: called with (picture, done, all) after every tile.
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
    """Prints a line every BETWEEN_LINES seconds; none for a picture that is faster."""
    last_times: dict[str, float] = {}

    def tiles(name: str, done: int, count: int) -> None:
        now = time.monotonic()
        begin = last_times.setdefault(name, now)
        if done < count and now - begin >= BETWEEN_LINES:
            last_times[name] = now
            _print_on_stderr(f"{name}: tile {done} of {count}")

    return tiles


class Report:
    """One line of JSON a picture; missing values are null.

    A line is written completely or not at all. Lines that a full disk refuses are kept,
    and written when there is space again.
    """

    def __init__(self, path: str | None):
        """Empty the file.

        Raises:
            UsageError: it cannot be written.
        """
        self._path, self._unwritten = path, b""
        if path is None:
            return
        try:
            self._file = open(path, "wb", buffering=0)
        except OSError as error:
            raise UsageError(
                f"--report {path} cannot be written ({error.strerror}). Give another "
                "file."
            ) from error

    def __call__(self, entry: dict) -> None:
        """Write one line."""
        if self._path is None:
            return
        line = json.dumps({key: entry.get(key) for key in KEYS}) + "\n"
        self._unwritten += line.encode()
        self._flush()

    def close(self) -> str:
        """Write the remaining lines; returns a message if that fails, or ""."""
        if self._path is None:
            return ""
        reason = self._flush()
        self._file.close()
        count = self._unwritten.count(b"\n")
        if not count:
            return ""
        lines = f"{count} line{'s' * (count > 1)}"
        return f"--report {self._path} lacks {lines} ({reason}). Free disk space."

    def _flush(self) -> str:
        """Write all lines; returns why that failed, or ""."""
        end = self._file.tell()
        try:
            while self._unwritten:
                line = self._unwritten[: self._unwritten.index(b"\n") + 1]
                remaining = memoryview(line)
                while remaining:
                    remaining = remaining[self._file.write(remaining) or 0 :]
                self._unwritten, end = self._unwritten[len(line) :], end + len(line)
        except OSError as error:
            self._file.truncate(end)
            self._file.seek(end)
            return error.strerror or str(error)
        return ""


def figures(path: str | None) -> dict[str, dict]:
    """{output: entry} of the restored pictures in an earlier report."""
    entries: dict[str, dict] = {}
    if path is None:
        return entries
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return entries
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # an incomplete line, or not a report
            continue
        if isinstance(entry, dict) and entry.get("status") in ("done", "skipped"):
            if entry.get("width"):
                entries[str(entry.get("output"))] = entry
    return entries
