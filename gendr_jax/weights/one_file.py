"""A weights folder of ours as one safetensors file, which many programs can open.

Tensors are named COMPONENT.PATH in our axes; the metadata has gendr.json under "gendr".
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
from gendr_jax.weights.resolve import locate, resolve
from gendr_jax.weights.sha256 import sha256

KEY, SUFFIX = "gendr", ".safetensors"


def write(path: Path, weights: Weights) -> None:
    """Fill a new file.

    Raises:
        UsageError, InputError: as ``folder.write``.
    """
    folder.check(weights, str(path))
    tensors = {
        ".".join((name, *at)): leaf
        for name, tree in weights.components().items()
        for at, leaf in nets.flatten(tree).items()
    }
    write_safetensors(path, tensors, {KEY: gendr_json.to_json(weights)})


def is_ours(path: Path) -> bool:
    """Whether this is such a file; nothing but its header is read."""
    if not path.is_file() or path.suffix != SUFFIX:
        return False
    with path.open("rb") as file:
        # Metadata comes first, unless another program has written the file again.
        head = file.read(1 << 12)
        if b'"__metadata__"' not in head:
            return False
    return KEY in open_file(path).metadata


def manifest(path: Path) -> dict[str, Any]:
    """What gendr.json says in a folder.

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
    said = _manifest(file)
    weights = gendr_json.settings(path, said)
    trees: dict[str, Any] = {}
    for name in said["components"]:
        start = f"{name}."
        flat = {
            tuple(key.removeprefix(start).split(".")): tensor.read()
            for key, tensor in file.tensors.items()
            if key.startswith(start)
        }
        trees[name] = nets.unflatten(flat)
        digest = sha256(trees[name])
        if digest != said["components"][name].get("sha256"):
            raise InputError(
                f"{path}: {name} has sha256 {digest[:12]}..., its metadata says "
                f"otherwise: it is damaged. Copy the file again."
            )
    fold = "unet" in components and "lora" not in components and "lora" in trees
    kept = {n: t for n, t in trees.items() if n in components or (fold and n == "lora")}
    prompt = kept.pop("prompt", {})
    weights = dataclasses.replace(weights, params=kept, prompt=prompt)
    folder.check(weights, str(path))
    return folder.folded(weights) if fold else weights


def load(name: str | Path, components: tuple[str, ...]) -> Weights:
    """Weights by name, as such a file or as a folder.

    Raises:
        InputError, UsageError: as ``resolve.locate`` and ``folder.load``.
    """
    file = _named(name)
    if file is not None:
        return read(file, components)
    return folder.load(locate(name), components=components)


def settings(name: str | Path) -> Weights:
    """The same without arrays: what gendr.json says.

    Raises:
        InputError, UsageError: as ``load``.
    """
    file = _named(name)
    if file is not None:
        return gendr_json.settings(file, manifest(file))
    path = locate(name)
    return gendr_json.settings(path, gendr_json.read(path))


def _named(name: str | Path) -> Path | None:
    """The file of this name, if it is such a one."""
    if Path(name).suffix != SUFFIX:
        return None
    path = resolve(name)
    return path if is_ours(path) else None


def _manifest(file: OpenFile) -> dict[str, Any]:
    try:
        said = json.loads(file.metadata[KEY])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{file.path}: its metadata cannot be read ({error}). Copy it again."
        ) from error
    return gendr_json.checked(said, file.path)
