"""`Source`: an image file by its path, or its bytes in memory."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class Encoded:
    """The bytes of an image file; `name` is for messages."""

    data: bytes
    name: str

    def __str__(self) -> str:
        return self.name


Source = Path | Encoded


def opened(source: Source) -> BinaryIO:
    """A binary stream of the file, to be closed by the caller."""
    if isinstance(source, Encoded):
        return io.BytesIO(source.data)
    return open(source, "rb")
