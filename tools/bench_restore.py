"""The full-size pass against PyTorch and diffusers, stage by stage, on a CPU.

    python tools/bench_restore.py [--size 512] [--rounds 5] [--stages unet,decoder]

Random weights, the same on both sides by our converter, float32, batch 1, in turn in
one process; prints medians of wall and processor seconds, and the relative error.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import diffusers
import jax
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gendr_jax import nets  # noqa: E402
from gendr_jax.models.unet import UNet, UNetConfig  # noqa: E402
from gendr_jax.models.vae import VAE, VAEConfig  # noqa: E402
from gendr_jax.weights import names  # noqa: E402
from tests.full_size_sources import SD21, VAE16  # noqa: E402

CONTEXT = np.zeros((1, 77, 1024), np.float32)
STAGES = {  # theirs(module, x), ours(bound, x), channels, pixels of a cell
    "encoder": (lambda m, x: m.encode(x).latent_dist.mean,
                lambda m, x: m.encode(x)[0], 3, 1),
    "unet": (lambda m, x: m(x, 249, torch.tensor(CONTEXT)).sample,
             lambda m, x: m(x, np.array([249]), CONTEXT)[0], 16, 8),
    "decoder": (lambda m, x: m.decode(x).sample, lambda m, x: m.decode(x), 16, 8),
}  # fmt: skip


def timed(function, *args) -> tuple[float, float]:
    """(wall, processor) seconds of one run."""
    wall, processor = time.perf_counter(), time.process_time()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - wall, time.process_time() - processor


def measure(stage: str, size: int, rounds: int) -> dict[str, object]:
    """One stage on both sides; of each pair of figures ours comes first."""
    theirs, ours, channels, cell = STAGES[stage]
    if stage == "unet":
        module, net = (
            diffusers.UNet2DConditionModel(**SD21),
            nets.build(UNet, UNetConfig()),
        )
    else:
        module, net = diffusers.AutoencoderKL(**VAE16), nets.build(VAE, VAEConfig())
    params = jax.device_put(names.from_torch(module.eval().state_dict()))
    x = np.random.default_rng(0).standard_normal(
        (1, size // cell, size // cell, channels), np.float32)  # fmt: skip
    x_bchw = torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, 1)))
    program = jax.jit(lambda p, x: ours(net.bind(p), x)).lower(params, x).compile()
    with torch.no_grad():
        y = np.moveaxis(theirs(module, x_bchw).numpy(), 1, -1)
        error = np.abs(program(params, x) - y).max() / np.abs(y).max()
        pairs = [(timed(program, params, x), timed(theirs, module, x_bchw))
                 for _ in range(rounds)]  # fmt: skip
    (a, b), (c, d) = (
        [round(statistics.median(pair[side][k] for pair in pairs), 2) for k in (0, 1)]
        for side in (0, 1)
    )
    return {"stage": stage, "wall": [a, c], "processor": [b, d], "error": float(error)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stages", default=",".join(STAGES))
    options = parser.parse_args()
    for name in options.stages.split(","):
        print(measure(name, options.size, options.rounds), flush=True)
