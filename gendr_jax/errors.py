"""The errors that a user can cause, and nothing else.

Messages are one line, "WHAT, with both values. HOW TO FIX." The command line prints
them without a traceback (`gendr_jax/cli/main.py`); mistakes of our own stay asserts.
"""


class GendrError(Exception):
    """Base of every error that a user can cause and repair."""


class UsageError(GendrError):
    """A command, configuration or argument that cannot be run (exit status 2)."""


class InputError(GendrError):
    """A file or array that cannot be used (exit status 1 when others went on)."""


TRY_AGAIN = 75  # exit status EX_TEMPFAIL of sysexits.h: start the same command again


class TryAgainError(GendrError):
    """Nothing is wrong with the command, it cannot run just now (exit status 75)."""
