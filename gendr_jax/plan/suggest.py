"""What to change so that a program fits: candidates, each with an estimate.

An estimate scales the state with the parts of `fsdp` and the temporary memory with the
batch; gathered weights do not shrink, hence an estimate can be too low, and a
compilation decides.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from gendr_jax.plan.request import Request, mesh_text, row_shares, sizes


@dataclasses.dataclass(frozen=True)
class Change:
    """A change, in words for the command line, and the peak it may lead to."""

    words: str
    request: Request
    estimate: float | None


def changes(request: Request, facts: Mapping[str, Any], hbm: int) -> list[Change]:
    """Changes that may fit, the least first.

    Order: more parts of `fsdp`, the batch in parts, recomputation (the same mathematics
    all three), then a smaller batch. A candidate whose estimate does not fit is left
    out.
    """
    found = [*_fsdp(request, facts), *_accumulate(request, facts)]
    found += [*_remat(request), *_batch(request, facts)]
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
    axes = sizes(facts["mesh_axes"])
    split, rest, temporary = _sizes(facts)
    found = []
    factor = 2
    while axes.get("data", 1) % factor == 0:
        moved = {"data": axes["data"] // factor, "fsdp": axes["fsdp"] * factor}
        mesh = mesh_text(axes | moved)
        estimate = split / factor + rest + temporary
        changed = dataclasses.replace(request, mesh=mesh)
        found.append(Change(f"--mesh {mesh}", changed, estimate))
        factor *= 2
    return found


def _remat(request: Request) -> list[Change]:
    if request.program != "train" or request.config.get("remat") == "block":
        return []
    config = dict(request.config) | {"remat": "block"}
    changed = dataclasses.replace(request, config=config)
    return [Change("--config.remat=block", changed, None)]


def _accumulate(request: Request, facts: Mapping[str, Any]) -> list[Change]:
    """The same batch in parts, one after the other."""
    if request.program != "train":
        return []
    found, parts = [], int(request.config.get("accumulate", 1))
    batch, now = _batch_per_device(facts), parts
    while batch % (2 * parts) == 0:
        parts *= 2
        config = dict(request.config) | {"accumulate": parts}
        changed = dataclasses.replace(request, config=config)
        words = f"--config.accumulate={parts}"
        found.append(Change(words, changed, _with_share(facts, now / parts)))
    return found


def _batch(request: Request, facts: Mapping[str, Any]) -> list[Change]:
    batch = whole = _batch_per_device(facts)
    found = []
    while batch > 1:
        batch //= 2
        changed = dataclasses.replace(request, batch_per_device=batch)
        words = f"--batch-per-device {batch}"
        found.append(Change(words, changed, _with_share(facts, batch / whole)))
    return found


def _batch_per_device(facts: Mapping[str, Any]) -> int:
    return facts["batch_size"] // row_shares(facts)


def _with_share(facts: Mapping[str, Any], share: float) -> float:
    """The peak with a share of the samples at a time."""
    split, rest, temporary = _sizes(facts)
    # gradients of the trained weights are there whatever the batch
    fixed = min(facts["roles"].get("params", 0), temporary)
    return split + rest + fixed + (temporary - fixed) * share


def larger(topology: str) -> str:
    """A hint where no change fits."""
    kind = re.sub(r"^\d+\*|:.*$", "", topology)
    return f"a larger slice of {kind}, or a chip with more memory"
