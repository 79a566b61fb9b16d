"""Trace the programs that are planned: the training step and the restoring pass."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gendr_jax import sharding
from gendr_jax.diffusion import T_STAR
from gendr_jax.errors import UsageError
from gendr_jax.plan.request import Request, sides
from gendr_jax.restore import forward
from gendr_jax.sharding import MODEL, SPACE
from gendr_jax.train.run import compiled_step
from gendr_jax.train.settings import (
    AdcSettings,
    BaseSettings,
    DistillSettings,
    PixSettings,
    VAESettings,
)
from gendr_jax.train.stages import build
from gendr_jax.train.stages.initial_weights import PROMPT_TOKENS


@dataclasses.dataclass(frozen=True)
class Traced:
    """The traced programs of one step or pass, not yet compiled.

    Attributes:
        programs: in the order in which they run.
        roles: {"params": tree, ...} of abstract arguments with their shardings.
        images: how many one call handles, on all devices.
        phases: how many programs the step has, traced here or not.
    """

    programs: list[compiled_step.StepProgram]
    roles: dict[str, Any]
    images: int
    phases: int = 1


def traced_step(request: Request, mesh: Mesh, *, remat: str | None = None) -> Traced:
    """The program of a request on a mesh.

    Args:
        remat: overrides the config's policy; None keeps it.

    Raises:
        UsageError: a misspelt or impossible setting, or a batch that does not divide.
    """
    config = dict(request.config)
    if remat is not None:
        config["remat"] = remat
    config["batch_size"] = batch_size(request, mesh)
    if request.program == "restore":
        return _restore(config, request.size, mesh)
    return _train(config, mesh, request.phase)


def batch_size(request: Request, mesh: Mesh) -> int:
    """The global batch: so many samples a device; `space` and `model` share one."""
    shares = sharding.row_shards(mesh)
    if request.batch_per_device is not None:
        return request.batch_per_device * shares
    if request.program == "restore":
        return shares
    return int(request.config.get("batch_size", build.Common.batch_size))


def _train(config: Mapping[str, Any], mesh: Mesh, only: int | None) -> Traced:
    settings = build.read_settings(config, mesh)
    stage = build.declare(config, mesh)
    size, crop = settings.batch_size, settings.data.crop
    placement = build.placement(settings, mesh)
    args = compiled_step.arguments(stage, placement, batch_size=size, crop=crop)
    roles = {**_state_roles(args.state), "frozen": args.frozen, "batch": args.batch}
    programs = compiled_step.traced(stage, placement, args, only)
    return Traced(programs, roles, size, len(compiled_step.phases(stage)))


def _state_roles(state: Any) -> dict[str, Any]:
    """Leaves of a training state by role: params, optimizer, ema."""
    roles: dict[str, list[Any]] = {"params": [], "optimizer": [], "ema": []}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        names = sharding.path_name(path).split("/")
        if "opt" in names or any(n.startswith("opt_") for n in names):  # of a Role
            roles["optimizer"].append(leaf)
        else:
            roles["ema" if names[0] == "ema" else "params"].append(leaf)
    return roles


def recipe_of(
    settings: BaseSettings | DistillSettings | AdcSettings | PixSettings, dtype: str
) -> forward.Recipe:
    """The pass of what this stage trains."""
    vae, prediction = settings.vae, settings.prediction
    match settings:
        case PixSettings():
            unet, kind = settings.student, "pix"
            return forward.Recipe(None, unet, prediction, T_STAR, dtype, kind)
        case AdcSettings():
            unet, kind = settings.student, "adc"
            return forward.Recipe(vae, unet, prediction, T_STAR, dtype, kind)
    return forward.Recipe(vae, settings.unet, prediction, T_STAR, dtype)


def check_restore(
    settings: build.Settings, size: int | tuple[int, int], mesh: Mesh
) -> forward.Recipe:
    """The recipe of the restoring pass, if there is one of this size on this mesh.

    Raises:
        UsageError: there is none.
    """
    if isinstance(settings, VAESettings):
        raise UsageError(
            "stage vae has no UNet to restore with. Take a config of another stage for "
            "--program restore."
        )
    recipe = recipe_of(settings, settings.dtype)
    if mesh.shape.get(MODEL, 1) > 1:
        raise UsageError(
            f"the mesh has model={mesh.shape[MODEL]}, restoring has the axes data and "
            "space. Give these devices to one of them for --program restore."
        )
    unit = recipe.size_multiple
    height, width = sides(size)
    if any(side < 1 or side % unit for side in (height, width)):
        # Up, as `Restorer` pads a picture.
        padded = [max(unit, -(-side // unit) * unit) for side in (height, width)]
        raise UsageError(
            f"--size {width}x{height}: a side is no multiple of {unit}, which sides "
            f"of a pass are. Give {padded[1]}x{padded[0]}, to which such a picture is "
            "padded."
        )
    return recipe


def _restore(
    config: Mapping[str, Any], size: int | tuple[int, int], mesh: Mesh
) -> Traced:
    """The pass of `Restorer`: weights replicated, pictures split over the devices."""
    settings = build.read_settings(config, mesh)
    recipe = check_restore(settings, size, mesh)
    assert not isinstance(settings, VAESettings)  # which has no recipe
    replicated = sharding.replicated(mesh)
    width = settings.unet.cross_attention_dim
    prompt = jax.ShapeDtypeStruct((PROMPT_TOKENS, width), jnp.float32)
    params = {name: net.abstract for name, net in forward.networks(recipe).items()}
    params["prompt"] = {"positive": prompt}

    def weight(leaf: Any) -> jax.ShapeDtypeStruct:
        dtype = settings.dtype if leaf.ndim > 1 else "float32"
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=replicated)

    params = jax.tree.map(weight, params)
    batch_axes = tuple(name for name in mesh.axis_names if name != SPACE)
    height_axis = SPACE if mesh.shape.get(SPACE, 1) > 1 else None
    rows = NamedSharding(mesh, PartitionSpec(batch_axes, height_axis))
    count = settings.batch_size
    pictures = jax.ShapeDtypeStruct(
        (count, *sides(size), 3), jnp.float32, sharding=rows
    )
    jitted = jax.jit(
        forward.make_pass(recipe),
        in_shardings=(jax.tree.map(lambda _: replicated, params), rows),
    )
    with jax.set_mesh(mesh):
        traced = jitted.trace(params, pictures)
    program = compiled_step.StepProgram("restore", traced)
    return Traced([program], {"params": params, "batch": pictures}, count)


def bytes_per_device(tree: Any) -> int:
    """Bytes of abstract arrays with shardings in one device's own memory."""
    leaves = jax.tree.leaves(tree)
    return sum(_shard_bytes(x) for x in leaves if not _on_host(x))


def bytes_on_host(tree: Any) -> int:
    """The same in the host's memory."""
    return sum(_shard_bytes(x) for x in jax.tree.leaves(tree) if _on_host(x))


def replicated_bytes(tree: Any) -> int:
    """Bytes of arrays that are replicated on every device."""
    leaves = jax.tree.leaves(tree)
    return sum(_shard_bytes(x) for x in leaves if x.sharding.is_fully_replicated)


def _shard_bytes(x: Any) -> int:
    shape = x.sharding.shard_shape(x.shape)
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return 8 * math.prod(shape)  # two words of a counter-based key
    return x.dtype.itemsize * math.prod(shape)


def _on_host(x: Any) -> bool:
    return x.sharding.memory_kind in ("pinned_host", "unpinned_host")
