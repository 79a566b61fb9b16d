"""Parameter paths to torch names and axes, and back.

Attribute paths are equal by construction (``models/`` mirrors diffusers and the files
of transformers), so only the last component of a name and the axis order differ:

    kernel [H,W,I,O]   weight [O,I,H,W]      lora_a   lora_A.weight (axes as kernel)
    kernel [I,O]       weight [O,I]          lora_b   lora_B.weight (axes as kernel)
    scale  [C]         weight [C]            all else: the same name, the same axes

"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gendr_jax import nets

Path = tuple[str, ...]

# Leaves stored in another axis order, with torch's last name.
MATRICES = {"kernel": "weight", "lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}
# Linear layers transpose; convolutions go from HWIO to OIHW and back.
TO_TORCH = {2: (1, 0), 4: (3, 2, 0, 1)}
FROM_TORCH = {2: (1, 0), 4: (2, 3, 1, 0)}


def torch_name(path: Path) -> str:
    """("conv_in", "kernel") -> "conv_in.weight"."""
    *module, leaf = path
    last = "weight" if leaf == "scale" else MATRICES.get(leaf, leaf)
    return ".".join([*module, last])


def param_path(name: str, ndim: int) -> Path:
    """("conv_in.weight", 4) -> ("conv_in", "kernel"); a 1-d weight is a scale."""
    components = name.split(".")
    for leaf in ("lora_a", "lora_b"):
        if components[-2:] == MATRICES[leaf].split("."):
            return (*components[:-2], leaf)
    if components[-1] == "weight":
        return (*components[:-1], "scale" if ndim == 1 else "kernel")
    return tuple(components)


def torch_axes(path: Path, ndim: int) -> tuple[int, ...]:
    """The transposition that takes our array to torch's layout."""
    plain = tuple(range(ndim))
    return TO_TORCH.get(ndim, plain) if path[-1] in MATRICES else plain


def param_axes(path: Path, ndim: int) -> tuple[int, ...]:
    """The transposition that takes torch's array to ours."""
    plain = tuple(range(ndim))
    return FROM_TORCH.get(ndim, plain) if path[-1] in MATRICES else plain


def torch_shapes(params: nets.Params) -> dict[str, tuple[int, ...]]:
    """{torch name: torch shape} of a tree; abstract trees will do."""
    return {
        torch_name(path): tuple(leaf.shape[a] for a in torch_axes(path, leaf.ndim))
        for path, leaf in nets.flatten(params).items()
    }


def to_torch(params: nets.Params) -> dict[str, np.ndarray]:
    """A tree as torch's state dict of contiguous numpy arrays, dtypes kept."""
    return {
        torch_name(path): np.ascontiguousarray(
            np.asarray(leaf).transpose(torch_axes(path, leaf.ndim))
        )
        for path, leaf in nets.flatten(params).items()
    }


def from_torch(tensors: Mapping[str, Any]) -> nets.Params:
    """The inverse of ``to_torch``; arrays may be anything that numpy can view.

    Raises ValueError when two names would be the same parameter.
    """
    flat: dict[Path, np.ndarray] = {}
    for name, tensor in tensors.items():
        array = np.asarray(tensor)
        path = param_path(name, array.ndim)
        if path in flat:
            raise ValueError(f"Two tensors are the parameter {'.'.join(path)}.")
        axes = param_axes(path, array.ndim)
        flat[path] = np.ascontiguousarray(array.transpose(axes))
    return nets.unflatten(flat)
