"""Write LoRA adapters as files of PEFT, diffusers and sd-scripts (kohya)."""

from typing import Any

import numpy as np

from gendr_jax import nets
from gendr_jax.models.lora import LoRAConfig
from gendr_jax.weights.foreign import names
from gendr_jax.weights.foreign.adapters import peft_settings
from gendr_jax.weights.foreign.adapters.lora_names import PREFIX


def to_peft(
    config: LoRAConfig, params: nets.Params
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and adapter_config.json of a folder for ``PeftModel.from_pretrained``."""
    tensors = {PREFIX["peft"] + n: a for n, a in names.to_torch(params).items()}
    return tensors, peft_settings.dump(config)


def to_diffusers(
    config: LoRAConfig, params: nets.Params
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of one file for diffusers' ``load_lora_weights``.

    Alpha is in the metadata alone: diffusers refuses ``.alpha`` with these names.
    """
    prefix = PREFIX["diffusers"]
    tensors = {prefix + n: a for n, a in names.to_torch(params).items()}
    return tensors, peft_settings.dump_metadata(config, prefix)


def to_kohya(
    config: LoRAConfig, params: nets.Params
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of one file of sd-scripts, for ComfyUI and web UIs too."""
    kohya_names = {"lora_A": "lora_down", "lora_B": "lora_up"}
    tensors: dict[str, np.ndarray] = {}
    for name, array in names.to_torch(params).items():
        module, factor, _ = name.rsplit(".", 2)
        stem = PREFIX["kohya"] + module.replace(".", "_")
        tensors[f"{stem}.{kohya_names[factor]}.weight"] = array
        tensors[f"{stem}.alpha"] = np.asarray(config.alpha, array.dtype)
    return tensors, {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(config.rank),
        "ss_network_alpha": repr(config.alpha),
    }
