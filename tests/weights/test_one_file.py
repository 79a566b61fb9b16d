"""Weights as one file: our names, names of LDM, adapters with those of sd-scripts."""

import json

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from gendr_jax import nets
from gendr_jax.api import load_component
from gendr_jax.cli import inspect
from gendr_jax.errors import InputError, UsageError
from gendr_jax.models.lora import LoRAConfig
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.weights import folder, one_file
from gendr_jax.weights.convert import Options, convert
from gendr_jax.weights.foreign import names
from gendr_jax.weights.gendr_json import Weights

# What an LDM file can say: 32 groups, and 8 heads of a context 768 wide.
UNET = UNetConfig(4, 4, (32, 32), 1, (8, 8), (True, False), 768, 32)
CONFIG = VAEConfig(3, 4, (32, 32), 1, 32, scaling_factor=0.3, shift_factor=0.1)
LORA = LoRAConfig(2, 3.0, ("to_q", "conv1"))


def drawn(abstract, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: rng.standard_normal(a.shape, np.float32), abstract)


def assert_same(one, two):
    one, two = nets.flatten(one), nets.flatten(two)
    assert one.keys() == two.keys()
    for path, array in one.items():
        np.testing.assert_array_equal(array, two[path], str(path))


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """(folder with both networks and a prompt, the same with adapters)."""
    place = tmp_path_factory.mktemp("ours")
    params = {
        "unet": drawn(nets.build(UNet, UNET).abstract),
        "vae": drawn(nets.build(VAE, CONFIG).abstract, 1),
    }
    weights = Weights(
        kind="restorer",
        configs={"unet": UNET, "vae": CONFIG},
        params=params,
        prompt={"positive": np.ones((7, 768), np.float32)},
        prediction="v",
        t_star=123,
    )
    (place / "plain").mkdir()
    folder.write(place / "plain", weights)
    adapted = nets.split_lora(nets.build(UNet, UNET, lora=LORA).abstract)[1]
    lora = Weights(
        kind="lora",
        configs={"unet": UNET, "lora": LORA},
        params={"lora": drawn(adapted, 2)},
    )
    (place / "lora").mkdir()
    folder.write(place / "lora", lora)
    return place / "plain", place / "lora"


def test_our_names_hold_all_that_the_folder_says(ours, tmp_path, capsys):
    file = tmp_path / "a.safetensors"
    convert([ours[0]], file, Options(to="safetensors"))
    tensors = load_file(file)  # the library's own reader
    kernel = folder.load(ours[0]).params["unet"]["conv_in"]["kernel"]
    np.testing.assert_array_equal(tensors["unet.conv_in.kernel"], kernel)
    assert tensors["prompt.positive"].shape == (7, 768)
    with safe_open(file, framework="np") as opened:
        assert json.loads(opened.metadata()["gendr"])["t_star"] == 123
    convert([file], tmp_path / "back", Options())
    one, two = folder.load(ours[0]), folder.load(tmp_path / "back")
    assert (two.kind, two.prediction, two.t_star) == ("restorer", "v", 123)
    assert_same(one.components(), two.components())
    said = inspect.describe(file, verify=True)
    assert said["verified"] and said["kind"] == "restorer"
    config, params = load_component(file, "vae")
    assert config == CONFIG
    assert_same(params, one.params["vae"])


def test_a_file_of_ours_that_was_changed_is_refused(ours, tmp_path):
    file = tmp_path / "a.safetensors"
    convert([ours[0]], file, Options(to="safetensors"))
    with safe_open(file, framework="np") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    tensors["vae.decoder.conv_in.bias"] = tensors["vae.decoder.conv_in.bias"] + 1
    save_file(tensors, file, metadata)
    with pytest.raises(InputError, match="vae has sha256 .* damaged"):
        one_file.read(file)
    with pytest.raises(UsageError, match="exists"):
        convert([ours[0]], file, Options(to="safetensors"))
    convert([ours[0]], file, Options(to="safetensors", force=True))
    one_file.read(file)
    for name, said in (("x.bin", "ends in .safetensors"), (".", "ends in|a folder")):
        with pytest.raises(UsageError, match=said):
            convert([ours[0]], tmp_path / name, Options(to="safetensors"))


def test_an_ldm_file_comes_back_equal(ours, tmp_path):
    file = tmp_path / "a.safetensors"
    report = convert([ours[0]], file, Options(to="ldm"))
    assert report["left_out"] == {"prompt": 1}
    convert([file], tmp_path / "back", Options())
    one, two = folder.load(ours[0]), folder.load(tmp_path / "back")
    assert two.configs["vae"] == CONFIG and two.configs["unet"] == UNET
    assert two.prediction == "v"
    assert_same(one.params, two.params)
    with pytest.raises(UsageError, match="holds no adapters"):
        convert([*ours], tmp_path / "b.safetensors", Options(to="ldm"))
    other = tmp_path / "other"
    config = UNetConfig(4, 4, (8, 16), 1, (1, 2), (True, False), 6, 4)
    params = drawn(nets.build(UNet, config).abstract)
    folder.save(other, kind="base", unet=(config, params))
    with pytest.raises(UsageError, match="cannot express the unet's .*norm_groups 4"):
        convert([other], tmp_path / "b.safetensors", Options(to="ldm"))
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.torch
def test_diffusers_reads_the_ldm_file(ours, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    convert([ours[0]], tmp_path / "a.safetensors", Options(to="ldm"))
    convert([ours[0]], tmp_path / "theirs", Options(to="diffusers"))
    weights = folder.load(ours[0])
    for name, kind in (
        ("unet", diffusers.UNet2DConditionModel),
        ("vae", diffusers.AutoencoderKL),
    ):
        model = kind.from_single_file(
            str(tmp_path / "a.safetensors"),
            config=str(tmp_path / "theirs"),
            subfolder=name,
        )
        found = {n: t.numpy() for n, t in model.state_dict().items()}
        expected = names.to_torch(weights.params[name])
        assert found.keys() == expected.keys()
        for key, array in expected.items():
            np.testing.assert_array_equal(found[key], array, key)


@pytest.mark.torch
def test_adapters_as_a_file_of_sd_scripts(ours, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    file = tmp_path / "lora.safetensors"
    convert([ours[1]], file, Options(to="kohya"))
    assert all(n.startswith("lora_unet_") for n in load_file(file))
    convert([ours[0], ours[1]], tmp_path / "one", Options(merge=True))
    convert([ours[0], file], tmp_path / "two", Options(merge=True))
    one, two = (folder.load(tmp_path / n).params["unet"] for n in ("one", "two"))
    for path, array in nets.flatten(one).items():
        np.testing.assert_allclose(nets.flatten(two)[path], array, atol=1e-5)
    # diffusers reads it and computes what the merged network computes.
    convert([ours[0]], tmp_path / "theirs", Options(to="diffusers"))
    unet = diffusers.UNet2DConditionModel.from_pretrained(
        tmp_path / "theirs", subfolder="unet"
    )
    state, alphas = diffusers.StableDiffusionPipeline.lora_state_dict(
        str(file), unet_config=unet.config
    )
    diffusers.StableDiffusionPipeline.load_lora_into_unet(state, alphas, unet)
    unet.fuse_lora()
    with torch.no_grad():
        merged = unet.down_blocks[0].resnets[0].conv1.base_layer.weight.numpy()
    kernel = two["down_blocks"]["0"]["resnets"]["0"]["conv1"]["kernel"]
    np.testing.assert_allclose(merged, kernel.transpose(3, 2, 0, 1), atol=1e-5)
