"""From a request to one result: networks, weights, the ceiling, rows, the machine."""

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
class Wish:
    """How the restoring pass is to be measured.

    Attributes:
        size: height and width of the output. Beyond the largest tile it is a whole
            picture by tiles.
        batch, rounds, stages: as for `restoring.measure`.
        sweep: look for the batch of most pictures a second, too.
        peers: kinds of `peer.py`.
    """

    size: tuple[int, int] = (512, 512)
    batch: int = 1
    rounds: int = 5
    stages: tuple[str, ...] = restoring.STAGES
    sweep: bool = False
    peers: tuple[str, ...] = ()


def recipe_of(config: Mapping[str, Any] | None, dtype: str) -> Recipe:
    """The networks of a stage's configuration; of None those of full size.

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
            "stage vae has no UNet to restore with. Take a config of another stage, or "
            "--program train."
        )
    return programs.recipe_of(settings, dtype)


def loaded(name: str, dtype: str) -> tuple[Recipe, Params]:
    """Recipe and host weights of a restorer, by the name of its weights."""
    found = one_file.load(name, ("unet", "vae", "prompt"))
    options.require_restorer(found)
    recipe = forward.recipe_of(found, dtype)
    return recipe, options.host_params(found, recipe)


def restore(recipe: Recipe, params: Params | None, wishes: list[Wish]) -> Result:
    """Measure the pass at every wish; `params` None are random ones.

    Raises:
        UsageError: a size that no pass has, or an unknown peer.
        TooLarge: the device cannot hold it.
    """
    for wish in wishes:
        _check_size(recipe, wish.size)
    host = restoring.random_params(recipe) if params is None else params
    top = ceiling.matmul_ceiling(recipe.dtype, jax.devices()[0])
    placed = jax.device_put(host)
    kinds = list(dict.fromkeys(kind for wish in wishes for kind in wish.peers))
    if kinds and recipe.kind != "restorer":
        raise UsageError(
            f"weights of kind {recipe.kind} have no peer in PyTorch. Leave --peer out."
        )
    others = peer.peers(kinds, recipe, placed) if kinds else {}
    rows, best = [], []
    for wish in wishes:
        if _by_tiles(wish.size):
            rows.append(_picture(recipe, host, wish, top))
            continue
        measured = restoring.measure(
            recipe,
            placed,
            wish.size,
            batch=wish.batch,
            rounds=wish.rounds,
            ceiling=top,
            stages=wish.stages,
            peers={kind: others[kind] for kind in wish.peers},
        )
        rows += report.with_ratios(measured, restoring.OURS)
        if wish.sweep:
            best.append(_best(recipe, placed, wish, top))
    return _result(rows, top, recipe.dtype) | ({"throughput": best} if best else {})


def train(config: Mapping[str, Any], mesh: Mesh, rounds: int) -> Result:
    """Measure a step of the configuration's stage.

    Raises:
        UsageError: a misspelt or impossible setting.
    """
    dtype = build.read_settings(config, mesh).dtype
    top = ceiling.matmul_ceiling(dtype, mesh.devices.flat[0])
    if mesh.devices.flat[0].platform == "cpu":
        top /= mesh.size  # they share one processor
    rows = training.measure(config, mesh, rounds=rounds, ceiling=top)
    return _result(rows, top, dtype)


def _result(rows: list[dict[str, Any]], top: float, dtype: str) -> Result:
    return machine.describe() | {
        "ceiling": {"flops_per_s": top, "dtype": dtype},
        "memory": machine.peak_memory(jax.devices()[0]),
        "rows": rows,
    }


def _by_tiles(size: tuple[int, int]) -> bool:
    return max(size) > estimate.TILES[0]


def _check_size(recipe: Recipe, size: tuple[int, int]) -> None:
    unit = 4 if _by_tiles(size) else recipe.size_multiple
    if any(side < unit or side % unit for side in size):
        raise UsageError(
            f"--size {size[1]}x{size[0]} is no multiple of {unit}, which sides of a "
            f"{'picture' if unit == 4 else 'pass'} are here. Choose one."
        )


def _best(recipe: Recipe, params: Params, wish: Wish, top: float) -> dict[str, Any]:
    def one(batch: int) -> list[dict[str, Any]]:
        return restoring.measure(
            recipe,
            params,
            wish.size,
            batch=batch,
            rounds=wish.rounds,
            ceiling=top,
            stages=("pass",),
        )

    return restoring.sweep(one, wish.batch, LARGEST_BATCH)


def _picture(recipe: Recipe, host: Params, wish: Wish, top: float) -> dict[str, Any]:
    """A whole picture: the tiles are what memory allows."""
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
    row = restoring.picture(restorer, wish.size, wish.rounds)
    plan = restorer.last[0]
    passes = plan.tiles + (1 if plan.tiled else 0)  # statistics cost one more
    row["flops"] = passes * estimate.pass_flops(recipe, plan.pass_hw)
    row["flops_per_s"] = row["flops"] / row["seconds"]
    return row | {"mfu": row["flops_per_s"] / top}
