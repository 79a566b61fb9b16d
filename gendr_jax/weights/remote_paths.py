"""Local paths and URLs of object stores (gs://, s3://) as etils `epath.Path`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from gendr_jax.errors import UsageError

_EXTRA = {"gs": "gcsfs", "s3": "s3fs"}


def is_remote(path: Any) -> bool:
    """Whether `path` names an object store."""
    return "://" in str(path)


def as_epath(path: Any) -> epath.Path:
    """An absolute path, or a URL of an object store whose client library is installed.

    Raises:
        UsageError: an unknown scheme, or its library is not installed.
    """
    if isinstance(path, epath.Path) and is_remote(path):
        return path
    text = str(path)
    if not is_remote(text):
        return epath.Path(Path(text).expanduser().absolute())
    scheme = text.partition("://")[0]
    if scheme not in _EXTRA:
        raise UsageError(
            f"{text} has the unknown scheme {scheme!r}. Give a folder, or a URL that "
            f"begins with {' or '.join(f'{name}://' for name in _EXTRA)}."
        )
    url = epath.Path(text)
    try:
        url.exists()
    except ImportError as error:
        raise UsageError(
            f"{text} needs {_EXTRA[scheme]} ({error}). pip install "
            f"{_EXTRA[scheme]}, or give a folder."
        ) from error
    return url


def move_folder(source: epath.Path, target: epath.Path) -> None:
    """Rename a folder; in an object store by copying and deleting its files.

    There the file that marks a complete checkpoint is copied last, so that an
    interrupted copy is never taken for a checkpoint.
    """
    if not is_remote(source):
        source.rename(target)
        return
    for file in sorted(files_of(source), key=lambda p: p.name == "commit_success.txt"):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        file.copy(copy, overwrite=True)
    source.rmtree()


def files_of(folder: epath.Path) -> Iterator[epath.Path]:
    """All files under `folder`; `rglob` does not know object stores."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from files_of(path)
        else:
            yield path
