"""Configurations that no network can have are refused with the field and its value."""

import pytest

from gendr_jax.models.dinov2 import DINOv2Config
from gendr_jax.models.heads import DiscriminatorHeadConfig, PatchDiscriminatorConfig
from gendr_jax.models.lora import LoRAConfig
from gendr_jax.models.unet import UNetConfig
from gendr_jax.models.vae import VAEConfig


@pytest.mark.parametrize(
    ("config", "fields", "words"),
    [
        (UNetConfig, {"norm_groups": 0}, "norm_groups is 0. Give 1 or more"),
        (UNetConfig, {"in_channels": 0}, "in_channels is 0"),
        (UNetConfig, {"block_out_channels": (32, 0, 64, 64)}, "block_out_channels is"),
        (UNetConfig, {"layers_per_block": 0}, "layers_per_block is 0"),
        (UNetConfig, {"heads": (5, 10, 20, 0)}, "heads is"),
        (UNetConfig, {"cross_attention_dim": -1}, "cross_attention_dim is -1"),
        (VAEConfig, {"latent_channels": 0}, "latent_channels is 0. Give 1 or more"),
        (VAEConfig, {"block_out_channels": ()}, "block_out_channels is ()"),
        (DiscriminatorHeadConfig, {"hidden_channels": 0}, "hidden_channels is 0"),
        (PatchDiscriminatorConfig, {"widths": (64, 0)}, "widths is"),
        (LoRAConfig, {"alpha": float("nan")}, "alpha is nan"),
        (DINOv2Config, {"num_attention_heads": 7}, "does not divide into 7 heads"),
    ],
)
def test_impossible_configurations(config, fields, words):
    with pytest.raises(ValueError, match=words):
        config(**fields)
