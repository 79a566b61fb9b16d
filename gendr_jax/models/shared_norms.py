"""Group norms with statistics shared by all tiles of a picture.

A tile that is normalised by its own statistics differs from the same region of the
full picture: flat areas get texture, and neighbouring tiles do not match. So one pass
over samples of the picture computes the statistics of every norm, which then replace
those of each tile. These functions change modules from ``Net.bind`` while a program is
traced.
"""

import jax
from flax import nnx

from gendr_jax.models.layers import GroupNorm

# Name of a norm -> (mean, variance), each [groups].
Moments = dict[str, tuple[jax.Array, jax.Array]]


def pool(module: nnx.Module) -> None:
    """Make every norm use, and store, the statistics of the full batch when called."""
    for norm in _norms(module).values():
        norm.pooled = True


def moments(module: nnx.Module) -> Moments:
    """The statistics that pooled norms have stored."""
    used = {name: norm.moments for name, norm in _norms(module).items()}
    return {name: pair for name, pair in used.items() if pair is not None}


def set_moments(module: nnx.Module, shared: Moments) -> None:
    """Make norms use these statistics; norms without any are not called, such as those
    of an encoder whose decoder alone is used."""
    norms = _norms(module)
    for name, pair in shared.items():
        norms[name].moments = pair


def _norms(module: nnx.Module) -> dict[str, GroupNorm]:
    return {
        ".".join(map(str, path)): layer
        for path, layer in nnx.iter_modules(module)
        if isinstance(layer, GroupNorm)
    }
