"""``gendr inspect`` of a foreign source: kind, format, sizes, hashes as JSON values."""

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
    Raises: InputError: an unknown format; with ``verify``, whatever does not fit.
    """
    contents, scale_unknown = _open(path, Hints(variant=variant))
    if verify:
        for component in contents.components.values():
            components.read(component)
        if contents.adapter is not None:
            _refuse_not_finite(contents.adapter, path)
    counts = {
        name: _count(c.tensors.values()) for name, c in contents.components.items()
    }
    configs = {n: dataclasses.asdict(c.config) for n, c in contents.components.items()}
    if scale_unknown:
        configs["vae"] |= {"scaling_factor": None, "shift_factor": None}
    if contents.adapter is not None:
        adapter = contents.adapter
        counts["lora"] = _count(
            [*adapter.tensors.values(), *adapter.vae_tensors.values()]
        )
        configs["lora"] = _adapter_config(contents.adapter)
    dtypes: dict[str, int] = {}
    for count in counts.values():
        for name, elements in count["dtypes"].items():
            dtypes[name] = dtypes.get(name, 0) + elements
    report = {
        "kind": next(iter(counts)) if len(counts) == 1 else "pipeline",
        "format": contents.format,
        "parameters": sum(count["parameters"] for count in counts.values()),
        "components": {name: count["parameters"] for name, count in counts.items()},
        "tensors": {name: count["tensors"] for name, count in counts.items()},
        "dtypes": dtypes,
        "config": configs,
        "prediction_type": contents.prediction
        or contents.settings.get("prediction_type"),
        "left_out": contents.left_out,
        "sha256": {
            _display_name(file, path): file_sha256(file) for file in contents.files
        },
    }
    return report | ({"verified": True} if verify else {})


def _open(path: Path, hints: Hints) -> tuple[Contents, bool]:
    """The source, and whether its latent scale is unknown."""
    try:
        return recognise.find(path, hints), False
    except UsageError:  # no latent scale in the file: described without one
        hints = dataclasses.replace(hints, scaling_factor=1.0)
        return recognise.find(path, hints), True


def _count(tensors: Iterable[Tensor]) -> dict[str, Any]:
    dtypes: dict[str, int] = {}
    count = 0
    for tensor in tensors:
        count += 1
        size, name = math.prod(tensor.shape), tensor.dtype.name
        dtypes[name] = dtypes.get(name, 0) + size
    return {"tensors": count, "parameters": sum(dtypes.values()), "dtypes": dtypes}


def _adapter_config(adapter: Adapter) -> dict[str, Any]:
    """Ranks (the smaller sides of the LoRA factors), and some of PEFT's settings."""
    factors = [t for t in adapter.tensors.values() if len(t.shape) >= 2]
    peft_config = adapter.peft_config or {}
    copied = ("r", "lora_alpha", "target_modules", "base_model_name_or_path")
    return {
        "modules": len(factors) // 2,
        "ranks": sorted({min(t.shape[:2]) for t in factors}),
        **{key: peft_config[key] for key in copied if key in peft_config},
    }


def _refuse_not_finite(adapter: Adapter, path: Path) -> None:
    not_finite = sorted(
        n for n, t in adapter.tensors.items() if not all_finite(t.read())
    )
    if not_finite:
        raise InputError(
            f"{path}: NaN or Inf in {listed(not_finite)}. Take another copy."
        )


def _display_name(file: Path, root: Path) -> str:
    inside = root.is_dir() and file.is_relative_to(root)
    return str(file.relative_to(root)) if inside else file.name
