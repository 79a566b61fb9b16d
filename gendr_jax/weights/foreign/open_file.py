"""Open a weights file: tensor names, dtypes and shapes, without reading arrays.

Safetensors are opened here, pickles in ``pickles.py``. Git LFS pointers and web pages
in place of a file are refused, prefixes of PyTorch's wrappers are removed from names.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gendr_jax.errors import InputError, listed
from gendr_jax.weights.foreign.pickles import open_pickle
from gendr_jax.weights.foreign.tensors import DTYPES, OpenFile, Tensor, tensor_at

SAFETENSORS, PICKLES = (".safetensors",), (".bin", ".ckpt", ".pt", ".pth", ".pkl")
# The limit of the safetensors library itself.
MAX_HEADER = 100_000_000
# torch.nn.parallel prefixes all names with the first, torch.compile inserts the second.
PARALLEL, COMPILED = "module.", "_orig_mod."
# ema-pytorch saves averaged and raw weights under one key.
AVERAGING = "ema_model."
COUNTERS = ("n_averaged", "num_updates", "decay", "initted", "step")


def open_file(path: Path) -> OpenFile:
    """The tensors of a weights file, checked but not read.

    Raises:
        InputError: no weights file, damaged, or a pickle with more than tensors.
        UsageError: a pickle where PyTorch is not installed.
    """
    if path.suffix not in SAFETENSORS + PICKLES:
        known = " ".join(SAFETENSORS + PICKLES)
        raise InputError(f"{path} is no weights file. Name one of {known}.")
    _refuse_wrong_content(path)
    file = open_pickle(path) if path.suffix in PICKLES else _open_safetensors(path)
    # Names go into messages: control characters could steer a terminal.
    for name in [*file.tensors, *file.averages]:
        if not name.isprintable():
            raise InputError(f"{path} has a tensor {name!r:.80}. Download it again.")
    return dataclasses.replace(
        file,
        tensors=unwrapped(file.tensors),
        averages=unwrapped(_without_counters(file.averages)),
        groups={key: unwrapped(group) for key, group in file.groups.items()},
    )


def unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the prefixes of DataParallel and torch.compile."""
    by_name = {name.replace(COMPILED, ""): tensor for name, tensor in tensors.items()}
    if len(by_name) != len(tensors):  # two names would be one
        return tensors
    while by_name and all(name.startswith(PARALLEL) for name in by_name):
        by_name = {n.removeprefix(PARALLEL): tensor for n, tensor in by_name.items()}
    return by_name


def _without_counters(averages: dict[str, Tensor]) -> dict[str, Tensor]:
    """Averaged weights without step counters (of torch, timm, ema-pytorch)."""
    inner = {n: t for n, t in averages.items() if n.startswith(AVERAGING)}
    inner = {n.removeprefix(AVERAGING): tensor for n, tensor in inner.items()}
    return inner or {n: t for n, t in averages.items() if n not in COUNTERS}


def _refuse_wrong_content(path: Path) -> None:
    """Refuse LFS pointers, web pages, and files whose suffix is of another format."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError:
        return  # the caller opens the file, which raises the error
    start = head.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a pointer of Git LFS. Get the file: git lfs pull.")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(f"{path} is a web page, not weights. Download it again.")
    is_safetensors = (
        head[8:9] == b"{" and int.from_bytes(head[:8], "little") < MAX_HEADER
    )
    if path.suffix in SAFETENSORS and head.startswith((b"PK\x03\x04", b"\x80")):
        if not is_safetensors:
            raise InputError(
                f"{path} is a pickle of PyTorch with the name of a safetensors file. "
                "Rename it to .ckpt if you trust its source."
            )
    if path.suffix in PICKLES and is_safetensors:
        raise InputError(
            f"{path} is a safetensors file with the name of a pickle. Rename it to "
            ".safetensors."
        )


def _open_safetensors(path: Path) -> OpenFile:
    try:
        # The library checks sizes, order, gaps and overlaps of the header's entries.
        with safe_open(path, framework="np"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = _json(file.read(min(length, MAX_HEADER)))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        reason = repr(str(error))[1:-1][:160]  # it may quote the file, line feeds too
        raise InputError(
            f"{path} is not a complete safetensors file ({reason}). Download it again."
        ) from error
    metadata = header.pop("__metadata__", {})
    unknown = [
        f"{n} {e['dtype']}" for n, e in header.items() if _unsupported(e["dtype"])
    ]
    if unknown:
        raise InputError(
            f"{path}: dtypes that are not supported: {listed(sorted(unknown))}. "
            "Save it as float32, float16 or bfloat16."
        )
    tensors = {
        name: tensor_at(
            path,
            name,
            DTYPES[entry["dtype"]],
            tuple(entry["shape"]),
            8 + length + entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }
    return OpenFile(path, tensors, metadata)


def _unsupported(dtype: str) -> bool:
    return dtype not in DTYPES


def _json(raw: bytes) -> dict[str, Any]:
    """The header; a repeated name is refused, since the second would hide a tensor."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        unique = dict(pairs)
        if len(unique) != len(pairs):
            raise ValueError("its header has a name twice")
        return unique

    return json.loads(raw, object_pairs_hook=once)
