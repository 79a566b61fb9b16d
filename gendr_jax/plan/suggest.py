"""What to change so that a program fits: candidates, each with an estimate.

What lives here: arithmetic on one answer. What does not: compiling candidates
(`sweep.py` does, when asked). An estimate scales the state with the parts of `fsdp`
and the temporary memory with the batch; gathered weights do not shrink, hence an
estimate can be too low, and a compilation decides.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from gendr_jax.plan.request import Request


@dataclasses.dataclass(frozen=True)
class Change:
    """A change, in words for the command line, and the peak it may lead to."""

    words: str
    request: Request
    estimate: float | None


def changes(request: Request, facts: Mapping[str, Any], hbm: int) -> list[Change]:
    """Changes that may fit, the least first.

    Order: more parts of `fsdp` (same batch, same mathematics), recomputation, then a
    smaller batch. A candidate whose estimate does not fit is left out.
    """
    found = [*_fsdp(request, facts), *_remat(request), *_batch(request, facts)]
    return [c for c in found if c.estimate is None or c.estimate <= hbm]


def _sizes(facts: Mapping[str, Any]) -> tuple[float, float, float]:
    """(state split by fsdp, the rest of the arguments, temporary bytes)."""
    roles = facts["roles"]
    state = sum(roles.get(k, 0) for k in ("params", "optimizer", "ema", "frozen"))
    split = max(state - roles.get("replicated", 0), 0)
    held = facts.get("argument_bytes", state)
    return split, max(held - split, 0), max(facts["peak_bytes"] - held, 0)


def _fsdp(request: Request, facts: Mapping[str, Any]) -> list[Change]:
    if request.program != "train":
        return []
    axes = facts["mesh_axes"]
    split, rest, temporary = _sizes(facts)
    found = []
    factor = 2
    while axes.get("data", 1) % factor == 0:
        sizes = axes | {"data": axes["data"] // factor, "fsdp": axes["fsdp"] * factor}
        mesh = ",".join(f"{n}={s}" for n, s in sizes.items() if s > 1)
        estimate = split / factor + rest + temporary
        changed = dataclasses.replace(request, mesh=mesh)
        found.append(Change(f"--mesh {mesh}", changed, estimate))
        factor *= 2
    return found


def _remat(request: Request) -> list[Change]:
    if request.program != "train" or request.config.get("remat", "block") == "block":
        return []
    config = dict(request.config) | {"remat": "block"}
    changed = dataclasses.replace(request, config=config)
    return [Change("--config.remat=block", changed, None)]


def _batch(request: Request, facts: Mapping[str, Any]) -> list[Change]:
    shares = facts["devices"] // facts["mesh_axes"].get("space", 1)
    batch = facts["batch_size"] // shares
    split, rest, temporary = _sizes(facts)
    # gradients of the trained weights are there whatever the batch
    fixed = min(facts["roles"].get("params", 0), temporary)
    found = []
    while batch > 1:
        batch //= 2
        share = batch * shares / facts["batch_size"]
        estimate = split + rest + fixed + (temporary - fixed) * share
        changed = dataclasses.replace(request, batch_per_device=batch)
        found.append(Change(f"--batch-per-device {batch}", changed, estimate))
    return found


def larger(topology: str) -> str:
    """A hint where no change fits."""
    kind = re.sub(r"^\d+\*|:.*$", "", topology)
    return f"a larger slice of {kind}, or a chip with more memory"
