"""argparse whose mistakes are our errors: one line, exit status 2."""

import argparse
from typing import NoReturn

from gendr_jax.errors import UsageError


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
