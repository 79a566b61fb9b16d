"""Benchmark the degradation: pairs (512 to 128 pixels) a second of one core's CPU time.

    python -m tools.bench_degrade PHOTOS [--torch-reference FILES]
    python -m tools.bench_degrade --tpu v5e:1x1

PHOTOS: a folder of pictures. FILES: see tools/degrade_reference.py; OpenCV is
measured too. --tpu needs libtpu; its figures are the compiler's. Prints lines
of JSON.
"""

import argparse
import functools
import json
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from gendr_jax.data.degrade import (
    blur,
    chain,
    degrade,
    draws,
    jpeg,
    noise,
    recipe,
    resize,
    sample_keys,
)

SIDE, RECIPE = 512, recipe()
# v5e: bfloat16 operations and bytes a second; float32 products take six passes
PEAK, PASSES, MEMORY = 197e12, 6, 819e9
# without these libtpu queries the cloud's metadata server
ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
ENVIRONMENT |= {"TPU_ACCELERATOR_TYPE": "v5litepod-4"}
ENVIRONMENT |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
LOW_EFFORT = {"exec_time_optimization_effort": -1.0}


def print_json(**entries: object) -> None:
    print(json.dumps(entries), flush=True)


def clock(name: str, make, pairs: int, size: int = 1) -> None:
    """make(k) does the k-th call, of `size` pairs; the first one compiles."""
    make(-1)
    begun = time.process_time()
    for k in range(pairs // size):
        make(k)
    seconds = (time.process_time() - begun) / (pairs // size * size)
    print_json(name=name, ms=round(seconds * 1e3, 2), per_second=round(1 / seconds, 1))


def measure(photos: Path, files: Path | None, pairs: int) -> None:
    hq = crops(photos, 32)
    for name, run in stages(hq[0]):
        clock(name, run, 12)
    for size in (1, 4, 12, 32):
        clock(f"degrade, batch {size}", batches(hq, size), pairs, size)
    if files is None:
        return
    import torch

    from tools import degrade_reference

    torch.set_num_threads(1)
    reference = degrade_reference.Reference(files)
    rng, noise = random.Random(0), np.random.default_rng(0)
    p = [degrade_reference.draw(rng) for _ in range(pairs)]
    clock("torch reference", lambda k: reference.apply(hq[k % 32], p[k]), pairs // 2)
    import cv2

    from tools import degrade_opencv

    cv2.setNumThreads(1)
    run = lambda k: degrade_opencv.degrade(reference, noise, hq[k % 32], p[k])  # noqa: E731
    clock("OpenCV", run, pairs)


# On a CPU: the degradation, complete and by stage


def crops(folder: Path, count: int) -> np.ndarray:
    """[count, SIDE, SIDE, 3] uint8; small pictures are reflected, few are repeated."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix in (".jpg", ".png"))
    pictures = [np.asarray(Image.open(p).convert("RGB")) for p in paths[:count]]
    missing = [[(0, max(0, SIDE - n)) for n in x.shape[:2]] for x in pictures]
    pictures = [
        np.pad(x, [*padding, (0, 0)], "symmetric")[:SIDE, :SIDE]
        for x, padding in zip(pictures, missing, strict=True)
    ]
    return np.stack([pictures[k % len(pictures)] for k in range(count)])


def batches(hq: np.ndarray, size: int):
    """k -> the k-th batch, degraded."""
    x = jnp.asarray(hq[:size], jnp.float32) / 255

    def run(k: int) -> None:
        index = jnp.arange(size, dtype=jnp.uint32) + np.uint32(max(k, 0) * size)
        degrade(sample_keys(jax.random.key(0), index), x, RECIPE).block_until_ready()

    return run


def stages(hq: np.ndarray):
    """(name, call) of each stage on a picture of SIDE, compiled on its own."""
    x = jnp.moveaxis(jnp.asarray(hq, jnp.float32) / 255, -1, 0)
    first_order, size = (
        draws.sample(jax.random.key(3), RECIPE).first,
        jnp.asarray([SIDE, SIDE]),
    )
    key, half = jax.random.key(1), size // 2
    shot = first_order.noise._replace(
        is_gray=jnp.bool_(False), is_gaussian=jnp.bool_(False)
    )
    bell = shot._replace(is_gaussian=jnp.bool_(True))
    hw = (SIDE // 2,) * 2
    for name, stage, *inputs in (
        ("blur", lambda x, k, n: blur.blur(x, k, tuple(n)), first_order.kernel, size),
        (
            "halve",
            lambda x, n, m: resize.resize(x, 2, tuple(n), tuple(m), hw),
            size,
            half,
        ),
        ("shot noise", lambda x, k, d, n: noise.add_noise(x, k, d, n), key, shot, size),
        (
            "Gaussian noise",
            lambda x, k, d, n: noise.add_noise(x, k, d, n),
            key,
            bell,
            size,
        ),
        ("JPEG", lambda x, q, n: jpeg.jpeg(x, q, tuple(n)), jnp.float32(60), size),
    ):
        jitted = functools.partial(jax.jit(stage), x, *inputs)
        yield f"stage: {name}", lambda k, f=jitted: f().block_until_ready()


# For a TPU, by its compiler alone


def tpu(topology: str) -> Iterator[dict[str, object]]:
    """The compiler's figures: of the program, and of each canvas with its share.

    It counts the most expensive branch of a program, hence the canvases one by one.
    """
    os.environ.update(ENVIRONMENT)
    from jax.experimental import topologies

    options = {"chips_per_host_bounds": (1, 1, 1)} if topology.endswith(":1x1") else {}
    machine = topologies.get_topology_desc(topology, platform="tpu", **options)
    sharding = jax.sharding.SingleDeviceSharding(machine.devices[0])
    spec = functools.partial(jax.ShapeDtypeStruct, sharding=sharding)

    def figures(f, batch: int) -> dict[str, float]:
        keys = spec((batch,), jax.random.key(0).dtype)
        inputs = keys, spec((batch, SIDE, SIDE, 3), jnp.float32)
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
        options = functools.partial(chain._degrade_one, recipe=RECIPE, scale=4)
        size = jnp.asarray([SIDE, SIDE])
        costs = figures(lambda k, x, f=options, n=size: f(k[0], x[0], n), 1)
        yield {"name": f"canvas {canvas[0]}", "share": round(share, 3)} | costs
        mean = {n: total + share * costs[n] for n, total in mean.items()}
    rates = {n.replace("seconds", "pairs_a_second"): 1 / v for n, v in mean.items()}
    yield {"name": "by the law"} | {n: round(v) for n, v in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--torch-reference", type=Path)
    parser.add_argument("--pairs", type=int, default=96)
    parser.add_argument("--tpu", metavar="TOPOLOGY", help="for example v5e:1x1")
    flags = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    if flags.tpu:
        for line in tpu(flags.tpu):
            print_json(**line)
    elif flags.photos is None:
        parser.error("give a folder of PHOTOS, or --tpu v5e:1x1")
    else:
        # before jax makes its threads
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        measure(flags.photos, flags.torch_reference, flags.pairs)


if __name__ == "__main__":
    main()
