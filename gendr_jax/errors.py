"""The errors that a user can cause, and lists in their messages.

Messages are one line, "WHAT, with both values. HOW TO FIX." The command line prints
them without a traceback (`gendr_jax/cli/main.py`); mistakes of our own stay asserts.
"""

from collections.abc import Sequence


class GendrError(Exception):
    """Base of every error that a user can cause and repair."""


class UsageError(GendrError):
    """A command, configuration or argument that cannot be run (exit status 2)."""


class InputError(GendrError):
    """A file or array that cannot be used (exit status 1 when others went on)."""


TRY_AGAIN = 75  # exit status EX_TEMPFAIL of sysexits.h: start the same command again


class TryAgainError(GendrError):
    """Nothing is wrong with the command, it cannot run just now (exit status 75)."""


LINE = 240  # characters of a list; what stands around it fits one line of 400 bytes
ENTRY = 90


def listed(entries: Sequence[str], line: int = LINE) -> str:
    """ "a; b; and 7 more": as many entries as fit, at least one.

    Names out of files go into messages: nothing that steers a terminal is kept.
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
