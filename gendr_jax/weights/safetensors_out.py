"""Writing safetensors one tensor at a time.

The library's own writer copies every tensor before it writes the first, twice the
model in memory; this one holds a single tensor. Reading is in ``tensors.py``.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gendr_jax.weights.tensors import DTYPES

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
