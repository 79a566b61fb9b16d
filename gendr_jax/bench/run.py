"""Runs benchmarks: loads networks and weights, measures, and collects the result."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from gendr_jax import sharding
from gendr_jax.bench import ceiling, machine, peer, report, restoring, training
from gendr_jax.diffusion import T_STAR
from gendr_jax.errors import UsageError
from gendr_jax.models.unet import UNetConfig
from gendr_jax.models.vae import VAEConfig
from gendr_jax.nets import Params
from gendr_jax.plan import programs
from gendr_jax.restore import estimate, forward, options
from gendr_jax.restore.forward import Recipe
from gendr_jax.restore.pipeline import Restorer
from gendr_jax.train.settings import VAESettings
from gendr_jax.train.stages import build
from gendr_jax.weights import one_file
from gendr_jax.weights.folder import Weights

Result = dict[str, Any]
LARGEST_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One measurement of the restoring pass.

    Attributes:
        size: height and width of the output; above the largest tile it is restored by
            tiles.
        batch, rounds, stages: as for `restoring.measure`.
        sweep: also find the batch with most images/s.
        peers: kinds of `peer.py`.
    """

    size: tuple[int, int] = (512, 512)
    batch: int = 1
    rounds: int = 5
    stages: tuple[str, ...] = restoring.STAGES
    sweep: bool = False
    peers: tuple[str, ...] = ()


def recipe_of(config: Mapping[str, Any] | None, dtype: str) -> Recipe:
    """The recipe of a stage's configuration; None: full-size networks.

    Raises:
        UsageError: a stage without a UNet.
    """
    if config is None:
        return Recipe(VAEConfig(), UNetConfig(), "eps", T_STAR, dtype)
    settings = build.read_settings(
        config, sharding.make_mesh("data=1", jax.devices()[:1])
    )
    if isinstance(settings, VAESettings):
        raise UsageError(
            "stage vae has no UNet to restore with. Give a config of another stage, or "
            "--program train."
        )
    return programs.recipe_of(settings, dtype)


def loaded(name: str, dtype: str) -> tuple[Recipe, Params]:
    """Load a restorer's recipe and host weights by name."""
    weights = one_file.load(name, ("unet", "vae", "prompt"))
    options.require_restorer(weights)
    recipe = forward.recipe_of(weights, dtype)
    return recipe, options.host_params(weights, recipe)


def restore(
    recipe: Recipe, params: Params | None, measurements: list[Measurement]
) -> Result:
    """Measure the pass; without `params` weights are random.

    Raises:
        UsageError: an impossible size, or an unknown peer.
        TooLarge: it exceeds the device's memory.
    """
    for measurement in measurements:
        _check_size(recipe, measurement.size)
    host_params = restoring.random_params(recipe) if params is None else params
    peak_flops = ceiling.matmul_ceiling(recipe.dtype, jax.devices()[0])
    device_params = jax.device_put(host_params)
    kinds = list(
        dict.fromkeys(
            kind for measurement in measurements for kind in measurement.peers
        )
    )
    if kinds and recipe.kind != "restorer":
        raise UsageError(
            f"weights of kind {recipe.kind} have no peer in PyTorch. Leave --peer out."
        )
    peers_by_kind = peer.peers(kinds, recipe, device_params) if kinds else {}
    rows, best = [], []
    for measurement in measurements:
        if _by_tiles(measurement.size):
            rows.append(_picture(recipe, host_params, measurement, peak_flops))
            continue
        measured = restoring.measure(
            recipe,
            device_params,
            measurement.size,
            batch=measurement.batch,
            rounds=measurement.rounds,
            ceiling=peak_flops,
            stages=measurement.stages,
            peers={kind: peers_by_kind[kind] for kind in measurement.peers},
        )
        rows += report.with_ratios(measured, restoring.OURS)
        if measurement.sweep:
            best.append(_best(recipe, device_params, measurement, peak_flops))
    return _result(rows, peak_flops, recipe.dtype) | (
        {"throughput": best} if best else {}
    )


def train(config: Mapping[str, Any], mesh: Mesh, rounds: int) -> Result:
    """Measure a step of the configuration's stage.

    Raises:
        UsageError: a misspelt or impossible setting.
    """
    dtype = build.read_settings(config, mesh).dtype
    peak_flops = ceiling.matmul_ceiling(dtype, mesh.devices.flat[0])
    if mesh.devices.flat[0].platform == "cpu":
        peak_flops /= mesh.size  # CPU devices share one processor
    rows = training.measure(config, mesh, rounds=rounds, ceiling=peak_flops)
    return _result(rows, peak_flops, dtype)


def _result(rows: list[dict[str, Any]], peak_flops: float, dtype: str) -> Result:
    return machine.describe() | {
        "ceiling": {"flops_per_s": peak_flops, "dtype": dtype},
        "memory": machine.peak_memory(jax.devices()[0]),
        "rows": rows,
    }


def _by_tiles(size: tuple[int, int]) -> bool:
    return max(size) > estimate.TILES[0]


def _check_size(recipe: Recipe, size: tuple[int, int]) -> None:
    unit = 4 if _by_tiles(size) else recipe.size_multiple
    if any(side < unit or side % unit for side in size):
        raise UsageError(
            f"--size {size[1]}x{size[0]} is not a multiple of {unit}, as sides of a "
            f"{'picture' if unit == 4 else 'pass'} have to be. Change it."
        )


def _best(
    recipe: Recipe, params: Params, measurement: Measurement, peak_flops: float
) -> dict[str, Any]:
    def measure_batch(batch: int) -> list[dict[str, Any]]:
        return restoring.measure(
            recipe,
            params,
            measurement.size,
            batch=batch,
            rounds=measurement.rounds,
            ceiling=peak_flops,
            stages=("pass",),
        )

    return restoring.sweep(measure_batch, measurement.batch, LARGEST_BATCH)


def _picture(
    recipe: Recipe, host: Params, measurement: Measurement, peak_flops: float
) -> dict[str, Any]:
    """Measure one picture by tiles, of the size that memory allows."""
    configs = {"unet": recipe.unet, "vae": recipe.vae}
    weights = Weights(
        kind=recipe.kind,
        configs={name: config for name, config in configs.items() if config},
        params={name: host[name] for name in forward.networks(recipe)},
        prompt=host["prompt"],
        prediction=recipe.prediction,
        t_star=recipe.t_star,
    )
    restorer = Restorer(weights, dtype=recipe.dtype)
    row = restoring.picture(restorer, measurement.size, measurement.rounds)
    plan = restorer.last[0]
    passes = plan.tiles + (1 if plan.tiled else 0)  # statistics cost one more
    row["flops"] = passes * estimate.pass_flops(recipe, plan.pass_hw)
    row["flops_per_s"] = row["flops"] / row["seconds"]
    return row | {"mfu": row["flops_per_s"] / peak_flops}
