"""A weights file opened, its directory checked: safetensors, or PyTorch's pickle."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gendr_jax.errors import InputError
from gendr_jax.weights.foreign import pickles
from gendr_jax.weights.foreign.tensors import (
    DTYPES,
    PICKLES,
    SAFETENSORS,
    OpenFile,
    located,
)

# The most that the safetensors library accepts, and far above any model here.
MAX_HEADER = 100_000_000


def open_file(path: Path) -> OpenFile:
    """The directory of a weights file, checked; no tensor is read.

    Raises:
        InputError: not such a file, damaged, or a pickle that needs more than tensors.
    """
    if path.suffix in SAFETENSORS + PICKLES:
        _refuse_stand_ins(path)
    if path.suffix in PICKLES:
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
