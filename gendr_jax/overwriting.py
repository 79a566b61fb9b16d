"""What a command writes is never what it reads: outputs against inputs, by real path.

Links are followed on both sides, so that an output folder whose HR leads to the
photographs is noticed.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from gendr_jax.errors import UsageError


def refuse(outputs: Iterable[Path], inputs: Iterable[Path], remedy: str) -> None:
    """Stop before an output replaces an input, under whatever name.

    Args:
        inputs: files; of a folder, that folder itself is compared alone.
        remedy: what to do, one sentence.

    Raises:
        UsageError: with both names.
    """
    inputs = list(inputs)
    by_path = {os.path.realpath(path): path for path in inputs}
    by_file = {key: path for path in inputs if (key := _identity(path))}
    for output in outputs:
        read = by_path.get(os.path.realpath(output))
        read = read or by_file.get(_identity(output))  # names that differ in case
        if read is not None:
            same = "" if str(read) == str(output) else f", the same file as {read},"
            raise UsageError(
                f"the output {output}{same} is an input of this command. {remedy}"
            )


def refuse_nested(output: Path, folder: Path, remedy: str) -> None:
    """Stop where an output folder is an input folder, lies in it, or holds it.

    Raises:
        UsageError: with both names.
    """
    out, source = output.resolve(), folder.resolve()
    if out.is_relative_to(source):
        what = "is" if out == source else "lies inside"
    elif source.is_relative_to(out):
        what = "holds"
    else:
        return
    raise UsageError(f"the output {output} {what} the input {folder}. {remedy}")


def refuse_inside(output: Path, folder: Path, remedy: str) -> None:
    """Stop where an output folder is an input folder or lies in it.

    Raises:
        UsageError: with both names.
    """
    if output.resolve().is_relative_to(folder.resolve()):
        refuse_nested(output, folder, remedy)


def refuse_holding(output: Path, source: Path, remedy: str) -> None:
    """Stop where an output folder is the input, or holds it: it would be replaced.

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
