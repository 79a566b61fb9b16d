"""Blend two restorers of one architecture: the weighted mean of their networks.

Networks that were trained from the same weights, one for fidelity and one for
sharpness, give a restorer for every weight between them (network interpolation, Wang
et al. 2019, arXiv 1811.10515).
"""

import dataclasses
import numbers
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gendr_jax.errors import InputError, UsageError
from gendr_jax.weights import one_file
from gendr_jax.weights.gendr_json import Weights

COMPONENTS = ("unet", "vae", "prompt")


class Mismatch(InputError):
    """Two weights of which no blend is a network."""


def load(
    name: str | Path, fidelity: float | None = None, faithful: str | Path | None = None
) -> Weights:
    """A restorer's weights by name, blended with a second one's.

    Args:
        name: as for ``one_file.load``.
        fidelity: 0 is the first, 1 the second; None: the first, nothing else is read.
        faithful: the second's name.

    Raises:
        InputError: as ``one_file.load``, or the two differ in more than their values.
        UsageError: one of both arguments is missing, or fidelity is not in 0 to 1.
    """
    check(fidelity, faithful)
    first = one_file.load(name, COMPONENTS)
    if fidelity is None or faithful is None:
        return first
    try:
        return blended(first, one_file.load(faithful, COMPONENTS), fidelity)
    except Mismatch as error:
        raise InputError(f"{name} and {faithful}: {error}") from error


def check(fidelity: float | None, faithful: str | Path | None) -> None:
    """Refuse one argument without the other, and numbers out of range.

    Raises:
        UsageError: as ``load``.
    """
    if fidelity is None and faithful is not None:
        raise UsageError(
            f"faithful={faithful} without fidelity has no effect. Give fidelity, 0 to "
            "1."
        )
    if fidelity is None:
        return
    if not (isinstance(fidelity, numbers.Real) and 0 <= fidelity <= 1):
        raise UsageError(f"fidelity is {fidelity!r}. Give a number from 0 to 1.")
    if faithful is None:
        raise UsageError(
            f"fidelity={fidelity:g} blends two weights. Name the more faithful ones "
            "(--faithful), or leave fidelity out."
        )


def blended(first: Weights, second: Weights, fidelity: float) -> Weights:
    """(1 - fidelity) first + fidelity second, in float32 unless one has weight 0.

    Raises:
        Mismatch: another kind, architecture, prompt or step.
    """
    for name in ("kind", "prediction", "t_star", "configs"):
        ours, theirs = getattr(first, name), getattr(second, name)
        if ours != theirs:
            raise Mismatch(
                f"their {name} differ ({_difference(ours, theirs)}). Blend weights of "
                "one architecture."
            )
    prompts = first.prompt, second.prompt
    if prompts[0].keys() != prompts[1].keys() or any(
        not np.array_equal(prompts[0][key], prompts[1][key]) for key in prompts[0]
    ):
        raise Mismatch(
            "their prompt embeddings differ. Blend weights that were trained with the "
            "same prompt."
        )
    if fidelity in (0, 1):
        return second if fidelity else first

    def mean(a: Any, b: Any) -> np.ndarray:
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        return a + np.float32(fidelity) * (b - a)

    return dataclasses.replace(
        first, params=jax.tree.map(mean, first.params, second.params)
    )


def _difference(ours: Any, theirs: Any) -> str:
    """The first value that differs, of both."""
    if not isinstance(ours, dict):
        return f"{ours} and {theirs}"
    for name in sorted(ours.keys() | theirs.keys()):
        a, b = (configs.get(name) for configs in (ours, theirs))
        if a is None or b is None:
            return f"{name} is in one of them"
        a, b = dataclasses.asdict(a), dataclasses.asdict(b)
        for key in a:
            if a[key] != b[key]:
                return f"{name}.{key} {a[key]} and {b[key]}"
    return "nothing"
