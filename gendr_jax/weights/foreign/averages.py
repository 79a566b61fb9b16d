"""Averaged weights (EMA) that training programs keep with the last ones.

--ema says which are read: auto takes averages where there are any, and refuses a file
whose averages it cannot read, so that the last weights are never taken silently.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Literal

from gendr_jax.errors import InputError
from gendr_jax.weights.foreign import ldm
from gendr_jax.weights.foreign.tensors import OpenFile, Tensor

Wanted = Literal["auto", "yes", "no"]
RAW, AVERAGED = "weights without averaging", "averaged weights"


def chosen(file: OpenFile, wanted: Wanted) -> tuple[OpenFile, bool]:
    """The file with the weights that are wanted as its tensors; are they averages?

    Raises:
        InputError: averages that are incomplete or have no names, or none but them.
    """
    if not file.averages:
        if file.nameless_averages and wanted != "no":
            raise InputError(
                f"{file.path} has averaged weights without names under "
                f"{file.nameless_averages!r:.60}, which are not read. Save them as a "
                "state dict, or take the others: --ema no."
            )
        return file, False
    if file.averages_alone:
        if wanted == "no":
            raise InputError(
                f"{file.path} holds averaged weights alone. Leave --ema no away."
            )
        return dataclasses.replace(file, tensors=file.averages), True
    if wanted == "no":
        return _without(file, file.tensors, {AVERAGED: len(file.averages)}), False
    lost = file.tensors.keys() - file.averages.keys()
    weights = sorted(n for n in lost if _is_weight(n, file.tensors[n]))
    if weights:
        raise InputError(
            f"{file.path} averages {len(file.averages)} of {len(file.tensors)} "
            f"tensors, not {weights[0]:.80}. Take --ema no, or another copy."
        )
    others = {name: file.tensors[name] for name in lost}
    return _without(file, others | file.averages, {RAW: len(file.averages)}), True


def _without(
    file: OpenFile, tensors: dict[str, Tensor], left_out: dict[str, int]
) -> OpenFile:
    return dataclasses.replace(
        file, tensors=tensors, averages={}, left_out=file.left_out | left_out
    )


def _is_weight(name: str, tensor: Tensor) -> bool:
    """Averages are of weights: counters and noise schedules have none."""
    return ldm.dropped(name) is None and tensor.dtype.kind not in "iub"


def of_ldm(
    where: str,
    network: Mapping[str, Tensor],
    prefix: str,
    rest: dict[str, Tensor],
    wanted: Wanted,
    left_out: Counter[str],
) -> tuple[dict[str, Tensor], bool]:
    """A network of an LDM file (names without ``prefix``), averaged where wanted.

    Its averages are taken out of ``rest``. LDM's LitEma spells them without dots, below
    the module that keeps them.

    Raises:
        InputError: not every tensor of the network has an average.
    """
    spelled = {name: _average(prefix, name, rest) for name in network}
    averages = {name: rest.pop(ema) for name, ema in spelled.items() if ema}
    if not averages:
        return dict(network), False
    use = wanted != "no"
    if use and len(averages) != len(network):
        lost = sorted(network.keys() - averages.keys())
        raise InputError(
            f"{where} averages {len(averages)} of {len(network)} tensors of "
            f"{prefix}, not {lost[0]:.80}. Take --ema no, or another copy."
        )
    left_out[RAW if use else AVERAGED] += len(network)
    return (averages if use else dict(network)), use


def _average(prefix: str, name: str, rest: Mapping[str, Tensor]) -> str | None:
    short = name.replace(".", "")
    known = (
        ldm.EMA_PREFIX + prefix.removeprefix("model.").replace(".", "") + short,
        ldm.EMA_PREFIX + short,  # a file of this network alone
        prefix + ldm.EMA_PREFIX + short,
    )
    return next((spelling for spelling in known if spelling in rest), None)
