"""What to plan: one program on one topology, as JSON that crosses a process border."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Program = Literal["train", "restore"]
Effort = Literal["low", "full"]


@dataclasses.dataclass(frozen=True)
class Request:
    """One program on one topology; a row of the table.

    Attributes:
        config: of the stage, as JSON values.
        topology: `str()` of a `topologies.Topology`.
        mesh: as in `config.mesh`.
        batch_per_device: samples of a device that holds a share of the batch (devices
            along `space` and `model` share theirs); None takes config.batch_size.
        program: the training step, or the restoring pass.
        size: (height, width) of the restoring pass's output in pixels, or its side.
        effort: of the compiler.
        phase: the number of one program of a step that has several; None is all.
    """

    config: Mapping[str, Any]
    topology: str
    mesh: str
    batch_per_device: int | None = None
    program: Program = "train"
    size: int | tuple[int, int] = 512
    effort: Effort = "low"
    phase: int | None = None

    def to_json(self) -> str:
        """One line of JSON with sorted keys; equal requests give equal text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def from_json(text: str) -> Request:
    """The inverse of `Request.to_json`."""
    values = json.loads(text)
    if isinstance(values["size"], list):
        values["size"] = tuple(values["size"])
    return Request(**values)


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a picture's size, which may be the side of a square."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


def sizes(axes: Mapping[str, int]) -> dict[str, int]:
    """Axis sizes of a mesh by the names of `config.mesh` (`fsdp_outer` is `fsdp`)."""
    by_name: dict[str, int] = {}
    for name, size in axes.items():
        name = name.removesuffix("_outer")  # two mesh axes share one name
        by_name[name] = by_name.get(name, 1) * size
    return by_name


def row_shares(facts: Mapping[str, Any]) -> int:
    """Over how many shares the batch of a measured program is split."""
    axes = facts["mesh_axes"]
    return facts["devices"] // (axes.get("space", 1) * axes.get("model", 1))


def mesh_text(axes: Mapping[str, int]) -> str:
    """`config.mesh` of a mesh with these axes."""
    entries = [f"{name}={size}" for name, size in sizes(axes).items() if size > 1]
    return ",".join(entries) or "data=1"
