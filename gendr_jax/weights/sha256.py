"""A sha256 over array contents: equal weights have equal digests, however stored.

What is hashed is, in sorted order of the tree's paths, one header line "path dtype
shape" and the elements in C order, little-endian. File layout, chunking and compression
of a checkpoint have no effect.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from gendr_jax.nets import Params, flatten

CHUNK = 1 << 24  # elements hashed at a time, so that device arrays are not doubled


def sha256(params: Params) -> str:
    """Hex digest of a nested dict of arrays (numpy or JAX)."""
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten(params).items()):
        array = _on_host(leaf)
        shape = ",".join(map(str, array.shape))
        digest.update(f"{'.'.join(path)} {array.dtype.name} [{shape}]\n".encode())
        flat = np.ascontiguousarray(array).reshape(-1)
        for start in range(0, flat.size, CHUNK):
            digest.update(_little_endian(flat[start : start + CHUNK]))
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes, as sha256sum prints it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _on_host(leaf: Any) -> np.ndarray:
    """A numpy array; one that spans several hosts is gathered to each of them."""
    if getattr(leaf, "is_fully_addressable", True):
        return np.asarray(leaf)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def _little_endian(chunk: np.ndarray) -> memoryview:
    # bfloat16 has no byte order of its own in numpy; as bytes it has the machine's.
    raw = chunk.view(np.uint8).reshape(chunk.size, chunk.itemsize)
    if sys.byteorder == "big":
        raw = np.ascontiguousarray(raw[:, ::-1])
    return raw.reshape(-1).data
