"""What a foreign source is, in plain JSON values, for ``gendr inspect``."""

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gendr_jax.errors import InputError, UsageError, listed
from gendr_jax.weights.foreign import components, recognise
from gendr_jax.weights.foreign.single_files import Adapter, Contents, Hints
from gendr_jax.weights.foreign.tensors import Tensor, all_finite
from gendr_jax.weights.sha256 import file_sha256


def describe(path: Path, *, verify: bool = False, variant: str = "") -> dict[str, Any]:
    """Kind, format, sizes, configurations and hashes of a file or folder.

    Args: ``verify``: compare every name and shape with the network, read every tensor;
    ``variant``: of several files in a component folder ("fp16").
    Raises: InputError: nothing that is known; with ``verify``, whatever does not fit.
    """
    found, assumed = _open(path, Hints(variant=variant))
    if verify:
        for component in found.components.values():
            components.read(component)
        if found.adapter is not None:
            _refuse_strange(found.adapter, path)
    parts = {name: _tensors(c.tensors.values()) for name, c in found.components.items()}
    configs = {n: dataclasses.asdict(c.config) for n, c in found.components.items()}
    if assumed:
        configs["vae"] |= {"scaling_factor": None, "shift_factor": None}
    if found.adapter is not None:
        adapter = found.adapter
        parts["lora"] = _tensors(
            [*adapter.tensors.values(), *adapter.vae_tensors.values()]
        )
        configs["lora"] = _adapter_config(found.adapter)
    dtypes: dict[str, int] = {}
    for part in parts.values():
        for name, count in part["dtypes"].items():
            dtypes[name] = dtypes.get(name, 0) + count
    answer = {
        "kind": next(iter(parts)) if len(parts) == 1 else "pipeline",
        "format": found.format,
        "parameters": sum(part["parameters"] for part in parts.values()),
        "components": {name: part["parameters"] for name, part in parts.items()},
        "tensors": {name: part["tensors"] for name, part in parts.items()},
        "dtypes": dtypes,
        "config": configs,
        "prediction_type": found.prediction or found.settings.get("prediction_type"),
        "left_out": found.left_out,
        "sha256": {_short(file, path): file_sha256(file) for file in found.files},
    }
    return answer | ({"verified": True} if verify else {})


def _open(path: Path, hints: Hints) -> tuple[Contents, bool]:
    """The source, and whether its latent scale is unknown."""
    try:
        return recognise.find(path, hints), False
    except UsageError:  # a file that does not say the scale can be described without
        hints = dataclasses.replace(hints, scaling_factor=1.0)
        return recognise.find(path, hints), True


def _tensors(tensors: Iterable[Tensor]) -> dict[str, Any]:
    dtypes: dict[str, int] = {}
    count = 0
    for tensor in tensors:
        count += 1
        size, name = math.prod(tensor.shape), tensor.dtype.name
        dtypes[name] = dtypes.get(name, 0) + size
    return {"tensors": count, "parameters": sum(dtypes.values()), "dtypes": dtypes}


def _adapter_config(adapter: Adapter) -> dict[str, Any]:
    """Ranks are the smaller sides of the halves; PEFT's own words beside them."""
    halves = [t for t in adapter.tensors.values() if len(t.shape) >= 2]
    said = adapter.peft_config or {}
    known = ("r", "lora_alpha", "target_modules", "base_model_name_or_path")
    return {
        "modules": len(halves) // 2,
        "ranks": sorted({min(t.shape[:2]) for t in halves}),
        **{key: said[key] for key in known if key in said},
    }


def _refuse_strange(adapter: Adapter, path: Path) -> None:
    bad = sorted(n for n, t in adapter.tensors.items() if not all_finite(t.read()))
    if bad:
        raise InputError(f"{path}: NaN or Inf in {listed(bad)}. Take another copy.")


def _short(file: Path, root: Path) -> str:
    inside = root.is_dir() and file.is_relative_to(root)
    return str(file.relative_to(root)) if inside else file.name
