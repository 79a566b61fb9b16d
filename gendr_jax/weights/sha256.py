"""A sha256 over array contents: equal weights have equal digests, however stored.

The canonical form of a tree is, in sorted order of its paths, one header line
"path dtype shape" and the elements in C order, little-endian. File layout, chunking
and compression of a checkpoint play no part.
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
    """On this host; of an array that spans several, each host gets all of one leaf."""
    if getattr(leaf, "is_fully_addressable", True):
        return np.asarray(leaf)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def _little_endian(part: np.ndarray) -> memoryview:
    # bfloat16 has no byte order of its own in numpy; as bytes it has the machine's.
    raw = part.view(np.uint8).reshape(part.size, part.itemsize)
    if sys.byteorder == "big":
        raw = np.ascontiguousarray(raw[:, ::-1])
    return raw.reshape(-1).data
