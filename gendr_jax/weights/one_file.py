"""A weights folder as one safetensors file.

Tensors are named COMPONENT.PATH, axes as in JAX (NHWC kernels); the metadata has
gendr.json under "gendr".
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from gendr_jax import nets
from gendr_jax.errors import InputError
from gendr_jax.weights import folder, gendr_json
from gendr_jax.weights.foreign.open_file import open_file
from gendr_jax.weights.foreign.tensors import OpenFile, write_safetensors
from gendr_jax.weights.gendr_json import Weights
from gendr_jax.weights.resolve import resolve, resolve_folder
from gendr_jax.weights.sha256 import sha256

KEY, SUFFIX = "gendr", ".safetensors"


def write(path: Path, weights: Weights) -> None:
    """Write the weights to a new file.

    Raises:
        UsageError, InputError: as ``folder.write``.
    """
    folder.check(weights, str(path))
    tensors = {
        ".".join((name, *leaf_path)): leaf
        for name, tree in weights.components().items()
        for leaf_path, leaf in nets.flatten(tree).items()
    }
    write_safetensors(path, tensors, {KEY: gendr_json.to_json(weights)})


def is_ours(path: Path) -> bool:
    """Whether this is a file of `write`; only the header is read."""
    if not path.is_file() or path.suffix != SUFFIX:
        return False
    with path.open("rb") as file:
        # Metadata comes first in the header, unless another program rewrote the file.
        head = file.read(1 << 12)
        if b'"__metadata__"' not in head:
            return False
    return KEY in open_file(path).metadata


def manifest(path: Path) -> dict[str, Any]:
    """The manifest (gendr.json) in the file's metadata.

    Raises:
        InputError: it is damaged or of another version.
    """
    return _manifest(open_file(path))


def read(path: Path, components: tuple[str, ...] = folder.COMPONENTS) -> Weights:
    """The weights in host memory, checked as those of a folder are.

    Raises:
        InputError: damaged, or arrays that do not fit the configuration.
    """
    file = open_file(path)
    manifest_json = _manifest(file)
    weights = gendr_json.settings(path, manifest_json)
    trees: dict[str, Any] = {}
    for name in manifest_json["components"]:
        start = f"{name}."
        flat = {
            tuple(key.removeprefix(start).split(".")): tensor.read()
            for key, tensor in file.tensors.items()
            if key.startswith(start)
        }
        trees[name] = nets.unflatten(flat)
        digest = sha256(trees[name])
        if digest != manifest_json["components"][name].get("sha256"):
            raise InputError(
                f"{path}: {name} has sha256 {digest[:12]}..., its metadata another: "
                "it is damaged. Copy the file again."
            )
    merge_lora = "unet" in components and "lora" not in components and "lora" in trees
    wanted = {
        n: t
        for n, t in trees.items()
        if n in components or (merge_lora and n == "lora")
    }
    prompt = wanted.pop("prompt", {})
    weights = dataclasses.replace(weights, params=wanted, prompt=prompt)
    folder.check(weights, str(path))
    return folder.folded(weights) if merge_lora else weights


def load(name: str | Path, components: tuple[str, ...]) -> Weights:
    """Weights by name: one file, or a folder.

    Raises:
        InputError, UsageError: as ``resolve_folder`` and ``folder.load``.
    """
    file = _own_file(name)
    if file is not None:
        return read(file, components)
    return folder.load(resolve_folder(name), components=components)


def settings(name: str | Path) -> Weights:
    """As ``load`` without arrays: the settings in gendr.json.

    Raises:
        InputError, UsageError: as ``load``.
    """
    file = _own_file(name)
    if file is not None:
        return gendr_json.settings(file, manifest(file))
    path = resolve_folder(name)
    return gendr_json.settings(path, gendr_json.read(path))


def _own_file(name: str | Path) -> Path | None:
    """The path, if it is a safetensors file that ``write`` made."""
    if Path(name).suffix != SUFFIX:
        return None
    path = resolve(name)
    return path if is_ours(path) else None


def _manifest(file: OpenFile) -> dict[str, Any]:
    try:
        manifest_json = json.loads(file.metadata[KEY])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{file.path}: its metadata cannot be read ({error}). Copy it again."
        ) from error
    return gendr_json.checked(manifest_json, file.path)
