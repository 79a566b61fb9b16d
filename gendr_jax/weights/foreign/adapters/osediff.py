"""OSEDiff's and PiSA-SR's adapter files: one dict for UNet and autoencoder.

Their code (osediff.py, ``load_ckpt``) adds several PEFT adapters to one network with
``LoraConfig(r=rank, ...)``, whose alpha is PEFT's default, 8, and copies the tensors of
conv_in over the base's. The file says neither. OSEDiff takes one step from t = 999 to
the clean latent, (z - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar).
"""

from collections.abc import Mapping

from gendr_jax.weights.foreign.tensors import OpenFile, Tensor

ALPHA = 8.0
UNET, VAE = "state_dict_unet", "state_dict_vae"
NAMES = ("encoder", "decoder", "others")


def recognise(file: OpenFile) -> bool:
    """Whether a file is such a dict, or has the adapters of one of its networks."""
    if UNET in file.groups:
        return True
    adapter_suffixes = tuple(f".default_{name}" for name in NAMES)
    return any(
        "lora_A." in n and any(suffix in n for suffix in adapter_suffixes)
        for n in file.tensors
    )


def tensors(file: OpenFile) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(of the UNet, of the autoencoder): LoRA pairs, and replaced weights (conv_in)."""
    unet = file.groups.get(UNET, file.tensors)
    return _named(unet), _named(file.groups.get(VAE, {}))


def timestep(file: OpenFile) -> int | None:
    """The t of OSEDiff's one step; None for PiSA-SR, whose dict has no rank_unet."""
    return 999 if "rank_unet" in file.metadata else None


def _named(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that replace the base's get the names of ``set_weight``, ``set_bias``."""
    return {
        name if "lora_" in name else _replacement(name): tensor
        for name, tensor in stored.items()
    }


def _replacement(name: str) -> str:
    module, _, leaf = name.replace(".base_layer.", ".").rpartition(".")
    return f"{module}.set_{leaf}"
