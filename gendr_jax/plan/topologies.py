"""Topologies by name: `v5e:16x16`, `2*v5p:4x4x4`, `v5e-256`, `cpu:8`, `gpu`.

No jax at import, so that the command line can check names at once.
"""

import importlib.util
import math
import os
import re
from dataclasses import dataclass
from typing import Any

from gendr_jax.errors import UsageError
from gendr_jax.plan.chips import TPUS

MAX_DEVICES = 4096
CHIPS_2D, CHIPS_3D = ("v5e", "v6e"), ("v4", "v5p", "tpu7x")
# What a count of chips stands for: v5e-16 is v5e:4x4, v5p-64 is v5p:4x4x4.
SHAPES_2D = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SHAPES_3D = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
SHAPES_3D += ("8x8x8", "8x8x16", "8x16x16", "16x16x16")

# Without these libtpu queries the cloud's metadata server, and two processes that
# compile at once lock each other out.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
}
SYNTAX = (
    "Write it as v5e:16x16, v5p:4x4x4, 2*v5e:16x16 (two slices), v5e-256, cpu:8 or gpu"
)


@dataclass(frozen=True)
class Topology:
    """A set of devices; `kind` is a chip of `chips.TPUS`, or "cpu" or "gpu".

    `shape` is in chips, of one slice; (n,) for n devices of a CPU or GPU, () for those
    that are present.
    """

    kind: str
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def is_tpu(self) -> bool:
        return self.kind in TPUS

    @property
    def chips(self) -> int:
        return math.prod(self.shape) * self.slices

    @property
    def num_devices(self) -> int | None:
        """JAX devices; None for those present, which only JAX can count."""
        if not self.is_tpu:
            return self.shape[0] if self.shape else None
        return self.chips * TPUS[self.kind].devices_per_chip

    def __str__(self) -> str:
        slices = f"{self.slices}*" if self.slices > 1 else ""
        size = "x".join(map(str, self.shape))
        return slices + self.kind + (f":{size}" if size else "")


def parse(text: str) -> Topology:
    """The topology that a name describes.

    `KIND:AxB[xC]` is a slice of so many chips, `N*KIND:...` so many slices, `KIND-N`
    the usual slice of N chips (chips, where Google's accelerator types v4-N and v5p-N
    count cores). `cpu` and `gpu` are the devices present, `cpu:N` a host split in N.

    Raises:
        UsageError: no such chip or shape, or too many devices.
    """
    match = re.fullmatch(r"(?:(\d+)\*)?([a-z]\w*)(?:([:-])([\dx]+))?", text.strip())
    if not match:
        raise UsageError(f"topology {text!r} cannot be read. {SYNTAX}.")
    slices, kind = int(match[1] or 1), match[2]
    if kind in ("cpu", "gpu"):
        return _local(text, kind, match)
    if kind not in TPUS:
        raise UsageError(
            f"topology {text!r} names the chip {kind!r}, known are "
            f"{', '.join(TPUS)}, cpu and gpu. {SYNTAX}."
        )
    if not match[4] or slices < 1:
        raise UsageError(f"topology {text!r} has no size. {SYNTAX}.")
    shape = (
        _shape_of_count(text, kind, match[4])
        if match[3] == "-"
        else _shape(text, match[4])
    )
    dims = 2 if kind in CHIPS_2D else 3
    if len(shape) != dims or min(shape) < 1 or (dims == 2 and max(shape) > 16):
        limit = ", at most 16x16" if dims == 2 else ""
        raise UsageError(
            f"topology {text!r} has the shape {match[4]}, a slice of {kind} has {dims} "
            f"axes{limit}. {SYNTAX}."
        )
    topology = Topology(kind, shape, slices)
    devices = topology.num_devices
    assert devices is not None  # of a TPU with a size
    if devices > MAX_DEVICES:
        raise UsageError(
            f"topology {text!r} has {devices} devices, the most is "
            f"{MAX_DEVICES}. Take a smaller one; bytes per device change little."
        )
    return topology


def _local(text: str, kind: str, match: re.Match) -> Topology:
    count = match[4] or ""
    if match[1] or match[3] == "-" or not re.fullmatch(r"([1-9]\d*)?", count):
        raise UsageError(f"topology {text!r} cannot be read. {SYNTAX}.")
    return Topology(kind, (int(count),) if count else ())


def _shape(text: str, size: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(x\d+){1,2}", size):
        raise UsageError(f"topology {text!r} has the shape {size!r}. {SYNTAX}.")
    return tuple(int(n) for n in size.split("x"))


def _shape_of_count(text: str, kind: str, size: str) -> tuple[int, ...]:
    shapes = SHAPES_2D if kind in CHIPS_2D else SHAPES_3D
    by_chips = {math.prod(map(int, s.split("x"))): s for s in shapes}
    if not size.isdigit() or int(size) not in by_chips:
        raise UsageError(
            f"topology {text!r} is none of the usual slices of {kind}, which have "
            f"{', '.join(map(str, by_chips))} chips. Give its shape, as {kind}:"
            f"{shapes[2]}."
        )
    return tuple(int(n) for n in by_chips[int(size)].split("x"))


def check_compiler(topology: Topology) -> None:
    """Refuse a TPU topology where there is no TPU compiler.

    Raises:
        UsageError: libtpu is not installed.
    """
    if topology.is_tpu and importlib.util.find_spec("libtpu") is None:
        raise UsageError(
            f"topology {topology} needs the TPU compiler, libtpu is not installed. "
            "pip install 'gendr_jax[plan]' (no TPU is needed)."
        )


def environment(topology: Topology) -> dict[str, str]:
    """Environment variables of a process that compiles; set before jax is imported."""
    if topology.is_tpu:
        return dict(ENVIRONMENT)
    if topology.kind == "gpu":
        # Compiling needs no memory of the card.
        return {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    count = {"JAX_NUM_CPU_DEVICES": str(topology.shape[0])} if topology.shape else {}
    return {"JAX_PLATFORMS": "cpu"} | count


def devices(topology: Topology) -> list[Any]:
    """The devices, in the order that `sharding.make_mesh` expects.

    Those of a TPU are compile-only descriptions; `environment` must have been set.

    Raises:
        UsageError: fewer devices are present, or the compiler knows no such slice.
    """
    import jax
    from jax.experimental import topologies

    if not topology.is_tpu:
        local = jax.devices(topology.kind)
        wanted = topology.num_devices or len(local)
        if wanted > len(local):
            raise UsageError(
                f"topology {topology} needs {wanted} devices, {len(local)} are "
                "present. Name fewer."
            )
        return local[:wanted]
    options: dict[str, Any] = {"num_slices": topology.slices}
    if topology.kind == "v4":
        options["chip_config_name"] = "megacore"
    if topology.chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    size = "x".join(map(str, topology.shape))
    try:
        machine = topologies.get_topology_desc(
            f"{topology.kind}:{size}", platform="tpu", **options
        )
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"the TPU compiler refuses topology {topology} ({reason}). {SYNTAX}."
        ) from error
    return list(machine.devices)


def set_environment(topology: Topology) -> None:
    """Set `environment` for this process; before jax is imported."""
    os.environ.update(environment(topology))
