"""A request: one program for one machine. Plain data, on both sides of a process."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

Program = Literal["train", "restore"]
Effort = Literal["low", "full"]


@dataclasses.dataclass(frozen=True)
class Request:
    """One cell of a table.

    Attributes:
        config: of the stage, as JSON values.
        topology: `str()` of a `topologies.Topology`.
        mesh: as in `config.mesh`.
        batch_per_device: samples of a device that holds a share of the batch (devices
            along `space` and `model` share theirs); None takes config.batch_size.
        program: the training step, or the restoring pass.
        size: side of the restoring pass's output in pixels.
        effort: of the compiler.
        phase: the number of one program of a step that has several; None is all.
    """

    config: Mapping[str, Any]
    topology: str
    mesh: str
    batch_per_device: int | None = None
    program: Program = "train"
    size: int = 512
    effort: Effort = "low"
    phase: int | None = None

    def to_json(self) -> str:
        """One line, the same for the same question."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def from_json(text: str) -> Request:
    """The inverse of `Request.to_json`."""
    return Request(**json.loads(text))


def sizes(axes: Mapping[str, int]) -> dict[str, int]:
    """Sizes of a mesh's axes under the names that `config.mesh` has for them."""
    found: dict[str, int] = {}
    for name, size in axes.items():
        name = name.removesuffix("_outer")  # two mesh axes share one name
        found[name] = found.get(name, 1) * size
    return found


def row_shares(facts: Mapping[str, Any]) -> int:
    """Over how many shares the batch of a measured program is split."""
    axes = facts["mesh_axes"]
    return facts["devices"] // (axes.get("space", 1) * axes.get("model", 1))


def mesh_text(axes: Mapping[str, int]) -> str:
    """`config.mesh` of a mesh with these axes."""
    parts = [f"{name}={size}" for name, size in sizes(axes).items() if size > 1]
    return ",".join(parts) or "data=1"
