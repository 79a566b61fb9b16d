"""A weights folder: the result of training or conversion, the input of restoring.

    DIR/gendr.json      settings and a sha256 per component (gendr_json.py)
    DIR/unet/ DIR/vae/  Orbax checkpoints of nested dicts, string keys
    DIR/projector/      the same, of a base's alignment head
    DIR/dinov2/ lpips/ dists/ lora/   the same, from `gendr convert`
    DIR/prompt.npz      prompt embeddings by name, each [L, D], float32

Orbax detects neither a flipped byte in its data files nor an unexpected dtype, hence
our own digest and `check_like`.
"""

import dataclasses
import multiprocessing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from gendr_jax import nets
from gendr_jax.diffusion import T_STAR
from gendr_jax.errors import InputError, UsageError
from gendr_jax.models.dinov2 import DINOv2
from gendr_jax.models.dists import DISTS
from gendr_jax.models.heads import RepaProjector
from gendr_jax.models.lpips import LPIPS
from gendr_jax.models.unet import UNet
from gendr_jax.models.vae import VAE
from gendr_jax.nets import Params
from gendr_jax.sharding import tree_shardings
from gendr_jax.weights import gendr_json
from gendr_jax.weights.destination import replacing_folder
from gendr_jax.weights.gendr_json import MANIFEST, Weights
from gendr_jax.weights.sha256 import sha256

__all__ = ["Weights", "is_folder", "load", "save"]

COMPONENTS = tuple("unet vae projector dinov2 lpips dists lora prompt".split())
NETWORKS = {
    "unet": UNet,
    "vae": VAE,
    "projector": RepaProjector,
    "dinov2": DINOv2,
    "lpips": LPIPS,
    "dists": DISTS,
}
# The size of a data file: Orbax holds one in memory until it is written.
DATA_FILE_BYTES = 128 << 20
FLOATS = ("float32", "bfloat16", "float16")
Network = tuple[Any, Params]  # (configuration, weights)


def save(
    folder: Path | str,
    *,
    kind: gendr_json.Kind,
    unet: Network | None = None,
    vae: Network | None = None,
    projector: Network | None = None,
    prompt: dict[str, Any] | None = None,
    prediction: gendr_json.Prediction = "eps",
    t_star: int = T_STAR,
    prompt_text: dict[str, str] | None = None,
    provenance: dict[str, Any] | None = None,
) -> Path:
    """Write a weights folder atomically. Returns its path.

    An older weights folder of this path is replaced; anything else is refused.

    Args:
        folder: its path; parents are made.
        kind: "restorer" or "adc" (unet, vae and prompt), "pix" (unet and prompt),
            "base" (unet, others optional), "vae".
        unet, vae, projector: (configuration, weights), weights in any floating dtype.
        prompt: {"positive": [L, D], "negative": [L, D]}, the second optional.
        prediction, t_star, prompt_text, provenance: as in `Weights`.

    Raises:
        UsageError: a component of this kind is missing, or the path is taken.
        InputError: arrays that do not fit their configuration.
    """
    folder = Path(folder).absolute()
    networks = {"unet": unet, "vae": vae, "projector": projector}
    present = {name: pair for name, pair in networks.items() if pair is not None}
    weights = Weights(
        kind=kind,
        configs={name: config for name, (config, _) in present.items()},
        params={
            n: jax.tree.map(np.asarray, params) for n, (_, params) in present.items()
        },
        prompt={name: np.asarray(x) for name, x in (prompt or {}).items()},
        prediction=prediction,
        t_star=t_star,
        prompt_text=prompt_text or {},
        provenance=provenance or {},
    )
    _refuse_foreign(folder)
    with replacing_folder(folder) as temporary:
        if jax.process_count() == 1:
            write(temporary, weights, where=folder)
        else:
            _write_in_subprocess(temporary, weights, folder)
    return folder


def write(target: Path, weights: Weights, *, where: Path | None = None) -> None:
    """Fill an empty folder with host arrays; the caller renames it.

    Args: ``where``: the folder's final path, for messages.
    Raises: as ``save``.
    """
    message_path = str(where or target)
    gendr_json.require(weights, set(weights.components()), message_path, UsageError)
    check(weights, message_path)
    for name, tree in weights.components().items():
        _write_component(target, name, tree)
    (target / MANIFEST).write_text(gendr_json.to_json(weights), "utf-8")


def _write_in_subprocess(target: Path, weights: Weights, where: Path) -> None:
    """`write` in a subprocess.

    Orbax synchronises all processes of a run when it writes, and only one calls this.
    """
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_write_on_cpu, args=(target, weights, where))
    child.start()
    child.join()
    if child.exitcode:
        raise RuntimeError(f"writing {where} ended with status {child.exitcode}")


def _write_on_cpu(target: Path, weights: Weights, where: Path) -> None:
    jax.config.update("jax_platforms", "cpu")  # the accelerator belongs to the parent
    write(target, weights, where=where)


def load(
    folder: Path | str,
    *,
    components: tuple[str, ...] = COMPONENTS,
    verify: bool = True,
    mesh: Mesh | None = None,
) -> Weights:
    """Read a weights folder into host memory (numpy arrays), checked.

    Where the folder has adapters and `components` has "unet" but not "lora", the UNet
    is returned with the adapters merged.

    Args:
        folder: a local folder.
        components: which of them to read, where present; others stay on disk.
        verify: compare each component's sha256 with gendr.json.
        mesh: read the networks as jax arrays sharded over it instead, by the default
            sharding rules; no device ever holds more than its shards.

    Raises:
        InputError: not such a folder, an unknown version, damaged or missing files, or
            arrays that do not fit the configuration.
    """
    folder = Path(folder).absolute()
    manifest = gendr_json.read(folder)
    weights = gendr_json.settings(folder, manifest)
    params: dict[str, Any] = {}
    merge = "unet" in components and "lora" not in components
    merge = merge and "lora" in manifest["components"]
    for name in (*components, *(("lora",) if merge else ())):
        if name in manifest["components"]:
            params[name] = _read_component(folder, name, weights, mesh)
            if verify:
                _verify(folder, name, params[name], manifest)
    prompt = params.pop("prompt", {})
    weights = dataclasses.replace(weights, params=params, prompt=prompt)
    check(weights, str(folder))
    return folded(weights) if merge else weights


