"""The restoring pass, measured: encoder, UNet and decoder apart, and all in one."""

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
    """Host weights of unit gain, as `forward.make_pass` takes them.

    Drawn from one pool of numbers: at full size a draw of each would take a minute.
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
    """A row for each stage and each peer, timed in turn; of a stage ours comes first.

    Args:
        recipe: what is computed.
        params: as `forward.make_pass` takes them, on the device.
        size: height and width of the output, multiples of `recipe.size_multiple`.
        batch: pictures in one call.
        rounds: that count.
        ceiling: FLOP/s that the utilisation is a share of.
        stages: which, of `STAGES`; those that the kind does not have are left out.
        peers: by name; their rows hold the largest difference from our result,
            relative to its largest number.

    Raises:
        TooLarge: the device cannot hold it.
    """
    rows = []
    for stage in (s for s in stages if s in (*recipe.stages, "pass")):
        x = _input(recipe, stage, size, batch)
        with memory.errors(f"stage {stage}, batch {batch}, {size[1]}x{size[0]}"):
            program, row = _compiled(_function(recipe, stage), params, x)
            y = jax.block_until_ready(program(params, x))
            begin = other_programs.now()
            taken, errors = _in_turn(stage, program, params, x, y, rounds, peers or {})
            others = other_programs.cores_between(begin, other_programs.now())
        about: Row = {"stage": stage, "size": list(size), "batch": batch}
        about |= {"other_cores": others}
        about["dtype"] = recipe.dtype
        for name, seconds in taken.items():
            # What a peer multiplies is not known: no utilisation of it.
            ours = name == OURS
            found = row if ours else {"error": errors[name]}
            speed = _speed(seconds, batch, row["flops"] if ours else 0.0, ceiling)
            rows.append(about | {"by": name} | found | speed)
        del program
    return rows


def _function(recipe: Recipe, stage: str) -> Any:
    if stage != "pass":
        return forward.make_stages(recipe)[stage]
    whole = forward.make_pass(recipe)

    def restore(params: Params, up_bhwc: jax.Array) -> jax.Array:
        return whole(params, up_bhwc)[0]

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
        top = float(jnp.max(jnp.abs(y)))
        errors[name] = float(np.max(np.abs(result() - np.asarray(y)))) / top
        calls[name] = call
    return timing.in_turn(calls, rounds), errors


def _compiled(function: Any, params: Params, x: jax.Array) -> tuple[Any, Row]:
    """The program and what is known of it before it runs."""
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
    """The best row over batches first, 2 first, ...: its rows are those of one pass.

    It ends where memory does, where `most` is reached, or where twice the batch no
    longer gives more than a twentieth more pictures a second.
    """
    best: Row = {}
    batch = first
    while batch <= most:
        try:
            row = measure_batch(batch)[0]
        except memory.TooLarge:
            break
        if best and row["images_per_s"] < 1.05 * best["images_per_s"]:
            return max(best, row, key=lambda one: one["images_per_s"])
        best, batch = row, 2 * batch
    return best


def picture(restorer: Restorer, size: tuple[int, int], rounds: int) -> Row:
    """One whole picture through a restorer, tiles and colour fix and all.

    Args:
        size: height and width of the output, multiples of 4.
    """
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (size[0] // 4, size[1] // 4, 3), np.uint8)
    seconds = timing.in_turn({OURS: lambda: restorer(image, scale=4)}, rounds)[OURS]
    row = {"stage": "picture", "size": list(size), "batch": 1, "by": OURS}
    row |= {"dtype": restorer.spec.dtype, "tiles": restorer.last[0].tiles}
    return row | _speed(seconds, 1)
