"""Adapters that come with a UNet: kept beside it, or folded into it."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from gendr_jax import nets
from gendr_jax.errors import UsageError
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.weights.foreign import components, ldm, lora, names
from gendr_jax.weights.foreign.single_files import Adapter
from gendr_jax.weights.gendr_json import Weights


def adapt(
    weights: Weights | None,
    adapter: Adapter,
    where: Path,
    *,
    fold: bool,
    dtype: str,
) -> Weights:
    """Adapters beside the UNet they come with, or folded into it."""
    config = _adapted_network(weights, adapter)
    shapes = lora.kernel_shapes(nets.build(UNet, config).abstract)
    arguments = (adapter.tensors, list(shapes), shapes)
    keywords = {
        "peft_config": adapter.peft_config,
        "metadata": adapter.metadata,
        "ldm": ldm.unet_layout(config),
    }
    if fold:
        if weights is None or "unet" not in weights.params:
            raise UsageError(
                f"--merge needs the UNet that {where} adapts. Name its folder too."
            )
        pairs = lora.read_modules(*arguments, **keywords)
        unet = _folded(weights.params["unet"], pairs)
        return dataclasses.replace(weights, params=weights.params | {"unet": unet})
    if weights is not None and "lora" in weights.params:
        raise UsageError("two sources hold adapters. Add --merge to fold them in.")
    if weights is not None and weights.kind == "restorer":
        raise UsageError(
            "a restorer runs without adapters beside it. Add --merge to fold them in."
        )
    read = lora.read(*arguments, **keywords)
    params = {"lora": jax.tree.map(np.asarray, read.params)}
    if dtype:
        params = jax.tree.map(lambda x: components.cast(x, dtype), params)
    configs = {"unet": config, "lora": read.config}
    if weights is None:
        return Weights(kind="lora", configs=configs, params=params)
    return dataclasses.replace(
        weights,
        configs=weights.configs | configs,
        params=weights.params | params,
    )


def fold_own(weights: Weights) -> Weights:
    """The adapters that one of our folders holds beside its UNet, folded into it."""
    if "unet" not in weights.params:
        raise UsageError("--merge needs the UNet that is adapted. Name its folder too.")
    halves = names.to_torch(weights.params["lora"])
    down, up = (names.MATRICES[half] for half in ("lora_a", "lora_b"))
    modules = [n.removesuffix("." + down) for n in halves if n.endswith(down)]
    alpha = weights.configs["lora"].alpha
    pairs = {
        m: lora.Pair(halves[f"{m}.{down}"], halves[f"{m}.{up}"], alpha) for m in modules
    }
    unet = _folded(weights.params["unet"], pairs)
    params = {n: p for n, p in weights.params.items() if n != "lora"}
    configs = {n: c for n, c in weights.configs.items() if n != "lora"}
    return dataclasses.replace(weights, params=params | {"unet": unet}, configs=configs)


def _adapted_network(weights: Weights | None, adapter: Adapter) -> UNetConfig:
    """The UNet beside the adapters; without one, SD2.1's, with 16 channels or 4."""
    if weights is not None and "unet" in weights.configs:
        return weights.configs["unet"]
    shapes = [t.shape for n, t in adapter.tensors.items() if "conv_in" in n]
    narrow = any(len(shape) == 4 and shape[1] == 4 for shape in shapes)
    return UNetConfig(in_channels=4, out_channels=4) if narrow else UNetConfig()


def _folded(unet: nets.Params, pairs: dict[str, lora.Pair]) -> nets.Params:
    """The UNet with every pair in its kernel; other arrays are shared."""
    flat = nets.flatten(unet)
    for module, pair in pairs.items():
        path = (*module.split("."), "kernel")
        kernel = np.asarray(flat[path])
        torch_kernel = kernel.transpose(names.torch_axes(path, kernel.ndim))
        merged = lora.merged_kernel(torch_kernel, pair)
        merged = merged.transpose(names.param_axes(path, kernel.ndim))
        flat[path] = np.ascontiguousarray(merged)
    return nets.unflatten(flat)