def folded(weights: Weights) -> Weights:
    """The weights with adapters merged into the UNet; other arrays are not copied."""
    params, configs = dict(weights.params), dict(weights.configs)
    adapters, config = params.pop("lora"), configs.pop("lora")
    unet = nets.merge_lora(params["unet"], adapters, config.scale)
    flat = nets.flatten(params["unet"])
    # Merging returns jax arrays: those that were numpy arrays become so again.
    host = {
        path: np.asarray(leaf) if isinstance(flat[path], np.ndarray) else leaf
        for path, leaf in nets.flatten(unet).items()
    }
    params["unet"] = nets.unflatten(host)
    return dataclasses.replace(weights, params=params, configs=configs)


def is_folder(path: Path | str) -> bool:
    """Whether this is a weights folder: it has a gendr.json."""
    return (Path(path) / MANIFEST).is_file()


def check(weights: Weights, where: str) -> None:
    """Check arrays against the configurations: paths, shapes, dtypes, prompt width."""
    for name, params in weights.params.items():
        try:
            abstract = _abstract(weights, name)
        except ValueError as error:  # a configuration that no network can have
            raise InputError(f"{where}: {name}: {error}") from error
        flat, expected = nets.flatten(params), nets.flatten(abstract)
        # Weights may be stored in any floating type, each array in its own.
        stored = {
            path: jax.ShapeDtypeStruct(leaf.shape, flat[path].dtype)
            if path in flat and flat[path].dtype.name in FLOATS
            else leaf
            for path, leaf in expected.items()
        }
        nets.check_like(params, nets.unflatten(stored), what=f"{where}: {name}")
    if weights.prompt:
        _check_prompt(weights, where)


def _abstract(weights: Weights, name: str) -> Params:
    config = weights.configs[name]
    if name != "lora":
        return nets.build(NETWORKS[name], config).abstract
    adapted = nets.build(UNet, weights.configs["unet"], lora=config)
    return nets.split_lora(adapted.abstract)[1]


def _check_prompt(weights: Weights, where: str) -> None:
    unet = weights.configs.get("unet")
    width = None if unet is None else unet.cross_attention_dim
    if "positive" not in weights.prompt:
        raise InputError(
            f"{where}: prompt has {sorted(weights.prompt)}, positive is missing. "
            "Add it."
        )
    for name, value in weights.prompt.items():
        if value.ndim != 2 or width not in (None, value.shape[-1]):
            raise InputError(
                f"{where}: prompt {name} has shape {value.shape}, the UNet takes "
                f"[L, {width}]. Use embeddings of the text encoder it was made for."
            )
        if value.dtype.name not in FLOATS or not np.isfinite(value).all():
            raise InputError(
                f"{where}: prompt {name} ({value.dtype}) is not all finite numbers. "
                "Make the embedding again."
            )


def _write_component(folder: Path, name: str, tree: Params) -> None:
    if name == "prompt":
        np.savez(folder / "prompt.npz", **tree)
        return
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    # The arrays do not change meanwhile, and weights do not compress: without a copy
    # and without zstd a model is written in a third of the time and no extra memory.
    context.memory.deepcopy_host_arrays = False
    context.array.saving.use_compression = False
    context.array.saving.ocdbt_target_data_file_size = DATA_FILE_BYTES
    with context:
        ocp.save(str((folder / name).absolute()), tree)


def _abstract_leaf(stored: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(stored.shape, stored.dtype, sharding=sharding)


def _read_component(
    folder: Path, name: str, weights: Weights, mesh: Mesh | None
) -> Params:
    """One component, in host memory or sharded over a mesh."""
    path = folder / ("prompt.npz" if name == "prompt" else name)
    if not path.exists():
        raise InputError(f"{path} is missing. Copy the complete folder again.")
    try:
        if name == "prompt":
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        from orbax.checkpoint import v1 as ocp

        if mesh is None or name == "prompt":
            return ocp.load(str(path))
        stored = ocp.metadata(str(path)).metadata
        # Before loading, since Orbax's error for another tree names no array.
        check(dataclasses.replace(weights, params={name: stored}), str(folder))
        shardings = tree_shardings(stored, mesh)
        return ocp.load(str(path), jax.tree.map(_abstract_leaf, stored, shardings))
    except InputError:
        raise
    except Exception as error:  # Orbax and zipfile raise many types on damage
        reason = " ".join(str(error.__cause__ or error).split())[:160]
        raise InputError(
            f"{path} is damaged ({reason}). Copy the folder again."
        ) from error


def _verify(folder: Path, name: str, tree: Params, manifest: dict[str, Any]) -> None:
    expected = manifest["components"][name].get("sha256")
    actual = sha256(tree)
    if actual != expected:
        raise InputError(
            f"{folder / name} has sha256 {actual[:12]}..., {MANIFEST} says "
            f"{str(expected)[:12]}...: it is damaged. Copy the folder again."
        )


def _refuse_foreign(folder: Path) -> None:
    if folder.is_file() or (
        folder.is_dir() and any(folder.iterdir()) and not is_folder(folder)
    ):
        raise UsageError(
            f"{folder} exists and is no weights folder, it would be replaced. "
            "Name another path."
        )
