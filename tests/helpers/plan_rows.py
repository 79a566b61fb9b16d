"""What a row of `gendr plan --json` has to name, and an answer of the compiler."""

from gendr_jax.plan.chips import TPUS

GIB = 2**30
V5E = TPUS["v5e"]

CONTRACT = """topology mesh devices batch_per_device fits peak_bytes hbm_bytes
argument_bytes temp_bytes flops hbm_traffic_bytes collectives roofline_s step_s
mfu_bound images_per_s""".split()


def collective(kind, size, group, *, axes=("fsdp",), slices=1):
    one = {"kind": kind, "axes": list(axes), "group": group, "slices": slices}
    return one | {"dtype": "bf16", "count": 1, "bytes": size}


def phase(name, flops, moved, sent=()):
    return {
        "name": name,
        "flops": flops,
        "hbm_traffic_bytes": moved,
        "collectives_by_axis": list(sent),
    }


def facts(**changes):
    """A step of two programs on 16 chips, the first bound by memory, then compute."""
    phases = [
        phase("a", 0.5 * V5E.flops, 1.0 * V5E.hbm_bandwidth),
        phase("b", 2.0 * V5E.flops, 0.1 * V5E.hbm_bandwidth),
    ]
    found = {
        "devices": 16,
        "chips": 16,
        "device_kind": "TPU v5 lite",
        "mesh_axes": {"dcn": 1, "data": 4, "fsdp_outer": 1, "fsdp": 4, "space": 1},
        "batch_size": 32,
        "fits": True,
        "roles": {"params": 2 * GIB, "optimizer": 4 * GIB, "ema": 2 * GIB}
        | {"frozen": GIB, "batch": 1024, "host": 0, "replicated": 0},
        "argument_bytes": 9 * GIB,
        "temp_bytes": 3 * GIB,
        "peak_bytes": 12 * GIB,
        "flops": sum(p["flops"] for p in phases),
        "flops_model": 1.5 * V5E.flops,
        "hbm_traffic_bytes": sum(p["hbm_traffic_bytes"] for p in phases),
        "collectives": {"all-gather": {"count": 3, "bytes": 5e9}},
        "collectives_by_axis": [],
        "phases": phases,
    }
    return found | changes
