"""What tools/bench_degrade.py runs on a CPU: the degradation, whole and by stage."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from gendr_jax.data.degrade import (
    blur,
    degrade,
    draws,
    jpeg,
    noise,
    recipe,
    resize,
    sample_keys,
)

SIDE, RECIPE = 512, recipe()


def crops(folder: Path, count: int) -> np.ndarray:
    """[count, SIDE, SIDE, 3] uint8; small pictures are reflected, few are repeated."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix in (".jpg", ".png"))
    made = [np.asarray(Image.open(p).convert("RGB")) for p in paths[:count]]
    missing = [[(0, max(0, SIDE - n)) for n in x.shape[:2]] for x in made]
    made = [
        np.pad(x, [*more, (0, 0)], "symmetric")[:SIDE, :SIDE]
        for x, more in zip(made, missing, strict=True)
    ]
    return np.stack([made[k % len(made)] for k in range(count)])


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
    one, size = draws.sample(jax.random.key(3), RECIPE).first, jnp.asarray([SIDE, SIDE])
    key, half = jax.random.key(1), size // 2
    shot = one.noise._replace(is_gray=jnp.bool_(False), is_gaussian=jnp.bool_(False))
    bell = shot._replace(is_gaussian=jnp.bool_(True))
    hw = (SIDE // 2,) * 2
    for name, stage, *inputs in (
        ("blur", lambda x, k, n: blur.blur(x, k, tuple(n)), one.kernel, size),
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
