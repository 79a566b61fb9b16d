"""config.json of the libraries: every option is understood or refused by name."""

import pytest

from gendr_jax.errors import InputError
from gendr_jax.models.dinov2 import DINOv2Config
from gendr_jax.models.unet import UNetConfig
from gendr_jax.models.vae import VAEConfig
from gendr_jax.weights.foreign import config_json

CONFIGS = {
    "unet": UNetConfig(
        in_channels=4,
        out_channels=6,
        block_out_channels=(16, 32),
        layers_per_block=1,
        heads=(2, 4),
        attention=(False, True),
        cross_attention_dim=12,
        norm_groups=8,
        norm_eps=1e-4,
    ),
    "vae": VAEConfig(
        latent_channels=6,
        block_out_channels=(16, 24),
        layers_per_block=1,
        norm_groups=8,
        quant_conv=False,
        scaling_factor=0.36,
        shift_factor=0.11,
    ),
    "dinov2": DINOv2Config(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=42,
        use_mask_token=False,
    ),
}


@pytest.mark.parametrize(
    "kind, options",
    [
        ("unet", {"class_embed_type": "timestep"}),
        ("unet", {"only_cross_attention": True}),
        ("unet", {"transformer_layers_per_block": [1, 2]}),
        ("unet", {"layers_per_block": [1, 2]}),
        ("unet", {"up_block_types": ["UpBlock2D", "UpBlock2D"]}),
        ("unet", {"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}),
        ("unet", {"mid_block_type": "UNetMidBlock2D"}),
        ("unet", {"flip_sin_to_cos": False}),
        ("unet", {"act_fn": "gelu"}),
        ("unet", {"in_channels": "four"}),
        ("unet", {"in_channels": True}),
        ("unet", {"option_of_tomorrow": 3}),
        ("vae", {"mid_block_add_attention": "no"}),
        ("vae", {"latents_mean": [0.1, 0.2]}),
        ("vae", {"out_channels": 4}),
        ("vae", {"down_block_types": ["DownEncoderBlock2D", "Attn"]}),
        ("vae", {"_class_name": "AutoencoderTiny"}),
        ("vae", {"scaling_factor": "big"}),
        ("dinov2", {"use_swiglu_ffn": True}),
        ("dinov2", {"hidden_act": "relu"}),
        ("dinov2", {"image_size": [42, 56]}),
        ("dinov2", {"model_type": "dinov2_with_registers", "num_register_tokens": 4}),
        ("dinov2", {"num_channels": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_options_we_do_not_have_are_refused_by_name(kind, options):
    raw = config_json.dump(CONFIGS[kind])
    assert config_json.parse(kind, raw) == CONFIGS[kind]
    with pytest.raises(InputError) as error:
        config_json.parse(kind, raw | options, "somewhere/config.json")
    message = str(error.value)
    assert message.startswith("somewhere/config.json: ")
    for name, value in options.items():
        assert f"{name}={value!r} is not supported" in message


def test_options_that_are_off_or_without_effect_are_accepted():
    raw = config_json.dump(CONFIGS["unet"]) | {
        "class_embed_type": None,
        "only_cross_attention": [False, False],
        "upcast_attention": True,
        "sample_size": 96,
        "option_of_tomorrow": False,
        "transformer_layers_per_block": [1, 1],
        "layers_per_block": [1, 1],
        "cross_attention_dim": [12, 12],
    }
    assert config_json.parse("unet", raw) == CONFIGS["unet"]


def test_absent_options_have_the_libraries_defaults():
    """An SD 1 config.json says no linear projection, no norm_eps, one head count."""
    config = config_json.parse("unet", {"cross_attention_dim": 768, "norm_eps": None})
    assert config == UNetConfig(
        in_channels=4,
        out_channels=4,
        heads=(8, 8, 8, 8),
        cross_attention_dim=768,
        linear_projection=False,
    )
    assert config_json.parse("dinov2", {}).image_size == 224
    old = config_json.parse("vae", {"block_out_channels": [64, 128]})
    assert (old.scaling_factor, old.latent_channels, old.quant_conv) == (
        0.18215,
        4,
        True,
    )


@pytest.mark.parametrize(
    "heads, message",
    [([2], "heads has 1 entries"), (5, "32 channels do not divide into 5 heads")],
)
def test_heads_that_cannot_be_are_one_line(heads, message):
    raw = config_json.dump(CONFIGS["unet"]) | {"attention_head_dim": heads}
    with pytest.raises(InputError, match=f"somewhere: .*{message}"):
        config_json.parse("unet", raw, "somewhere")
