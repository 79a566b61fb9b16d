"""Sharding: meshes, the rules that map arrays to mesh axes, gathering of weights."""

from gendr_jax.sharding.gather import gather, place, split_rows
from gendr_jax.sharding.mesh import (
    AXES,
    BATCH_AXES,
    DATA,
    DCN,
    FSDP,
    MODEL,
    SPACE,
    batch_sharding,
    data_share,
    make_mesh,
    mesh_sizes,
    replicated,
    row_shards,
)
from gendr_jax.sharding.report import Report, RoleBytes, report
from gendr_jax.sharding.rules import (
    MIN_SHARDED_SIZE,
    RULES,
    TENSOR_RULES,
    Placement,
    Rules,
    check_rules,
    path_name,
    tree_shardings,
)

__all__ = [
    "AXES",
    "BATCH_AXES",
    "DATA",
    "DCN",
    "FSDP",
    "MIN_SHARDED_SIZE",
    "MODEL",
    "RULES",
    "SPACE",
    "TENSOR_RULES",
    "Placement",
    "Report",
    "RoleBytes",
    "Rules",
    "batch_sharding",
    "check_rules",
    "data_share",
    "gather",
    "make_mesh",
    "mesh_sizes",
    "path_name",
    "place",
    "replicated",
    "report",
    "row_shards",
    "split_rows",
    "tree_shardings",
]
