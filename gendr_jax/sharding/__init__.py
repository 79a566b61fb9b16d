"""Where arrays live: meshes, the rules that place weights, the gather helper."""

from gendr_jax.sharding.gather import gather, place, split_rows
from gendr_jax.sharding.mesh import (
    AXES,
    BATCH_AXES,
    DATA,
    DCN,
    FSDP,
    SPACE,
    batch_sharding,
    data_share,
    make_mesh,
    replicated,
    row_shards,
)
from gendr_jax.sharding.report import Part, Report, report
from gendr_jax.sharding.rules import (
    MIN_SHARDED_SIZE,
    RULES,
    Placement,
    Rules,
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
    "Part",
    "RULES",
    "SPACE",
    "Placement",
    "Report",
    "Rules",
    "batch_sharding",
    "data_share",
    "gather",
    "make_mesh",
    "path_name",
    "place",
    "replicated",
    "report",
    "row_shards",
    "split_rows",
    "tree_shardings",
]
