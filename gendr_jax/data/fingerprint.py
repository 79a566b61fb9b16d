"""A short hash of a source of photographs, to compare two starts of a run."""

import hashlib

import numpy as np

from gendr_jax.data.sources import Source

_NAMES = 64


def fingerprint(source: Source) -> dict[str, int | str]:
    """{"pictures", "hash"} of a source; the path of its folder does not count.

    The hash is over the side of every picture and the names of some, evenly spread;
    no picture is decoded.
    """
    count = len(source)
    indices = np.unique(np.linspace(0, count - 1, min(count, _NAMES)).astype(int))
    digest = hashlib.sha256(np.asarray(source.sides_n, np.int64).tobytes())
    for i in indices:
        digest.update(source.names[int(i)].encode(errors="surrogateescape") + b"\0")
    return {"pictures": count, "hash": digest.hexdigest()[:16]}
