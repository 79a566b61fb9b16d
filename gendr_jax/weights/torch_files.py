"""Component folders of diffusers and transformers: config.json and safetensors.

``load_component`` reads one, ``save_component`` writes one that those libraries load;
neither needs torch. Names and axes are ``names.py``'s, options ``torch_config.py``'s.
Pickled .bin files are not read: they can run code.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, for safetensors
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gendr_jax import nets
from gendr_jax.errors import InputError
from gendr_jax.models.dinov2 import DINOv2
from gendr_jax.models.unet import UNet
from gendr_jax.models.vae import VAE
from gendr_jax.weights import names, torch_config

Kind = Literal["unet", "vae", "dinov2"]

MODELS = {"unet": UNet, "vae": VAE, "dinov2": DINOv2}
CONFIG = "config.json"
DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"
FLOATS = {"F64", "F32", "F16", "BF16"}
# VAE files of the first diffusers versions (SD 2.1's among them) name the attention
# layers so; diffusers renames them while loading, as we do.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v"}


def load_component(
    folder: str | os.PathLike, kind: Kind, *, dtype: Any = "float32"
) -> tuple[Any, nets.Params]:
    """Configuration and weights (numpy arrays) of a component folder.

    Args: ``folder`` holds config.json and one safetensors file or a sharded index;
    ``dtype`` of the result, None keeps each tensor's own.
    Returns: (UNetConfig | VAEConfig | DINOv2Config, params that fit ``nets.build``).
    Raises: InputError that names every option we lack, or every tensor that is missing,
    unexpected or misshapen, before any tensor is read.
    """
    folder = Path(folder)
    config = torch_config.parse(kind, _read_json(folder / CONFIG), str(folder / CONFIG))
    try:
        net = nets.build(MODELS[kind], config)
    except ValueError as error:
        raise InputError(f"{folder / CONFIG}: {error}") from error
    files = _weight_files(folder)
    _check(files, names.torch_shapes(net.abstract), kind, folder)
    tensors = {}
    for name, tensor in _tensors(files, kind):
        tensors[name] = tensor if dtype is None else tensor.astype(dtype, copy=False)
    return config, names.from_torch(tensors)


def save_component(folder: str | os.PathLike, config: Any, params: nets.Params) -> None:
    """Write config.json and one safetensors file, dtypes kept.

    diffusers' (or, for DINOv2, transformers') ``from_pretrained`` reads the folder.
    Raises InputError when ``params`` is not a full tree of ``config``'s network.
    """
    folder = Path(folder)
    kind = torch_config.kind_of(config)
    abstract = nets.build(MODELS[kind], config).abstract
    found, expected = names.torch_shapes(params), names.torch_shapes(abstract)
    _refuse(_differences(found, expected), f"{kind} weights for {folder}")
    stem = TRANSFORMERS if kind == "dinov2" else DIFFUSERS
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(torch_config.dump(config), indent=2, sort_keys=True) + "\n"
    with _replacing(folder / f"{stem}.safetensors") as temporary:
        save_file(names.to_torch(params), temporary, metadata={"format": "pt"})
    with _replacing(folder / CONFIG) as temporary:
        temporary.write_text(text)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}). "
            "Give a component folder: config.json and *.safetensors."
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object. Download it again.")
    return content


def _weight_files(folder: Path) -> list[Path]:
    """The file or the shards of one checkpoint; the plain one before its variants."""
    for stem in (DIFFUSERS, TRANSFORMERS):
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            shards = _read_json(index).get("weight_map")
            if not isinstance(shards, dict) or not shards:
                raise InputError(f"{index} has no weight_map. Download it again.")
            files = [folder / name for name in sorted(set(shards.values()))]
            lost = [file.name for file in files if not file.is_file()]
            if lost:
                raise InputError(
                    f"{folder} lacks {', '.join(lost)}, named by {index.name}. "
                    "Download the missing shards."
                )
            return files
        if (folder / f"{stem}.safetensors").is_file():
            return [folder / f"{stem}.safetensors"]
    others = sorted(folder.glob("*.safetensors"))
    if len(others) == 1:
        return others
    if others:
        listed = ", ".join(file.name for file in others)
        raise InputError(
            f"{folder} holds several weight files ({listed}) and none is "
            f"{DIFFUSERS}.safetensors. Leave one of them there."
        )
    pickled = ", ".join(file.name for file in sorted(folder.glob("*.bin")))
    found = f", only {pickled}" if pickled else ""
    raise InputError(
        f"{folder} holds no *.safetensors{found}. Convert it with "
        "save_pretrained(..., safe_serialization=True)."
    )


def _check(
    files: list[Path], expected: dict[str, tuple[int, ...]], kind: Kind, folder: Path
) -> None:
    """Compare headers with what the configuration needs; nothing else is read."""
    found: dict[str, tuple[int, ...]] = {}
    problems = []
    for file in files:
        with _open(file) as handle:
            for stored in handle.keys():
                name = _modern(stored, kind)
                header = handle.get_slice(stored)
                if name in found:
                    problems.append(f"{name} is there twice")
                if header.get_dtype() not in FLOATS:
                    problems.append(f"{name} has dtype {header.get_dtype()}")
                found[name] = tuple(header.get_shape())
    _refuse(problems + _differences(found, expected), f"{kind} in {folder}")


def _differences(found: dict, expected: dict) -> list[str]:
    shared = sorted(found.keys() & expected.keys())
    return [
        *(f"missing {name}" for name in sorted(expected.keys() - found.keys())),
        *(f"unexpected {name}" for name in sorted(found.keys() - expected.keys())),
        *(
            f"{name} has shape {found[name]}, expected {expected[name]}"
            for name in shared
            if found[name] != expected[name]
        ),
    ]


def _refuse(problems: list[str], what: str) -> None:
    if problems:
        raise InputError(
            f"{what}: {len(problems)} tensors do not fit: {'; '.join(problems)}. "
            "Use the weights that belong to this config.json."
        )


def _tensors(files: list[Path], kind: Kind) -> Iterator[tuple[str, np.ndarray]]:
    for file in files:
        with _open(file) as handle:
            for stored in handle.keys():
                yield _modern(stored, kind), handle.get_tensor(stored)


def _open(file: Path):
    try:
        return safe_open(file, framework="np")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file} is not a whole safetensors file ({error}). Download it again."
        ) from error


def _modern(name: str, kind: Kind) -> str:
    """Today's name of a tensor from an old VAE file; others as they are."""
    parts = name.split(".")
    if kind != "vae" or len(parts) < 3 or parts[-4:-3] != ["attentions"]:
        return name
    layer = parts[-2]
    new = ["to_out", "0"] if layer == "proj_attn" else [OLD_ATTENTION.get(layer, layer)]
    return ".".join([*parts[:-2], *new, parts[-1]])


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target`` that takes its place when all went well."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
