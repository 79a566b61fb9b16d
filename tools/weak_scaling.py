"""Weak scaling by `gendr plan`: one configuration on more and more chips.

    python -m tools.weak_scaling --config configs/tiny_distill.py --chips 8,64,512
    python -m tools.weak_scaling --config configs/distill.py --kind v5p \\
        --chips 64,512,4096 --fsdp 8 --batch 8 --jobs 2          # hours, 10 GB a job

Every step is compiled by the TPU's own compiler (pip install 'gendr_jax[plan]') for a
slice of each size, weights over `fsdp` chips, the batch over all. Prints a table: where
nothing but the network grows, state, operations and compile time do not depend on the
number of chips. Flags that begin with --config. change the configuration.
"""

import json
import sys
from typing import Any

from absl import flags

from gendr_jax.cli import configs
from gendr_jax.cli.common import cache_folder
from gendr_jax.errors import GendrError
from gendr_jax.plan import possible, sweep, topologies
from gendr_jax.plan.request import Request

STATE = ("params", "optimizer", "ema", "frozen")
HEADS = ("chips", "topology", "mesh", "batch", "state MB", "peak MB", "GFLOP", "HBM GB")
HEADS += ("all-gather MB", "all-reduce MB", "others MB", "step ms >=", "compile s")


def main(args: list[str]) -> int:
    """The table or this help; 1: a size did not compile or fit, 2: wrong usage."""
    if {"-h", "--help"} & set(args):
        print(__doc__)
        return 0
    try:
        return compile_all(args)
    except GendrError as error:
        print(f"weak_scaling: error: {error}", file=sys.stderr)
        return 2


def compile_all(args: list[str]) -> int:
    """Print the table; 1 where a size was refused by the compiler or did not fit."""
    values, config = configs.parse(args, _define)
    base = Request(
        config=json.loads(config.to_json()),
        topology="",
        mesh="",
        batch_per_device=values.batch,
        effort=values.effort,
    )
    sizes = [int(count) for count in values.chips.split(",")]
    topology_names = [_topology_name(values.kind, chips) for chips in sizes]
    requests = []
    for topology_name in topology_names:
        requests += sweep.requests(
            base, [topology_name], [f"data=-1,fsdp={values.fsdp}"], [values.batch]
        )
    for request in requests:
        topologies.check_compiler(topologies.parse(request.topology))
    options = sweep.Options(
        folder=cache_folder("plan"),
        jobs=values.jobs,
        refuse=possible.require,
        log=lambda line: print(line, file=sys.stderr, flush=True),
    )
    _line(HEADS)
    _line(["---:"] * len(HEADS))
    failed = False
    for row in sweep.run(requests, 20e6, options):
        failed |= not row.get("fits")
        _line(_table_row(row))
    return int(failed)


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("chips", "8,64,512", "", flag_values=values)
    flags.DEFINE_enum("kind", "v5p", list(topologies.TPUS), "", flag_values=values)
    flags.DEFINE_integer("fsdp", 4, "", flag_values=values, lower_bound=1)
    flags.DEFINE_integer("batch", 1, "", flag_values=values, lower_bound=1)
    flags.DEFINE_integer("jobs", 1, "", flag_values=values, lower_bound=1)
    flags.DEFINE_enum("effort", "low", ("low", "full"), "", flag_values=values)


def _topology_name(kind: str, chips: int) -> str:
    """A slice of so many chips; of v5e and v6e, above 256, several slices."""
    pods = -(-chips // 256) if kind in topologies.CHIPS_2D else 1
    if chips % pods:
        return f"{kind}-{chips}"  # refused, with the sizes there are
    return (f"{pods}*" if pods > 1 else "") + f"{kind}-{chips // pods}"


def _table_row(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["topology"], row["error"]]
    roles, sent = row["roles"], row["collectives"] or {}
    known = ("all-gather", "all-reduce")
    moved = [sent.get(kind, {}).get("bytes", 0) for kind in known]
    others = sum(r["bytes"] for kind, r in sent.items() if kind not in known)
    return [
        str(row["chips"]),
        row["topology"],
        f"`{row['mesh']}`",
        str(row["batch_size"]),
        f"{sum(roles[name] for name in STATE) / 1e6:.2f}",
        f"{row['peak_bytes'] / 1e6:.1f}",
        f"{row['flops'] / 1e9:.2f}",
        f"{row['hbm_traffic_bytes'] / 1e9:.3f}",
        *(f"{size / 1e6:.2f}" for size in (*moved, others)),
        f"{1e3 * row['step_s']:.2f}",
        f"{row['compile_s']:.0f}",
    ]


def _line(cells: Any) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
