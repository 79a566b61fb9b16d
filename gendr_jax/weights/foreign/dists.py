"""Names of DISTS' weights in the files of torchvision and of its authors.

Two spellings. "torchvision": VGG16's own file (``features.N.weight``) and the authors'
weights.pt (``alpha``, ``beta``), merged by the caller. "dists": the state dict of
``DISTS()`` (``stage1.0.weight``).
"""

from collections.abc import Collection, Mapping
from typing import Literal

from gendr_jax import nets
from gendr_jax.models.dists import DISTS, DISTSConfig
from gendr_jax.weights.foreign import names
from gendr_jax.weights.foreign.layouts import Layout, Shape, StoredTensor

Spelling = Literal["torchvision", "dists"]

WEIGHTS = ("alpha", "beta")
# Other tensors of such files, and why they are not read.
LEFT_OUT = {
    "classifier": "the classifier behind the features, which DISTS does not use",
    "mean": "constants that the network has in its source",
    "std": "constants that the network has in its source",
    "filter": "constants that the network has in its source",
}


def recognise(names: Collection[str]) -> Spelling | None:
    """The spelling of these names; weights.pt alone is "torchvision", trunk missing."""
    if not all(name in names for name in WEIGHTS):
        return None
    return "dists" if "stage1.0.weight" in names else "torchvision"


def config(shapes: Mapping[str, Shape], spelling: Spelling) -> DISTSConfig:
    """The configuration by the last convolution of each stage; VGG16's where absent."""
    usual = DISTSConfig()
    widths = []
    for k, layers in enumerate(usual.slices):
        name = _foreign(k, layers[-2], "bias", spelling)
        shape = shapes.get(name, ())
        widths.append(shape[0] if len(shape) == 1 else usual.widths[k])
    return DISTSConfig(tuple(widths))


def layout(config: DISTSConfig, spelling: Spelling) -> Layout:
    """The layout of a file; "torchvision" is one table for two files."""
    table = {}
    for name, shape in names.torch_shapes(nets.build(DISTS, config).abstract).items():
        if name in WEIGHTS:
            table[name] = StoredTensor(name, (1, *shape, 1, 1))
            continue
        _, number, leaf = name.split(".")
        i = int(number)
        k = next(k for k, layers in enumerate(config.slices) if i in layers)
        table[name] = StoredTensor(_foreign(k, i, leaf, spelling), shape)
    return table


def left_out(name: str) -> str | None:
    """Why a foreign tensor is not read; None when it is."""
    components = name.split(".")
    return LEFT_OUT.get(components[-1] if components[-1] == "filter" else components[0])


def _foreign(stage: int, index: int, leaf: str, spelling: Spelling) -> str:
    module = f"stage{stage + 1}" if spelling == "dists" else "features"
    return f"{module}.{index}.{leaf}"
