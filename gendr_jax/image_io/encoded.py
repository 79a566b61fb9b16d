"""An encoded picture in memory, where readers otherwise take a path."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class Encoded:
    """The bytes of a picture file; `name` stands for it in messages."""

    data: bytes
    name: str

    def __str__(self) -> str:
        return self.name


Source = Path | Encoded


def opened(source: Source) -> BinaryIO:
    """The bytes as a stream, to be closed."""
    if isinstance(source, Encoded):
        return io.BytesIO(source.data)
    return open(source, "rb")
