"""Adapters of OSEDiff: its dict, alpha 8 over the rank, its autoencoder, t = 999."""

import jax
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.errors import UsageError
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.weights import folder
from gendr_jax.weights.convert import Options, convert
from gendr_jax.weights.foreign import names
from gendr_jax.weights.foreign.component_folder import save_component
from gendr_jax.weights.foreign.single_files import Hints

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

UNET = UNetConfig(4, 4, (8, 16), 1, (1, 2), (True, False), 6, 4)
CONFIG = VAEConfig(3, 4, (8, 12), 1, 4)
RANK = 2
LAYERS = {
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": "default_encoder",
    "up_blocks.1.resnets.0.conv1": "default_decoder",
    "mid_block.resnets.0.conv1": "default_others",
    "conv_in": "default_encoder",
}
VAE_LAYER = "encoder.down_blocks.0.resnets.0.conv1"
MERGE = Options(merge=True, hints=Hints(prediction="eps"))


def drawn(model, config):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda a: rng.standard_normal(a.shape, np.float32),
        nets.build(model, config).abstract,
    )


def pair(rng, weight):
    down = rng.standard_normal((RANK, *weight.shape[1:]), np.float32)
    up = rng.standard_normal((len(weight), RANK, *(1 for _ in weight.shape[2:])))
    return down, up.astype(np.float32)


@pytest.fixture
def sample(tmp_path):
    """(sources, OSEDiff's dict, torch weights that are expected by network)."""
    params = {"unet": drawn(UNet, UNET), "vae": drawn(VAE, CONFIG)}
    save_component(tmp_path / "sd" / "unet", UNET, params["unet"])
    save_component(tmp_path / "sd" / "vae", CONFIG, params["vae"])
    base = {name: names.to_torch(tree) for name, tree in params.items()}
    rng, states = np.random.default_rng(1), {"unet": {}, "vae": {}}
    for name in ("conv_in.weight", "conv_in.bias"):
        base["unet"][name] = rng.standard_normal(base["unet"][name].shape, np.float32)
        states["unet"][name.replace("conv_in.", "conv_in.base_layer.")] = base["unet"][
            name
        ]
    for network, layers in (("unet", LAYERS), ("vae", {VAE_LAYER: "default_encoder"})):
        for layer, adapter in layers.items():
            weight = base[network][f"{layer}.weight"]
            down, up = pair(rng, weight)
            states[network][f"{layer}.lora_A.{adapter}.weight"] = down
            states[network][f"{layer}.lora_B.{adapter}.weight"] = up
            product = up.reshape(len(up), RANK) @ down.reshape(RANK, -1)
            base[network][f"{layer}.weight"] = weight + 8 / RANK * product.reshape(
                weight.shape
            )
    content = {
        "rank_unet": RANK,
        "rank_vae": RANK,
        "unet_lora_encoder_modules": ["conv_in"],
        "vae_lora_encoder_modules": [VAE_LAYER],
        **{
            f"state_dict_{network}": {n: torch.tensor(a) for n, a in state.items()}
            for network, state in states.items()
        },
    }
    torch.save(content, tmp_path / "osediff.pkl")
    return [tmp_path / "sd", tmp_path / "osediff.pkl"], content, base


def test_the_dict_is_merged_into_both_networks(sample, tmp_path):
    sources, _, expected = sample
    report = convert(sources, tmp_path / "w", MERGE)
    assert report["formats"] == ["diffusers pipeline", "OSEDiff adapters"]
    assert report["left_out"] == {}
    found = folder.load(tmp_path / "w")
    assert found.t_star == 999
    for network, tensors in expected.items():
        merged = names.to_torch(found.params[network])
        for name, tensor in tensors.items():
            np.testing.assert_allclose(merged[name], tensor, atol=1e-5, err_msg=name)


def test_what_cannot_be_used_is_counted_or_refused(sample, tmp_path):
    sources, content, _ = sample
    report = convert([sources[0] / "unet", sources[1]], tmp_path / "w", MERGE)
    assert report["left_out"] == {"adapters of the autoencoder": 2}
    with pytest.raises(UsageError, match="--merge"):
        convert(sources, tmp_path / "x", Options(hints=Hints(prediction="eps")))
    np.savez(tmp_path / "p.npz", positive=np.zeros((77, 6), np.float32))
    options = Options(merge=True, prompt=tmp_path / "p.npz", hints=MERGE.hints)
    with pytest.raises(UsageError, match="t = 999 .*alpha_bar = 1/2"):
        convert(sources, tmp_path / "x", options)
    # The tensors of the UNet alone, as in its training's checkpoints.
    torch.save(content["state_dict_unet"], tmp_path / "unet.pt")
    convert([sources[0] / "unet", tmp_path / "unet.pt"], tmp_path / "alone", MERGE)
    one, two = (folder.load(tmp_path / n).params["unet"] for n in ("w", "alone"))
    for path, array in nets.flatten(one).items():
        np.testing.assert_array_equal(nets.flatten(two)[path], array)
