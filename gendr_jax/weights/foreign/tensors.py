"""Tensors in files, read lazily, and a writer of safetensors.

Bytes are read one tensor at a time with pread, not mmap, so that no mapped pages add to
the memory of the process.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gendr_jax.errors import InputError

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "BOOL": np.dtype(np.bool_),
    # Not read for our networks; a file may hold them for a text encoder.
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
# Exponent bits of floating dtypes: all of them are set in NaN and Inf, and only there.
EXPONENT = {
    "float64": 0x7FF0000000000000,
    "float32": 0x7F800000,
    "float16": 0x7C00,
    "bfloat16": 0x7F80,
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in a file. ``read`` gives its array, contiguous, in new memory."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class OpenFile:
    """The tensors of one file, not read yet.

    Attributes:
        tensors: by name; of a training checkpoint, the state dict.
        metadata: plain values in the file.
        averages: averaged weights by the same names, where the file has both.
        averages_alone: the file has averages only.
        nameless_averages: the key of averages that have no names, or "".
        groups: the state dicts of a pickle by its keys.
        left_out: {meaning: number} of tensors that are in none of these.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    averages: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    averages_alone: bool = False
    nameless_averages: str = ""
    groups: dict[str, dict[str, Tensor]] = dataclasses.field(default_factory=dict)
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)


def tensor_at(
    path: Path, name: str, dtype: np.dtype, shape: tuple[int, ...], offset: int
) -> Tensor:
    """A tensor whose bytes are contiguous at ``offset``."""

    def read() -> np.ndarray:
        return read_bytes(path, offset, dtype, shape)

    return Tensor(name, dtype, shape, read)


def read_bytes(
    path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...]
) -> np.ndarray:
    """The array at ``offset`` of a file, in new memory.

    Raises:
        InputError: the file ends before the array does.
    """
    array = np.empty(shape, dtype)
    view = array.reshape(-1).view(np.uint8).data
    with path.open("rb", buffering=0) as file:
        bytes_read = 0
        while bytes_read < len(view):
            count = os.preadv(file.fileno(), [view[bytes_read:]], offset + bytes_read)
            if not count:
                raise InputError(
                    f"{path} ends at byte {offset + bytes_read}, {offset + len(view)} "
                    "are needed. Download it again."
                )
            bytes_read += count
    return array


def all_finite(array: np.ndarray) -> bool:
    """Whether there is no NaN and no Inf; by bits, which is fast for 2-byte floats."""
    mask = EXPONENT.get(array.dtype.name)
    if mask is None:
        return True
    bits = array.reshape(-1).view(f"uint{array.dtype.itemsize * 8}")
    mask, step = bits.dtype.type(mask), 1 << 22
    return not any(
        (bits[i : i + step] & mask == mask).any() for i in range(0, bits.size, step)
    )


NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_safetensors(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a file that the safetensors library reads; any strides, any axis order.

    Tensors are ordered by descending item size, then by name, as that library's own
    writer does. ``metadata`` is added to ``{"format": "pt"}``, needed by transformers.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name in order:
        array = tensors[name]
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            array = np.ascontiguousarray(tensors[name])
            file.write(array.reshape(-1).view(np.uint8).data)
