"""Suggest settings with which a program fits the memory, each with an estimated peak.

An estimate divides the state by the size of `fsdp` and scales temporary memory with
the batch. Gathered weights do not shrink, so an estimate can be too low.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from gendr_jax.plan.request import Request, mesh_text, row_shares, sizes


@dataclasses.dataclass(frozen=True)
class Change:
    """A change as command-line flags (`words`), and the peak it may lead to."""

    words: str
    request: Request
    estimate: float | None


def changes(request: Request, facts: Mapping[str, Any], hbm: int) -> list[Change]:
    """Changes that may fit, the least first.

    Order: larger `fsdp`, gradient accumulation, rematerialisation (all three compute
    the same), then a smaller batch. A candidate whose estimate does not fit is left
    out.
    """
    candidates = [*_fsdp(request, facts), *_accumulate(request, facts)]
    candidates += [*_remat(request), *_batch(request, facts)]
    return [c for c in candidates if c.estimate is None or c.estimate <= hbm]


def _sizes(facts: Mapping[str, Any]) -> tuple[float, float, float]:
    """(state split by fsdp, the rest of the arguments, temporary bytes)."""
    roles = facts["roles"]
    state = sum(roles.get(k, 0) for k in ("params", "optimizer", "ema", "frozen"))
    split_state = max(state - roles.get("replicated", 0), 0)
    arguments = facts.get("argument_bytes", state)
    return (
        split_state,
        max(arguments - split_state, 0),
        max(facts["peak_bytes"] - arguments, 0),
    )


def _fsdp(request: Request, facts: Mapping[str, Any]) -> list[Change]:
    if request.program != "train":
        return []
    axes = sizes(facts["mesh_axes"])
    split_state, replicated, temporary = _sizes(facts)
    candidates = []
    factor = 2
    while axes.get("data", 1) % factor == 0:
        moved = {"data": axes["data"] // factor, "fsdp": axes["fsdp"] * factor}
        mesh = mesh_text(axes | moved)
        estimate = split_state / factor + replicated + temporary
        changed = dataclasses.replace(request, mesh=mesh)
        candidates.append(Change(f"--mesh {mesh}", changed, estimate))
        factor *= 2
    return candidates


def _remat(request: Request) -> list[Change]:
    if request.program != "train" or request.config.get("remat") == "block":
        return []
    config = dict(request.config) | {"remat": "block"}
    changed = dataclasses.replace(request, config=config)
    return [Change("--config.remat=block", changed, None)]


def _accumulate(request: Request, facts: Mapping[str, Any]) -> list[Change]:
    """The same batch with more gradient accumulation."""
    if request.program != "train":
        return []
    candidates, accumulate = [], int(request.config.get("accumulate", 1))
    batch, current = _batch_per_device(facts), accumulate
    while batch % (2 * accumulate) == 0:
        accumulate *= 2
        config = dict(request.config) | {"accumulate": accumulate}
        changed = dataclasses.replace(request, config=config)
        flag = f"--config.accumulate={accumulate}"
        candidates.append(
            Change(flag, changed, _with_share(facts, current / accumulate))
        )
    return candidates


def _batch(request: Request, facts: Mapping[str, Any]) -> list[Change]:
    batch = current = _batch_per_device(facts)
    candidates = []
    while batch > 1:
        batch //= 2
        changed = dataclasses.replace(request, batch_per_device=batch)
        flag = f"--batch-per-device {batch}"
        candidates.append(Change(flag, changed, _with_share(facts, batch / current)))
    return candidates


def _batch_per_device(facts: Mapping[str, Any]) -> int:
    return facts["batch_size"] // row_shares(facts)


def _with_share(facts: Mapping[str, Any], share: float) -> float:
    """The estimated peak with this share of the samples at a time."""
    split_state, replicated, temporary = _sizes(facts)
    # gradients of the trained weights are there whatever the batch
    fixed = min(facts["roles"].get("params", 0), temporary)
    return split_state + replicated + fixed + (temporary - fixed) * share


def larger(topology: str) -> str:
    """A hint where no change fits."""
    kind = re.sub(r"^\d+\*|:.*$", "", topology)
    return f"a larger slice of {kind}, or a chip with more memory"
