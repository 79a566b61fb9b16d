"""Check a request before compiling: mesh, batch and settings against the topology."""

from collections.abc import Mapping
from typing import Any, cast

from jax.sharding import AbstractMesh, AxisType, Mesh

from gendr_jax import sharding
from gendr_jax.plan import programs, topologies
from gendr_jax.plan.request import Request
from gendr_jax.train.stages import build


def require(request: Request) -> None:
    """Refuse a mesh, a batch or settings that do not fit the topology or each other.

    Devices that are present (`gpu`, `cpu` without a count) are counted when they are
    used, not here.

    Raises:
        UsageError: with the two numbers that do not fit.
    """
    topology = topologies.parse(request.topology)
    count = topology.num_devices
    if count is None:
        return
    sizes = sharding.mesh_sizes(request.mesh, count, topology.slices)
    axes = (AxisType.Auto,) * len(sizes)
    # The checks read names and sizes of its axes, no devices.
    abstract = AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=axes)
    mesh = cast(Mesh, abstract)
    config: Mapping[str, Any] = dict(request.config) | {
        "batch_size": programs.batch_size(request, mesh)
    }
    settings = build.read_settings(config, mesh)
    if request.program == "restore":
        programs.check_restore(settings, request.size, mesh)
    else:
        sharding.check_rules(settings.sharding.rules)
