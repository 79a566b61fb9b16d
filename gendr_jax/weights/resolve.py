"""From what a user typed after --weights to a folder on this machine.

No id is built in: public weights move and vanish.
"""

import re
from pathlib import Path

from gendr_jax.errors import InputError, UsageError

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def locate(path_or_name: str | Path) -> Path:
    """The local folder of these weights; a Hub id is downloaded (and cached).

    Raises:
        InputError: there is no such folder.
        UsageError: a Hub id where huggingface_hub is not installed.
    """
    text = str(path_or_name)
    path = Path(text).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists():
        raise InputError(f"{text} is a file, not a folder of weights. Name the folder.")
    if isinstance(path_or_name, Path) or not HUB_ID.fullmatch(text):
        raise InputError(f"there is no weights folder {text}. Check the path.")
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
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"there is no weights folder {text}, and the Hub did not give it "
            f"({reason}). Check the path."
        ) from error
