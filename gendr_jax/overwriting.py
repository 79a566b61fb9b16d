"""Refuse outputs that would overwrite inputs, compared by real path.

Symbolic links are followed on both sides, so that an output folder whose HR is a link
to the photographs is refused.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from gendr_jax.errors import UsageError


def refuse(outputs: Iterable[Path], inputs: Iterable[Path], remedy: str) -> None:
    """Stop before an output replaces an input, whatever links lead to it.

    Args:
        inputs: files, or folders, whose contents are not compared.
        remedy: ends the error, one sentence.

    Raises:
        UsageError: with both names.
    """
    inputs = list(inputs)
    by_path = {os.path.realpath(path): path for path in inputs}
    by_file = {key: path for path in inputs if (key := _identity(path))}
    for output in outputs:
        match = by_path.get(os.path.realpath(output))
        match = match or by_file.get(_identity(output))  # names that differ in case
        if match is not None:
            detail = "" if str(match) == str(output) else f", the same file as {match},"
            raise UsageError(
                f"the output {output}{detail} is an input of this command. {remedy}"
            )


def refuse_nested(output: Path, folder: Path, remedy: str) -> None:
    """Stop where an output folder is an input folder, is inside it, or contains it.

    Raises:
        UsageError: with both names.
    """
    output_path, input_path = output.resolve(), folder.resolve()
    if output_path.is_relative_to(input_path):
        relation = "is" if output_path == input_path else "is inside"
    elif input_path.is_relative_to(output_path):
        relation = "contains"
    else:
        return
    raise UsageError(f"the output {output} {relation} the input {folder}. {remedy}")


def refuse_inside(output: Path, folder: Path, remedy: str) -> None:
    """Stop where an output folder is an input folder or inside it.

    Raises:
        UsageError: with both names.
    """
    if output.resolve().is_relative_to(folder.resolve()):
        refuse_nested(output, folder, remedy)


def refuse_holding(output: Path, source: Path, remedy: str) -> None:
    """Stop where an output folder is the input or contains it: it would be replaced.

    Raises:
        UsageError: with both names.
    """
    if source.resolve().is_relative_to(output.resolve()):
        refuse_nested(output, source, remedy)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
