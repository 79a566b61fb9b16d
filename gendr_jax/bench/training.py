"""Benchmarks of a training step: each of its programs, and the wait for data."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gendr_jax import flops, sharding
from gendr_jax.bench import timing
from gendr_jax.bench.timing import Seconds
from gendr_jax.plan import measure as compiler
from gendr_jax.train.run import compiled_step
from gendr_jax.train.run.feed import Batches, Feed
from gendr_jax.train.run.xla_flags import compiler_options
from gendr_jax.train.settings import Settings
from gendr_jax.train.stage import Stage
from gendr_jax.train.stages import build

Row = dict[str, Any]


def measure(
    config: Mapping[str, Any],
    mesh: Mesh,
    *,
    rounds: int = 5,
    ceiling: float | None = None,
) -> list[Row]:
    """A row for each program of a step, and for the step if it has several.

    Weights that the configuration does not name are random. The step's row has
    `data_wait`, the seconds it waited for its batch; None for noise. Its time is the
    sum over the programs, each of which is waited for; a real run does not wait and is
    not slower.

    Args:
        config: plain values of a configuration file.
        mesh: the devices.
        rounds: number of timed steps.
        ceiling: peak FLOP/s of one device, for the utilisation.

    Raises:
        UsageError: a misspelt or impossible setting.
    """
    config = dict(config) | {"init": dict(config.get("init", {})) | {"random": True}}
    settings = build.read_settings(config, mesh)
    stage = build.wire(settings, mesh)
    with contextlib.closing(_feed(settings, mesh)) as feed:
        args, placement = _arguments(settings, stage, mesh, feed)
        stage = stage.without_weights()
        step_parts = compiled_step.traced(stage, placement, args)
        part_flops = [flops.count(part.traced.jaxpr).total for part in step_parts]
        model_flops = _without_recompute(config, mesh, placement) or part_flops
        compiled = [_compiled(part, settings.xla_flags) for part in step_parts]
        data_wait, times = _steps([one for one, _ in compiled], args, feed, rounds)
    common = {
        "config": settings.stage,
        "kind": getattr(settings, "kind", ""),
        "dtype": settings.dtype,
        "batch": settings.batch_size,
        "size": [settings.data.crop] * 2,
        "devices": mesh.size,
    }
    rows = []
    for number, part in enumerate(step_parts):
        row = common | {"program": part.name, "flops": part_flops[number]}
        row |= {"flops_model": model_flops[number]} | compiled[number][1]
        rows.append(row | _speed(times[number], row, ceiling))
    if len(rows) > 1:  # else the program is the step
        rows.append(common | _step(rows, ceiling))
    rows[-1]["data_wait"] = data_wait if settings.data.path else None
    return rows


def _feed(settings: Settings, mesh: Mesh) -> Feed:
    """Batches of the configuration's data, or of noise."""
    if settings.data.path:
        source = build.data_source(settings)
        return Feed(build.data_batches(settings, mesh, source), 0, mesh)
    _, shares = sharding.data_share(mesh)
    rows, crop = settings.batch_size // shares, settings.data.crop
    rng = np.random.default_rng(settings.seed)
    noise = {
        "hq": rng.integers(0, 256, (rows, crop, crop, 3), np.uint8),
        "index": np.arange(rows, dtype=np.uint32),
    }

    def batches(start: int) -> Iterator[Mapping[str, np.ndarray]]:
        while True:
            yield noise

    endless: Batches = batches
    return Feed(endless, 0, mesh)


def _arguments(
    settings: Settings, stage: Stage, mesh: Mesh, feed: Feed
) -> tuple[compiled_step.Arguments, sharding.Placement]:
    """The arguments of a step, placed on the mesh, and their placement."""
    placement = build.placement(settings, mesh)
    init_key, step_key = jax.random.split(jax.random.key(settings.seed))
    state_shapes = jax.eval_shape(stage.init, init_key, stage.start)
    start = sharding.place(stage.start, sharding.tree_shardings(stage.start, mesh))
    state = jax.jit(stage.init, out_shardings=placement.tree(state_shapes))(
        init_key, start
    )
    frozen = sharding.place(stage.frozen, placement.tree(stage.frozen, "frozen"))
    key = sharding.place(step_key, sharding.replicated(mesh))
    return compiled_step.Arguments(state, frozen, feed.next(), key), placement


def _without_recompute(
    config: Mapping[str, Any], mesh: Mesh, placement: sharding.Placement
) -> list[float] | None:
    """FLOPs of each program without rematerialisation; None if there is none."""
    if config.get("remat", "none") == "none":
        return None
    config = dict(config) | {"remat": "none"}
    settings, stage = build.read_settings(config, mesh), build.declare(config, mesh)
    crop = settings.data.crop
    args = compiled_step.arguments(
        stage, placement, batch_size=settings.batch_size, crop=crop
    )
    parts = compiled_step.traced(stage, placement, args)
    return [flops.count(part.traced.jaxpr).total for part in parts]


def _compiled(part: compiled_step.StepProgram, preset: str) -> tuple[Any, Row]:
    lowered, begun = part.traced.lower(), time.perf_counter()
    compiled = lowered.compile(compiler_options=compiler_options(preset))
    row = {"compile_s": time.perf_counter() - begun}
    bytes_ = compiler.memory(compiled)
    names = ("argument_bytes", "temp_bytes", "output_bytes", "total_bytes")
    return compiled, row | {name: bytes_[name] for name in names}


def _steps(
    programs: list[Any], args: compiled_step.Arguments, feed: Feed, rounds: int
) -> tuple[float, list[Seconds]]:
    """(seconds a step waited for its batch, medians of each program)."""
    state, frozen, batch, key = args
    times: list[list[Seconds]] = [[] for _ in programs]
    for number in range(rounds + 1):
        carry = None
        for program, program_times in zip(programs, times, strict=True):
            out: list[Any] = []

            def call(
                program=program, state=state, carry=carry, batch=batch, out=out
            ) -> None:
                out += jax.block_until_ready(program(state, carry, frozen, batch, key))

            seconds = timing.once(call)
            state, carry, _ = out
            if number:  # the first step is not counted
                program_times.append(seconds)
        if number == 0:
            waited_before = feed.waited
        batch = feed.next()
    return (feed.waited - waited_before) / (rounds + 1), [
        timing.median(program) for program in times
    ]


def _speed(seconds: Seconds, row: Row, ceiling: float | None) -> Row:
    return _rates(seconds.wall, row, ceiling) | {
        "seconds_best": seconds.best,
        "processor_s": seconds.processor,
    }


def _rates(seconds: float, row: Row, ceiling: float | None) -> Row:
    """Rates; the utilisation does not count recomputed operations."""
    rates = {"seconds": seconds, "images_per_s": row["batch"] / seconds}
    rates["flops_per_s"] = row["flops"] / seconds
    if ceiling is not None:
        rates["mfu"] = row["flops_model"] / seconds / (ceiling * row["devices"])
    return rates


def _step(rows: list[Row], ceiling: float | None) -> Row:
    names = ("flops", "flops_model", "compile_s", "processor_s")
    row = {"program": "step"} | {n: sum(one[n] for one in rows) for n in names}
    row |= {n: max(one[n] for one in rows) for n in ("temp_bytes", "total_bytes")}
    about = {name: rows[0][name] for name in ("batch", "devices")}
    seconds = sum(one["seconds"] for one in rows)
    return row | _rates(seconds, row | about, ceiling)
