"""What a command has made in a folder of the user's, so that it replaces nothing else.

The folder holds RECORD with the SHA-256 of each output, written before the output takes
its name. What is there under that name and is not as recorded belongs to somebody else,
or was changed since, and stays.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from gendr_jax import files
from gendr_jax.errors import UsageError

RECORD = ".gendr-made.json"


class OwnOutputs:
    """Outputs below one folder, by name.

    Args:
        folder: made where it is absent, with the first output.
        remedy: what to do where something is in the way, one sentence.
    """

    def __init__(self, folder: Path, remedy: str):
        self._folder, self._remedy = folder, remedy

    def refuse_foreign(self, names: Iterable[str]) -> None:
        """Stop before anything is done where an output would replace foreign work.

        Raises:
            UsageError: with the first of them.
        """
        known = self._read()
        for name in names:
            path = self._folder / name
            if not path.exists() and not path.is_symlink():
                continue
            if digest(path) not in known.get(name, ()):
                raise UsageError(
                    f"{path} was not made by this command, or was changed since. "
                    f"{self._remedy}"
                )

    @contextlib.contextmanager
    def replacing(self, name: str, *, folder: bool = False) -> Iterator[Path]:
        """A temporary file, or folder, that becomes the output when it is complete.

        Raises:
            UsageError: what has that name is not ours.
        """
        self.refuse_foreign([name])
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / name
        before = digest(path) if path.exists() else None
        how = files.replacing_folder if folder else files.replacing
        with how(path) as temporary:
            yield temporary
            made = digest(temporary)
            # Either may be there if this process ends now.
            self._write(name, [made] if before is None else [before, made])
        self._write(name, [made])

    def _read(self) -> dict[str, list[str]]:
        try:
            found = json.loads((self._folder / RECORD).read_text(encoding="utf-8"))
            return {str(name): list(sums) for name, sums in found.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError):
            return {}  # not ours: nothing is known, so nothing is replaced

    def _write(self, name: str, sums: list[str]) -> None:
        files.write_json(self._folder / RECORD, self._read() | {name: sums})


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and bytes of all files in a folder."""
    if not path.is_dir():
        return _of_file(path) if path.is_file() else ""
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if not p.is_dir()):
        name = file.relative_to(path).as_posix().encode(errors="surrogateescape")
        total.update(name + b"\0" + _of_file(file).encode() + b"\n")
    return total.hexdigest()


def _of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
