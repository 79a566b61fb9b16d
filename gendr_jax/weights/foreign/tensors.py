"""Tensors in files, opened but not read: safetensors, and PyTorch's pickles.

``open_file`` checks a file's directory and gives one lazy ``Tensor`` a name; bytes are
read one tensor at a time with plain reads, so memory holds what was asked for and no
mapped pages beside it.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from gendr_jax.errors import InputError

SAFETENSORS, PICKLES = (".safetensors",), (".bin", ".ckpt", ".pt", ".pth")
# The most that the safetensors library accepts, and far above any model here.
MAX_HEADER = 100_000_000
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
    "BOOL": np.dtype(np.bool_),
}
# Of floating numbers: the bits of the exponent, all set in NaN and Inf alone.
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
    """The directory of one file: its tensors by name, and what else it says."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def open_file(path: Path) -> OpenFile:
    """The directory of a weights file, checked; no tensor is read.

    Raises:
        InputError: not such a file, damaged, or a pickle that needs more than tensors.
    """
    if path.suffix in SAFETENSORS + PICKLES:
        _refuse_stand_ins(path)
    if path.suffix in PICKLES:
        from gendr_jax.weights.foreign import pickles

        file = pickles.open_pickle(path)
    elif path.suffix in SAFETENSORS:
        file = _open_safetensors(path)
    else:
        known = " ".join(SAFETENSORS + PICKLES)
        raise InputError(f"{path} is no weights file. Name one of {known}.")
    # Names go into messages: no line feeds, nothing that steers a terminal.
    for name in file.tensors:
        if not name.isprintable():
            raise InputError(f"{path} has a tensor {name!r}. Download it again.")
    return file


def _refuse_stand_ins(path: Path) -> None:
    """What stands in the place of a file when it was not downloaded."""
    try:
        with path.open("rb") as file:
            head = file.read(64).lstrip().lower()
    except OSError:
        return  # told by whoever opens it
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a pointer of Git LFS. Get the file: git lfs pull.")
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(f"{path} is a web page, not weights. Download it again.")


def _open_safetensors(path: Path) -> OpenFile:
    try:
        # The library checks what its format promises: sizes, order, no gap, no overlap.
        with safe_open(path, framework="np"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = _json(file.read(min(length, MAX_HEADER)))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        reason = repr(str(error))[1:-1][:200]  # it may quote the file, line feeds too
        raise InputError(
            f"{path} is not a whole safetensors file ({reason}). Download it again."
        ) from error
    metadata = header.pop("__metadata__", {})
    unknown = [f"{n} {e['dtype']}" for n, e in header.items() if _odd(e["dtype"])]
    if unknown:
        raise InputError(
            f"{path}: dtypes that are not supported: {', '.join(sorted(unknown))}. "
            "Save it as float32, float16 or bfloat16."
        )
    tensors = {
        name: located(
            path,
            name,
            DTYPES[entry["dtype"]],
            tuple(entry["shape"]),
            8 + length + entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }
    return OpenFile(path, tensors, metadata)


def located(
    path: Path, name: str, dtype: np.dtype, shape: tuple[int, ...], offset: int
) -> Tensor:
    """A tensor whose bytes lie whole and in order at ``offset``."""

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
    view = memoryview(array.reshape(-1).view(np.uint8))
    with path.open("rb", buffering=0) as file:
        done = 0
        while done < len(view):
            count = os.preadv(file.fileno(), [view[done:]], offset + done)
            if not count:
                raise InputError(
                    f"{path} ends at byte {offset + done}, {offset + len(view)} are "
                    "needed. Download it again."
                )
            done += count
    return array


def all_finite(array: np.ndarray) -> bool:
    """Whether no NaN and no Inf is there; by bits, which is fast for 2-byte floats."""
    mask = EXPONENT.get(array.dtype.name)
    if mask is None:
        return True
    bits = array.reshape(-1).view(f"uint{array.dtype.itemsize * 8}")
    mask, step = bits.dtype.type(mask), 1 << 22
    return not any(
        (bits[i : i + step] & mask == mask).any() for i in range(0, bits.size, step)
    )


def _odd(dtype: str) -> bool:
    return dtype not in DTYPES


def _json(raw: bytes) -> dict[str, Any]:
    """The header; a name that stands in it twice would hide a tensor."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands twice in its header")
        return found

    return json.loads(raw, object_pairs_hook=once)


NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_safetensors(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a file that the safetensors library reads; any strides, any axis order.

    Tensors lie in it by falling alignment, then by name, as that library's own writer
    puts them. ``metadata`` joins ``{"format": "pt"}``, which transformers asks for.
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
            file.write(memoryview(array.reshape(-1).view(np.uint8)))
