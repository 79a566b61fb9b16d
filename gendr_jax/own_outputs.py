"""Record of the files that a command wrote, so that it replaces only its own.

The output folder holds RECORD with the SHA-256 of each output, written before the
output is renamed to its final name. A file of that name with another digest was made by
somebody else, or was changed since, and is not replaced.
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
        folder: created with the first output where it is missing.
        remedy: ends the error about a file that is not ours, one sentence.
    """

    def __init__(self, folder: Path, remedy: str):
        self._folder, self._remedy = folder, remedy

    def refuse_foreign(self, names: Iterable[str]) -> None:
        """Stop before any work where an output would replace a file that is not ours.

        Raises:
            UsageError: with the first such file.
        """
        recorded = self._read()
        for name in names:
            path = self._folder / name
            if not path.exists() and not path.is_symlink():
                continue
            if digest(path) not in recorded.get(name, ()):
                raise UsageError(
                    f"{path} was not made by this command, or was changed since. "
                    f"{self._remedy}"
                )

    @contextlib.contextmanager
    def replacing(self, name: str, *, folder: bool = False) -> Iterator[Path]:
        """A temporary file, or folder, that becomes the output when it is complete.

        Raises:
            UsageError: a file of that name is not ours.
        """
        self.refuse_foreign([name])
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / name
        old_digest = digest(path) if path.exists() else None
        replace = files.replacing_folder if folder else files.replacing
        with replace(path) as temporary:
            yield temporary
            new_digest = digest(temporary)
            # If this process is killed now, either version may be at `path`.
            self._write(
                name, [new_digest] if old_digest is None else [old_digest, new_digest]
            )
        self._write(name, [new_digest])

    def _read(self) -> dict[str, list[str]]:
        try:
            record = json.loads((self._folder / RECORD).read_text(encoding="utf-8"))
            return {str(name): list(digests) for name, digests in record.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError):
            return {}  # not a record of ours: nothing may be replaced

    def _write(self, name: str, digests: list[str]) -> None:
        files.write_json(self._folder / RECORD, self._read() | {name: digests})


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and bytes of all files in a folder."""
    if not path.is_dir():
        return _file_digest(path) if path.is_file() else ""
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if not p.is_dir()):
        name = file.relative_to(path).as_posix().encode(errors="surrogateescape")
        total.update(name + b"\0" + _file_digest(file).encode() + b"\n")
    return total.hexdigest()


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
