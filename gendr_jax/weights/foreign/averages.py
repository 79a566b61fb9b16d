"""Averaged weights (EMA) that training programs save with the raw ones.

`--ema` chooses: auto takes averages where there are any, and refuses a file whose
averages it cannot read, so that raw weights are never taken silently.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Literal

from gendr_jax.errors import InputError
from gendr_jax.weights.foreign import ldm
from gendr_jax.weights.foreign.tensors import OpenFile, Tensor

EmaChoice = Literal["auto", "yes", "no"]
RAW, AVERAGED = "weights without averaging", "averaged weights"


def chosen(file: OpenFile, choice: EmaChoice) -> tuple[OpenFile, bool]:
    """(the file with the chosen weights as its tensors, whether they are averages).

    Raises:
        InputError: averages are incomplete or have no names; with "no", there is
            nothing else.
    """
    if not file.averages:
        if file.nameless_averages and choice != "no":
            raise InputError(
                f"{file.path} has averaged weights without names under "
                f"{file.nameless_averages!r:.60}, which are not read. Save them as a "
                "state dict, or take the others: --ema no."
            )
        return file, False
    if file.averages_alone:
        if choice == "no":
            raise InputError(
                f"{file.path} holds averaged weights alone. Leave --ema no out."
            )
        return dataclasses.replace(file, tensors=file.averages), True
    if choice == "no":
        return _without(file, file.tensors, {AVERAGED: len(file.averages)}), False
    missing = file.tensors.keys() - file.averages.keys()
    weights = sorted(n for n in missing if _is_weight(n, file.tensors[n]))
    if weights:
        raise InputError(
            f"{file.path} averages {len(file.averages)} of {len(file.tensors)} "
            f"tensors, not {weights[0]:.80}. Take --ema no, or another copy."
        )
    not_averaged = {name: file.tensors[name] for name in missing}
    return _without(file, not_averaged | file.averages, {RAW: len(file.averages)}), True


def _without(
    file: OpenFile, tensors: dict[str, Tensor], left_out: dict[str, int]
) -> OpenFile:
    return dataclasses.replace(
        file, tensors=tensors, averages={}, left_out=file.left_out | left_out
    )


def _is_weight(name: str, tensor: Tensor) -> bool:
    """Whether it needs an average: counters and noise schedules have none."""
    return ldm.dropped(name) is None and tensor.dtype.kind not in "iub"


def of_ldm(
    where: str,
    network: Mapping[str, Tensor],
    prefix: str,
    others: dict[str, Tensor],
    choice: EmaChoice,
    left_out: Counter[str],
) -> tuple[dict[str, Tensor], bool]:
    """A network of an LDM file (names without ``prefix``), averaged where wanted.

    Its averages are removed from ``rest``. LDM's LitEma names them without dots, under
    the module that owns it.

    Raises:
        InputError: not every tensor of the network has an average.
    """
    ema_names = {name: _average(prefix, name, others) for name in network}
    averages = {name: others.pop(ema) for name, ema in ema_names.items() if ema}
    if not averages:
        return dict(network), False
    use_averages = choice != "no"
    if use_averages and len(averages) != len(network):
        missing = sorted(network.keys() - averages.keys())
        raise InputError(
            f"{where} averages {len(averages)} of {len(network)} tensors of "
            f"{prefix}, not {missing[0]:.80}. Take --ema no, or another copy."
        )
    left_out[RAW if use_averages else AVERAGED] += len(network)
    return (averages if use_averages else dict(network)), use_averages


def _average(prefix: str, name: str, others: Mapping[str, Tensor]) -> str | None:
    name_without_dots = name.replace(".", "")
    spellings = (
        ldm.EMA_PREFIX
        + prefix.removeprefix("model.").replace(".", "")
        + name_without_dots,
        ldm.EMA_PREFIX + name_without_dots,  # a file of this network alone
        prefix + ldm.EMA_PREFIX + name_without_dots,
    )
    return next((spelling for spelling in spellings if spelling in others), None)
