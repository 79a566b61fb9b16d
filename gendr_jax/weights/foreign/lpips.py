"""Names of LPIPS' weights in the files of torchvision and of the lpips package.

Two spellings, both made from the shape of the network. "torchvision": the trunk's own
file (``features.N.weight``) and LPIPS' file of heads (``lin0.model.1.weight``), merged
by the caller. "lpips": the state dict of ``lpips.LPIPS()`` (``net.slice1.0.weight``).
"""

from collections.abc import Collection, Mapping
from typing import Literal

from gendr_jax import nets
from gendr_jax.errors import InputError
from gendr_jax.models.lpips import LPIPS, TRUNKS, LPIPSConfig
from gendr_jax.weights.foreign import names
from gendr_jax.weights.foreign.layouts import (
    Layout,
    Shape,
    StoredTensor,
    foreign_shapes,
)

Spelling = Literal["torchvision", "lpips", "lin"]

# Other tensors of such files, and why they are not read.
LEFT_OUT = {
    "classifier": "the classifier behind the features, which LPIPS does not use",
    "lins": "the heads a second time",
    "scaling_layer": "constants that the network has in its source",
}


def recognise(names: Collection[str]) -> Spelling | None:
    """The spelling of these names; a trunk merged with its heads is "torchvision".

    By a few names only; ``config`` checks that all tensors are of one network.
    """
    if "net.slice1.0.weight" in names:
        return "lpips"
    if "features.0.weight" in names:
        return "torchvision"
    heads = {_head("lin0", dropout) for dropout in (True, False)}
    return None if heads.isdisjoint(names) else "lin"


def has_dropout(names: Collection[str]) -> bool:
    """Whether a Dropout precedes each head and shifts its index, as in most files."""
    return _head("lin0", dropout=False) not in names


def config(shapes: Mapping[str, Shape]) -> LPIPSConfig:
    """The configuration that all tensors of a file, or of the two merged, belong to.

    Either file of the two is enough: missing tensors are not checked.
    Raises InputError when a tensor belongs to neither network.
    """
    spelling = recognise(shapes)
    if spelling is None:
        raise InputError(
            f"LPIPS weights: none of the {len(shapes)} tensors is features.0.weight, "
            "net.slice1.0.weight or lin0.model.1.weight. Give files of torchvision or "
            "of the lpips package."
        )
    read_shapes = {
        name: tuple(s) for name, s in shapes.items() if left_out(name) is None
    }
    expected, unknown = {}, {}
    for net in TRUNKS:
        network_layout = layout(LPIPSConfig(net), spelling, dropout=has_dropout(shapes))
        expected[net] = foreign_shapes(network_layout)
        unknown[net] = sorted(
            n for n, s in read_shapes.items() if expected[net].get(n) != s
        )
    # The first convolution, or the second head, tells the networks apart.
    nearest = min(unknown, key=lambda net: len(unknown[net]))
    if unknown[nearest]:
        name = unknown[nearest][0]
        raise InputError(
            f"LPIPS weights: {len(unknown[nearest])} of {len(read_shapes)} tensors are "
            f"not those of {nearest}, the nearest: {name} has shape "
            f"{read_shapes[name]}, expected "
            f"{expected[nearest].get(name, 'no such tensor')}. "
            f"Give files of {' or '.join(TRUNKS)}."
        )
    return LPIPSConfig(nearest)


def layout(config: LPIPSConfig, spelling: Spelling, *, dropout: bool = True) -> Layout:
    """The layout of a file; "torchvision" and "lin" are one table for two files."""
    table = {}
    for name, shape in names.torch_shapes(nets.build(LPIPS, config).abstract).items():
        first, *module_path = name.split(".")
        if first != "features":
            foreign = _head(first, dropout)
        elif spelling == "lpips":
            k = next(
                k for k, s in enumerate(config.slices, 1) if int(module_path[0]) in s
            )
            foreign = ".".join([f"net.slice{k}", *module_path])
        else:
            foreign = name
        table[name] = StoredTensor(foreign, shape)
    return table


def left_out(name: str) -> str | None:
    """Why a foreign tensor is not read; None when it is."""
    return LEFT_OUT.get(name.split(".")[0])


def _head(lin: str, dropout: bool) -> str:
    """("lin0", True) -> "lin0.model.1.weight"; the index counts the Dropout."""
    return f"{lin}.model.{int(dropout)}.weight"
