"""Resolve a path, URL, packaged name or Hub id of weights to a local path.

In this order: a local file or folder (`~` expanded), a URL of an object store (gs://,
s3://; downloaded), a packaged name such as gendr-tiny, a Hub id where huggingface_hub
is installed. No Hub id is built in: public weights move and vanish.
"""

import atexit
import re
import shutil
import tempfile
from pathlib import Path

from etils import epath

from gendr_jax.errors import InputError, UsageError
from gendr_jax.weights.remote_paths import as_epath, files_of, is_remote

DEFAULT = "gendr-tiny"  # the default of `gendr restore --weights`
SHIPPED = Path(__file__).parents[1] / "pretrained"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def shipped() -> list[str]:
    """Names of the weights that are shipped with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/gendr.json"))


def resolve(name: str | Path) -> Path:
    """The local file or folder of these weights.

    A local folder has precedence over a packaged name.

    Raises:
        InputError: nothing has that name.
        UsageError: a Hub id or a URL whose library is not installed.
    """
    text = str(name)
    if is_remote(text):
        return _downloaded(text)
    path = Path(text).expanduser()
    if path.exists():
        return path.resolve() if path.is_dir() else path.absolute()
    if text in shipped():
        return SHIPPED / text
    if isinstance(name, Path) or not HUB_ID.fullmatch(text):
        raise InputError(
            f"{text} does not exist. Check the path, or name weights that come with "
            f"the package: {', '.join(shipped())}."
        )
    return _from_hub(text)


def resolve_folder(name: str | Path) -> Path:
    """The local folder of these weights, as ``resolve``; a file is refused.

    Raises:
        InputError, UsageError: as ``resolve``; or it is a file.
    """
    try:
        path = resolve(name)
    except InputError as error:
        if "does not exist" not in str(error):
            raise
        raise InputError(
            f"there is no weights folder {name}. Check the path, or name weights that "
            f"come with the package: {', '.join(shipped())}."
        ) from error
    if not path.is_dir():
        raise InputError(f"{name} is a file, not a folder of weights. Name the folder.")
    return path


def _from_hub(text: str) -> Path:
    try:
        import huggingface_hub
    except ImportError:
        raise UsageError(
            f"there is no weights folder {text}, and for a Hub id huggingface_hub is "
            "not installed. Check the path, or: pip install huggingface_hub."
        ) from None
    try:
        return Path(huggingface_hub.snapshot_download(text))
    except Exception as error:  # network, authorisation, absence: many types
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(
            f"there is no weights folder {text}, and its download from the Hub failed "
            f"({reason}). Check the path."
        ) from error


def _downloaded(url: str) -> Path:
    """A file or folder of an object store, downloaded to a temporary folder."""
    source = as_epath(url)
    try:
        is_file, is_folder = source.is_file(), source.is_dir()
    except Exception as error:  # each store has errors of its own
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{url} cannot be read ({reason}). Check the URL.") from error
    if not is_file and not is_folder:
        raise InputError(f"{url} does not exist. Check the URL.")
    temporary_folder = Path(tempfile.mkdtemp(prefix="gendr-"))
    atexit.register(shutil.rmtree, temporary_folder, ignore_errors=True)
    name = url.rstrip("/").rpartition("/")[2]
    if is_file:
        return _download_file(source, temporary_folder / name)
    for file in files_of(source):
        _download_file(file, temporary_folder / name / str(file.relative_to(source)))
    return temporary_folder / name


def _download_file(source: epath.Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 24)
    return target
