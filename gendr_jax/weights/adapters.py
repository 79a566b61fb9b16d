"""LoRA adapters of a UNet: kept as side paths, or merged into its weights."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from gendr_jax import nets
from gendr_jax.errors import UsageError
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.weights import folder
from gendr_jax.weights.foreign import components, layouts, ldm, names
from gendr_jax.weights.foreign.adapters import lora, lora_changes
from gendr_jax.weights.foreign.single_files import Adapter
from gendr_jax.weights.gendr_json import Weights


def adapt(
    weights: Weights | None,
    adapter: Adapter,
    where: Path,
    *,
    merge: bool,
    dtype: str,
    strength: float = 1.0,
    alpha: float | None = None,
) -> Weights:
    """The weights with an adapter as side paths of the UNet, or merged into it."""
    config = _adapted_config(weights, adapter)
    layout = ldm.unet_layout(config)
    alpha = adapter.alpha if alpha is None else alpha
    if merge:
        return _merged(weights, adapter, where, layout, strength, alpha)
    if adapter.vae_tensors or any(".set_" in name for name in adapter.tensors):
        raise UsageError(
            f"{where} adapts the autoencoder or replaces weights, which cannot run as "
            "side paths of a UNet. Add --merge."
        )
    if weights is not None and "lora" in weights.params:
        raise UsageError("two sources hold adapters, side paths hold one. Add --merge.")
    shapes = lora.kernel_shapes(nets.build(UNet, config).abstract)
    adapters = lora.read(
        adapter.tensors,
        list(shapes),
        shapes,
        peft_config=adapter.peft_config,
        metadata=adapter.metadata,
        ldm=layout,
        alpha=alpha,
    )
    params = {"lora": jax.tree.map(np.asarray, adapters.params)}
    if dtype:
        params = jax.tree.map(lambda x: components.cast(x, dtype), params)
    scaled_config = dataclasses.replace(
        adapters.config, alpha=adapters.config.alpha * strength
    )
    configs = {"unet": config, "lora": scaled_config}
    if weights is None:
        return Weights(kind="lora", configs=configs, params=params)
    return dataclasses.replace(
        weights,
        configs=weights.configs | configs,
        params=weights.params | params,
    )


def _merged(
    weights: Weights | None,
    adapter: Adapter,
    where: Path,
    layout: layouts.Layout,
    strength: float,
    alpha: float | None,
) -> Weights:
    if weights is None or "unet" not in weights.params:
        raise UsageError(
            f"--merge needs the UNet that {where} adapts. Name its folder too."
        )
    source = lora_changes.Source(
        adapter.tensors, adapter.peft_config, adapter.metadata, alpha
    )
    params = dict(weights.params)
    params["unet"] = _with_changes(params["unet"], source, layout, strength)
    if adapter.vae_tensors and "vae" in params:
        source = lora_changes.Source(adapter.vae_tensors, alpha=alpha)
        params["vae"] = _with_changes(params["vae"], source, None, strength)
    step = weights.t_star if adapter.t_star is None else adapter.t_star
    return dataclasses.replace(weights, params=params, t_star=step)


def merge_own(weights: Weights) -> Weights:
    """The adapters of a weights folder merged into its UNet."""
    if "unet" not in weights.params:
        raise UsageError("--merge needs the UNet that is adapted. Name its folder too.")
    return folder.folded(weights)


def _adapted_config(weights: Weights | None, adapter: Adapter) -> UNetConfig:
    """The configuration of the adapted UNet; by default SD2.1's of 16 channels or 4."""
    if weights is not None and "unet" in weights.configs:
        return weights.configs["unet"]
    shapes = [t.shape for n, t in adapter.tensors.items() if "conv_in" in n]
    narrow = any(len(shape) == 4 and shape[1] == 4 for shape in shapes)
    return UNetConfig(in_channels=4, out_channels=4) if narrow else UNetConfig()


def _with_changes(
    network: nets.Params,
    source: lora_changes.Source,
    layout: layouts.Layout | None,
    strength: float,
) -> nets.Params:
    """The network with all changes in its weights; other arrays are not copied."""
    flat = nets.flatten(network)
    torch_shapes = names.torch_shapes(network)
    weights = {
        ".".join(path[:-1]): path for path in flat if path[-1] in ("kernel", "scale")
    }
    biases = {".".join(path[:-1]): path for path in flat if path[-1] == "bias"}
    shapes = {m: torch_shapes[names.torch_name(p)] for m, p in weights.items()}
    bias_shapes = {m: torch_shapes[names.torch_name(p)] for m, p in biases.items()}
    changes = lora_changes.read_changes(
        source, list(shapes), shapes, bias_shapes, ldm=layout
    )
    for module, change in changes:
        path = weights[module]
        array = np.asarray(flat[path])
        weight = array.transpose(names.torch_axes(path, array.ndim))
        weight = change.applied(weight, strength)
        param = weight.transpose(names.param_axes(path, array.ndim))
        flat[path] = np.ascontiguousarray(param)
        if module in biases:
            bias = np.asarray(flat[biases[module]])
            flat[biases[module]] = change.applied_to_bias(bias, strength)
    return nets.unflatten(flat)
