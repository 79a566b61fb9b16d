"""Benchmarks of the restoring pass: encoder, UNet, decoder, and all together."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gendr_jax import cpu_compiler, flops, nets
from gendr_jax.bench import other_programs, timing
from gendr_jax.bench.timing import Call, Seconds
from gendr_jax.nets import Params
from gendr_jax.plan import measure as compiler
from gendr_jax.restore import forward, memory
from gendr_jax.restore.forward import Recipe
from gendr_jax.restore.pipeline import Restorer

STAGES = ("encoder", "unet", "decoder", "pass")
PROMPT_TOKENS = 77
OURS = "gendr_jax"
Row = dict[str, Any]
# (stage, its input as a numpy array) -> a call that returns when its result is there,
# and that result as a numpy array
Peer = Callable[[str, np.ndarray], tuple[Call, Callable[[], np.ndarray]]]


def random_params(recipe: Recipe, seed: int = 0) -> Params:
    """Random host weights for `forward.make_pass`, with variance 1 / fan_in.

    All are slices of one pool of random numbers: full-size draws take a minute.
    """
    pool = np.random.default_rng(seed).standard_normal(1 << 20, np.float32)

    def draw(number: int, path: tuple[str, ...], leaf: Any) -> np.ndarray:
        values = np.resize(np.roll(pool, 7 * number), leaf.size).reshape(leaf.shape)
        if path[-1] in ("scale", "bias"):
            return values / 10 + (path[-1] == "scale")
        kernel = values / np.sqrt(leaf.size / leaf.shape[-1], dtype=np.float32)
        return kernel.astype(jnp.dtype(recipe.dtype))

    params = {}
    for name, net in forward.networks(recipe).items():
        flat = nets.flatten(net.abstract)
        drawn = {p: draw(i, p, leaf) for i, (p, leaf) in enumerate(flat.items())}
        params[name] = nets.unflatten(drawn)
    width = recipe.unet.cross_attention_dim
    prompt = np.resize(pool, (PROMPT_TOKENS, width)).astype(jnp.dtype(recipe.dtype))
    return params | {"prompt": {"positive": prompt}}


def measure(
    recipe: Recipe,
    params: Params,
    size: tuple[int, int],
    *,
    batch: int = 1,
    rounds: int = 5,
    ceiling: float | None = None,
    stages: tuple[str, ...] = STAGES,
    peers: Mapping[str, Peer] | None = None,
) -> list[Row]:
    """A row for each stage and program (ours first, then peers), timed in turn.

    Args:
        recipe: configuration of the pass.
        params: for `forward.make_pass`, on the device.
        size: height and width of the output, multiples of `recipe.size_multiple`.
        batch: pictures in one call.
        rounds: number of timed calls.
        ceiling: peak FLOP/s for the utilisation.
        stages: names from `STAGES`; those that the kind lacks are left out.
        peers: by name; their rows have "error", the largest difference from our result
            relative to its largest number.

    Raises:
        TooLarge: it exceeds the device's memory.
    """
    rows = []
    for stage in (s for s in stages if s in (*recipe.stages, "pass")):
        x = _input(recipe, stage, size, batch)
        with memory.errors(f"stage {stage}, batch {batch}, {size[1]}x{size[0]}"):
            program, row = _compiled(_function(recipe, stage), params, x)
            y = jax.block_until_ready(program(params, x))
            begin = other_programs.now()
            taken, errors = _in_turn(stage, program, params, x, y, rounds, peers or {})
            other_cores = other_programs.cores_between(begin, other_programs.now())
        common: Row = {"stage": stage, "size": list(size), "batch": batch}
        common |= {"other_cores": other_cores}
        common["dtype"] = recipe.dtype
        for name, seconds in taken.items():
            # FLOPs of peers are unknown, so they have no utilisation.
            ours = name == OURS
            details = row if ours else {"error": errors[name]}
            speed = _speed(seconds, batch, row["flops"] if ours else 0.0, ceiling)
            rows.append(common | {"by": name} | details | speed)
        del program
    return rows


def pass_call(
    recipe: Recipe, params: Params, size: tuple[int, int]
) -> tuple[Call, float]:
    """(call, its FLOPs): the compiled pass on one random picture.

    Args:
        params: for `forward.make_pass`, on the device.
        size: height and width of the output, multiples of `recipe.size_multiple`.
    """
    x = _input(recipe, "pass", size, 1)
    program, row = _compiled(_function(recipe, "pass"), params, x)
    return lambda: jax.block_until_ready(program(params, x)), row["flops"]


def _function(recipe: Recipe, stage: str) -> Any:
    if stage != "pass":
        return forward.make_stages(recipe)[stage]
    full_pass = forward.make_pass(recipe)

    def restore(params: Params, up_bhwc: jax.Array) -> jax.Array:
        return full_pass(params, up_bhwc)[0]

    return restore


def _input(recipe: Recipe, stage: str, size: tuple[int, int], batch: int) -> jax.Array:
    """Pictures in [0, 1], or latents of unit variance."""
    rng = np.random.default_rng(1)
    if stage in (recipe.stages[0], "pass"):
        return jnp.asarray(rng.random((batch, *size, 3), np.float32))
    vae = recipe.autoencoder
    h, w = (side // vae.factor for side in size)
    shape = batch, h, w, vae.latent_channels
    return jnp.asarray(rng.standard_normal(shape, np.float32))


def _in_turn(stage, program, params, x, y, rounds, peers):
    """({name: Seconds}, {peer: error})."""
    calls: dict[str, Call] = {OURS: lambda: jax.block_until_ready(program(params, x))}
    errors = {}
    for name, peer in peers.items():
        call, result = peer(stage, np.asarray(x))
        call()
        max_value = float(jnp.max(jnp.abs(y)))
        errors[name] = float(np.max(np.abs(result() - np.asarray(y)))) / max_value
        calls[name] = call
    return timing.in_turn(calls, rounds), errors


def _compiled(function: Any, params: Params, x: jax.Array) -> tuple[Any, Row]:
    """(compiled program, row with its FLOPs, bytes and time to compile)."""
    traced = jax.jit(function).trace(params, x)
    count = flops.count(traced.jaxpr).total
    lowered, begun = traced.lower(), time.perf_counter()
    program = cpu_compiler.compiled(lowered, jax.devices()[0].platform)
    row = {"compile_s": time.perf_counter() - begun, "flops": count}
    bytes_ = compiler.memory(program)
    names = ("argument_bytes", "temp_bytes", "output_bytes", "total_bytes")
    return program, row | {name: bytes_[name] for name in names}


def _speed(
    seconds: Seconds, images: int, flops: float = 0.0, ceiling: float | None = None
) -> Row:
    row = {
        "seconds": seconds.wall,
        "seconds_best": seconds.best,
        "processor_s": seconds.processor,
        "processor_spread": seconds.spread,
        "images_per_s": images / seconds.wall,
    }
    if flops:
        row["flops_per_s"] = flops / seconds.wall
    if flops and ceiling is not None:
        row["mfu"] = row["flops_per_s"] / ceiling
    return row


def sweep(measure_batch: Callable[[int], list[Row]], first: int, most: int) -> Row:
    """The row with most images/s over batches first, 2 first, 4 first, ...

    Stops when memory is exhausted, at `most`, or when twice the batch gains less than
    5 % images/s.
    """
    best: Row = {}
    batch = first
    while batch <= most:
        try:
            row = measure_batch(batch)[0]
        except memory.TooLarge:
            break
        if best and row["images_per_s"] < 1.05 * best["images_per_s"]:
            return max(best, row, key=lambda candidate: candidate["images_per_s"])
        best, batch = row, 2 * batch
    return best


def picture(restorer: Restorer, size: tuple[int, int], rounds: int) -> Row:
    """Measure one picture through a restorer, with tiles and colour fix.

    Args:
        size: height and width of the output, multiples of 4.
    """
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (size[0] // 4, size[1] // 4, 3), np.uint8)
    seconds = timing.in_turn({OURS: lambda: restorer(image, scale=4)}, rounds)[OURS]
    row = {"stage": "picture", "size": list(size), "batch": 1, "by": OURS}
    row |= {"dtype": restorer.spec.dtype, "tiles": restorer.last[0].tiles}
    return row | _speed(seconds, 1)
