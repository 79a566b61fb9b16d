"""What tools/bench_degrade.py compiles: the degradation for a TPU that is not there."""

import functools
import os
import re
import time

import jax
import jax.numpy as jnp
import numpy as np

from gendr_jax.data.degrade import chain, degrade, draws, recipe

SIDE, RECIPE, KIND = 512, recipe(), jax.random.key(0).dtype
# v5e: bfloat16 operations and bytes a second; float32 products take six passes
PEAK, PASSES, MEMORY = 197e12, 6, 819e9
# without these libtpu looks for a machine
ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
ENVIRONMENT |= {"TPU_ACCELERATOR_TYPE": "v5litepod-4"}
ENVIRONMENT |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
LOW_EFFORT = {"exec_time_optimization_effort": -1.0}


def tpu(topology: str):
    """The compiler's figures: of the program, and of each canvas with its share.

    It counts the most expensive branch of a program, hence the canvases one by one.
    """
    os.environ.update(ENVIRONMENT)
    from jax.experimental import topologies

    one = {"chips_per_host_bounds": (1, 1, 1)} if topology.endswith(":1x1") else {}
    machine = topologies.get_topology_desc(topology, platform="tpu", **one)
    place = jax.sharding.SingleDeviceSharding(machine.devices[0])
    spec = functools.partial(jax.ShapeDtypeStruct, sharding=place)

    def figures(f, batch: int) -> dict[str, float]:
        inputs = spec((batch,), KIND), spec((batch, SIDE, SIDE, 3), jnp.float32)
        lowered = jax.jit(f).trace(*inputs).lower(lowering_platforms=("tpu",))
        wall, cpu = time.perf_counter(), time.process_time()
        compiled = lowered.compile(compiler_options=LOW_EFFORT)
        cost, text = compiled.cost_analysis(), compiled.as_text()
        flops, moved = cost["flops"], cost["bytes accessed"]
        return {"flops": flops, "bytes": moved, "seconds": cost["optimal_seconds"],
                "roofline_seconds": max(flops * PASSES / PEAK, moved / MEMORY),
                "gathers": len(re.findall(r"= \S+ gather\(", text)),
                "compile_seconds": round(time.perf_counter() - wall, 1),
                "compile_cpu_seconds": round(time.process_time() - cpu, 1)}  # fmt: skip

    yield {"name": "degrade, batch 4"} | figures(lambda k, x: degrade(k, x, RECIPE), 4)
    keys = jax.random.split(jax.random.key(0), 20000)
    factors = jax.jit(jax.vmap(lambda k: draws.sample(k, RECIPE).first.factor))(keys)
    ladder = chain.ladder(RECIPE, (SIDE, SIDE), chain.TPU_STEPS)
    rung = np.searchsorted([c[0] for c in ladder], np.floor(np.asarray(factors) * SIDE))
    mean = dict.fromkeys(("seconds", "roofline_seconds"), 0.0)
    for k, canvas in enumerate(ladder):
        chain.ladder, share = lambda *_, only=canvas: (only,), np.mean(rung == k)
        # a new function each time, or jax remembers the one before
        one = functools.partial(chain._degrade_one, recipe=RECIPE, scale=4)
        size = jnp.asarray([SIDE, SIDE])
        found = figures(lambda k, x, f=one, n=size: f(k[0], x[0], n), 1)
        yield {"name": f"canvas {canvas[0]}", "share": round(share, 3)} | found
        mean = {n: total + share * found[n] for n, total in mean.items()}
    rates = {n.replace("seconds", "pairs_a_second"): 1 / v for n, v in mean.items()}
    yield {"name": "by the law"} | {n: round(v) for n, v in rates.items()}
