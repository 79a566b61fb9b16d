"""Group normalisation with statistics that several inputs share.

A part of a picture, normalised by its own statistics, looks different from the same
part inside the whole: a sky loses its calm, and neighbours do not match. Here one joint
pass over samples of the picture finds the statistics of every layer, and each part is
then normalised by those. Modules are those that ``Net.bind`` made: all of this happens
while a program is traced.
"""

import jax
from flax import nnx

from gendr_jax.models.layers import GroupNorm

# Name of a norm -> (mean, variance), each [groups].
Moments = dict[str, tuple[jax.Array, jax.Array]]


def pool(module: nnx.Module) -> None:
    """Let every norm take the statistics of its whole batch at the next call."""
    for norm in _norms(module).values():
        norm.pooled = True


def moments(module: nnx.Module) -> Moments:
    """The statistics that pooled calls have used."""
    used = {name: norm.moments for name, norm in _norms(module).items()}
    return {name: pair for name, pair in used.items() if pair is not None}


def give(module: nnx.Module, given: Moments) -> None:
    """Let every norm use these instead of its input's; others do not run, as an
    encoder that only its decoder is taken of."""
    norms = _norms(module)
    for name, pair in given.items():
        norms[name].moments = pair


def _norms(module: nnx.Module) -> dict[str, GroupNorm]:
    return {
        ".".join(map(str, path)): part
        for path, part in nnx.iter_modules(module)
        if isinstance(part, GroupNorm)
    }
