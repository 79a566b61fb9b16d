"""Component folders of diffusers and transformers: config.json and weights.

``open_component`` reads names and shapes of one, ``load_component`` its arrays,
``save_component`` writes one that those libraries load; only pickles need torch.
"""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gendr_jax import nets
from gendr_jax.errors import InputError, listed
from gendr_jax.weights.foreign import averages, config_json, layouts, names
from gendr_jax.weights.foreign.components import (
    Component,
    Kind,
    build,
    differences,
    refuse,
)
from gendr_jax.weights.foreign.components import read as read_component
from gendr_jax.weights.foreign.open_file import open_file
from gendr_jax.weights.foreign.tensors import Tensor, write_safetensors

CONFIG = "config.json"
DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"
# Stems and suffixes of a checkpoint, the preferred ones first.
STEMS = (DIFFUSERS, TRANSFORMERS, "pytorch_model")
SUFFIXES = (".safetensors", ".bin")
# Names of attention layers in VAE files of the first diffusers versions (SD 2.1's among
# them); diffusers renames them while loading, as we do.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v"}


def load_component(
    folder: str | os.PathLike, kind: Kind, *, dtype: Any = "float32", mesh: Any = None
) -> tuple[Any, nets.Params]:
    """Configuration and weights of a component folder.

    Args: ``folder`` holds config.json and weights; ``dtype`` of the result, None keeps
    each tensor's own; ``mesh``: sharded over its devices, else numpy arrays.
    Returns: (UNetConfig | VAEConfig | DINOv2Config, params that fit ``nets.build``).
    Raises: InputError that names every option we lack, or every tensor that is missing,
    unexpected or misshapen, before any tensor is read.
    """
    component = open_component(Path(folder), kind)
    return component.config, read_component(component, dtype=dtype, mesh=mesh)


def open_component(
    folder: Path,
    kind: Kind,
    *,
    variant: str = "",
    ema: averages.EmaChoice = "auto",
) -> Component:
    """A component folder's configuration and tensors, not read yet.

    Args: ``variant``: of several files, that one (`fp16`); else the plain file;
    ``ema``: of a file with averaged and raw weights, which.
    Raises: InputError for options we lack and files that are absent or damaged.
    """
    config = config_json.parse(kind, read_json(folder / CONFIG), str(folder / CONFIG))
    shapes = names.torch_shapes(build(kind, config, str(folder / CONFIG)).abstract)
    tensors: dict[str, Tensor] = {}
    problems: list[str] = []
    left_out: Counter[str] = Counter()
    averaged = False
    for path in weight_files(folder, variant):
        file, file_averaged = averages.chosen(open_file(path), ema)
        averaged |= file_averaged
        left_out.update(file.left_out)
        for stored_name, tensor in file.tensors.items():
            name = _current_name(stored_name, kind)
            if name in tensors:
                problems.append(f"{name} appears twice")
            tensors[name] = tensor
    layout = layouts.identity(shapes)
    return Component(
        kind,
        config,
        layout,
        tensors,
        str(folder),
        tuple(problems),
        left_out,
        averaged,
    )


def save_component(folder: str | os.PathLike, config: Any, params: nets.Params) -> None:
    """Write config.json and one safetensors file, dtypes kept.

    diffusers' (or, for DINOv2, transformers') ``from_pretrained`` reads the folder.
    Raises InputError when ``params`` is not a full tree of ``config``'s network.
    """
    folder = Path(folder)
    kind = config_json.kind_of(config)
    expected = names.torch_shapes(build(kind, config, str(folder)).abstract)
    refuse(
        differences(names.torch_shapes(params), expected),
        f"{kind} weights for {folder}",
    )
    stem = TRANSFORMERS if kind == "dinov2" else DIFFUSERS
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config_json.dump(config), indent=2, sort_keys=True) + "\n"
    with replacing(folder / f"{stem}.safetensors") as temporary:
        write_safetensors(temporary, _torch_order(params))
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(text)


def _torch_order(params: nets.Params) -> dict[str, np.ndarray]:
    """Views with torch's names and axes; the writer makes one contiguous at a time."""
    return {
        names.torch_name(path): np.asarray(leaf).transpose(
            names.torch_axes(path, leaf.ndim)
        )
        for path, leaf in nets.flatten(params).items()
    }


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises: InputError: it cannot be read or is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}). "
            "Give a component folder: config.json and *.safetensors."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object. Download it again.")
    return content


def weight_files(folder: Path, variant: str = "") -> list[Path]:
    """The file or the shards of one checkpoint; without variant the plain one."""
    dot = f".{variant}" if variant else ""
    for suffix in SUFFIXES:
        for stem in STEMS:
            index = folder / f"{stem}{suffix}.index{dot}.json"
            single_file = folder / f"{stem}{dot}{suffix}"
            if index.is_file():
                return _shards(folder, index)
            if single_file.is_file():
                return [_inside(folder, single_file.name)]
    if variant:
        raise InputError(
            f"{folder} holds no {DIFFUSERS}.{variant}.safetensors or .bin. "
            "Leave --variant out."
        )
    for suffix in SUFFIXES:
        candidates = sorted(folder.glob(f"*{suffix}"))
        if len(candidates) == 1:
            return [_inside(folder, candidates[0].name)]
        if candidates:
            names = listed([file.name for file in candidates])
            raise InputError(
                f"{folder} holds several weight files ({names}) and none is "
                f"{DIFFUSERS}{suffix}. Add --variant NAME, such as fp16."
            )
    if any(folder.glob("*.msgpack")):
        raise InputError(
            f"{folder} holds weights of Flax (*.msgpack), which are not read. Take the "
            "*.safetensors of the same model, or save it from PyTorch."
        )
    raise InputError(
        f"{folder} holds no *.safetensors or *.bin. Copy the weights into this folder."
    )


def _shards(folder: Path, index: Path) -> list[Path]:
    shards = read_json(index).get("weight_map")
    valid = isinstance(shards, dict) and all(
        isinstance(v, str) for v in shards.values()
    )
    if not valid or not shards:
        raise InputError(f"{index} has no weight_map. Download it again.")
    files = sorted(set(shards.values()))
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder} lacks {listed(missing)}, named by {index.name}. "
            "Download the missing shards."
        )
    return [_inside(folder, name) for name in files]


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder; a name or link that leads out of it is refused.

    Links into ``blobs`` of the same model are allowed: the Hub's cache is made of them.
    """
    path, real_folder = folder / name, folder.resolve()
    real_path = path.resolve()
    allowed = [real_folder] + [
        p / "blobs" for p in real_folder.parents if (p / "blobs").is_dir()
    ][:1]
    if Path(name).name != name or not any(real_path.is_relative_to(a) for a in allowed):
        raise InputError(
            f"{path} leads to {real_path}, outside of {folder}. Copy the file into the "
            "folder if you trust it."
        )
    return path


def _current_name(name: str, kind: Kind) -> str:
    """The current diffusers name of a tensor of an old VAE file; others unchanged."""
    components = name.split(".")
    if kind != "vae" or len(components) < 3 or components[-4:-3] != ["attentions"]:
        return name
    layer = components[-2]
    renamed = (
        ["to_out", "0"] if layer == "proj_attn" else [OLD_ATTENTION.get(layer, layer)]
    )
    return ".".join([*components[:-2], *renamed, components[-1]])


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to ``target`` without an error."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
