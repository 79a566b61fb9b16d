"""`gendr inspect` of other programs' files: kind, format, numbers, and no guess."""

import json
from pathlib import Path

import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.cli.main import main
from gendr_jax.errors import InputError
from gendr_jax.models.dinov2 import DINOv2, DINOv2Config
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.weights.describe import describe
from gendr_jax.weights.foreign import component_folder, dinov2, layouts, ldm, names
from gendr_jax.weights.foreign.tensors import write_safetensors

UNET = UNetConfig(
    in_channels=4,
    out_channels=4,
    block_out_channels=(64, 128),
    layers_per_block=1,
    heads=(1, 2),
    attention=(True, False),
    cross_attention_dim=1024,
)
VAE16 = VAEConfig(block_out_channels=(32, 64), layers_per_block=1)
DINO = DINOv2Config(hidden_size=64, num_hidden_layers=2, num_attention_heads=1)


def draw(model: type, config) -> nets.Params:
    rng = np.random.default_rng(0)
    flat = nets.flatten(nets.build(model, config).abstract)
    return nets.unflatten(
        {p: rng.standard_normal(a.shape, np.float32) for p, a in flat.items()}
    )


def scattered(layout: layouts.Layout, params: nets.Params, prefix: str = "") -> dict:
    tensors = layouts.scatter(layout, names.to_torch(params))
    return {prefix + name: array for name, array in tensors.items()}


@pytest.fixture(scope="module")
def ldm_file(tmp_path_factory) -> Path:
    tensors = scattered(ldm.unet_layout(UNET), draw(UNet, UNET), ldm.UNET_PREFIX)
    tensors |= scattered(ldm.vae_layout(VAE16), draw(VAE, VAE16), ldm.VAE_PREFIX)
    tensors["cond_stage_model.weight"] = np.zeros(3, np.float32)
    path = tmp_path_factory.mktemp("ldm") / "model.safetensors"
    write_safetensors(path, tensors)
    return path


def test_a_single_file_with_two_networks(ldm_file):
    answer = describe(ldm_file, verify=True)
    assert answer["kind"] == "pipeline" and answer["format"] == "LDM checkpoint"
    expected = {
        "unet": nets.count(nets.build(UNet, UNET).abstract),
        "vae": nets.count(nets.build(VAE, VAE16).abstract),
    }
    assert answer["components"] == expected
    assert answer["parameters"] == sum(expected.values())
    assert answer["left_out"] == {"text encoder": 1}
    assert answer["config"]["unet"]["heads"] == UNET.heads
    # the file says neither, so neither do we
    assert answer["prediction_type"] is None
    assert answer["config"]["vae"]["scaling_factor"] is None
    assert len(answer["sha256"]["model.safetensors"]) == 64
    json.dumps(answer)


def test_a_component_folder_and_a_hub_file(tmp_path):
    params = draw(DINOv2, DINO)
    component_folder.save_component(tmp_path / "folder", DINO, params)
    hub = tmp_path / "hub.safetensors"
    write_safetensors(hub, scattered(dinov2.layout(DINO), params))
    for path, form in (
        (tmp_path / "folder", "transformers dinov2"),
        (hub, "DINOv2 hub file"),
    ):
        answer = describe(path, verify=True)
        assert (answer["kind"], answer["format"]) == ("dinov2", form)
        assert answer["parameters"] == nets.count(params)
        assert answer["dtypes"] == {"float32": nets.count(params)}


def test_adapters_tell_their_modules_and_ranks(tmp_path):
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {
        f"{stem}.lora_down.weight": np.ones((4, 64), np.float16),
        f"{stem}.lora_up.weight": np.ones((64, 4), np.float16),
        f"{stem}.alpha": np.array(4, np.float16),
        "lora_te_x.lora_down.weight": np.ones((4, 8), np.float16),
    }
    write_safetensors(tmp_path / "k.safetensors", tensors)
    answer = describe(tmp_path / "k.safetensors")
    assert answer["kind"] == "lora" and answer["format"] == "kohya LoRA"
    assert answer["config"]["lora"]["ranks"] == [4]
    assert sum(answer["left_out"].values()) == 1
    tensors[f"{stem}.lora_up.weight"] = np.full((64, 4), np.nan, np.float16)
    write_safetensors(tmp_path / "k.safetensors", tensors)
    with pytest.raises(InputError, match=r"NaN or Inf in .*lora_up"):
        describe(tmp_path / "k.safetensors", verify=True)


def test_verify_names_what_does_not_fit(ldm_file, tmp_path):
    layout = ldm.unet_layout(UNET)
    tensors = scattered(layout, draw(UNet, UNET), ldm.UNET_PREFIX)
    tensors[ldm.UNET_PREFIX + "out.2.biass"] = tensors.pop(
        ldm.UNET_PREFIX + "out.2.bias"
    )
    write_safetensors(tmp_path / "m.safetensors", tensors)
    with pytest.raises(InputError, match=r"missing out.2.bias \(nearest: out.2.biass"):
        describe(tmp_path / "m.safetensors", verify=True)


def test_the_command(ldm_file, tmp_path, capsys):
    assert main(["inspect", str(ldm_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "LDM checkpoint"
    (tmp_path / "x.safetensors").write_bytes(b"no")
    assert main(["inspect", str(tmp_path / "x.safetensors")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("gendr: error: ") and error.count("\n") == 1
