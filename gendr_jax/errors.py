"""Exceptions for errors that a user can cause, and lists in their messages.

Messages are one line, "WHAT, with both values. HOW TO FIX." The command line prints
them without a traceback (`gendr_jax/cli/main.py`); asserts are for our own invariants.
"""

from collections.abc import Sequence


class GendrError(Exception):
    """Base of every error that a user can cause and repair."""


class UsageError(GendrError):
    """A command, configuration or argument that cannot be run (exit status 2)."""


class InputError(GendrError):
    """A file or array that cannot be used (exit status 1 when others were done)."""


TRY_AGAIN = 75  # exit status EX_TEMPFAIL of sysexits.h: start the same command again


class TryAgainError(GendrError):
    """A valid command that cannot run now, but may later (exit status 75)."""


LINE = 240  # characters of a list, so that the message around it fits 400 bytes
ENTRY = 90  # characters of one entry


def listed(entries: Sequence[str], line: int = LINE) -> str:
    """ "a; b; and 7 more": as many entries as fit, at least one.

    Names come from files: control characters, which can steer a terminal, are escaped.
    """
    shown: list[str] = []
    for entry in entries:
        text = entry if entry.isprintable() else repr(entry)[1:-1]
        text = text if len(text) <= ENTRY else text[: ENTRY - 3] + "..."
        if shown and len("; ".join([*shown, text])) > line:
            break
        shown.append(text)
    more = len(entries) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")
