"""Averaged weights are taken where a file keeps any, and never passed over silently."""

import json
import shutil

import jax
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.errors import InputError
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.weights import folder
from gendr_jax.weights.convert import Options, convert
from gendr_jax.weights.foreign import layouts, ldm, names
from gendr_jax.weights.foreign.component_folder import save_component
from gendr_jax.weights.foreign.single_files import Hints
from gendr_jax.weights.foreign.tensors import write_safetensors

CONFIG = VAEConfig(3, 4, (32, 32), 1, 32, scaling_factor=0.18215)
UNET = UNetConfig(4, 4, (8, 16), 1, (1, 2), (True, False), 6, 4)
CONV = ("decoder", "conv_in", "kernel")


def drawn(model, config, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: rng.standard_normal(a.shape, np.float32),
        nets.build(model, config).abstract,
    )


def as_ldm(params):
    return layouts.scatter(ldm.vae_layout(CONFIG), names.to_torch(params))


@pytest.fixture(scope="module")
def pair():
    """(last weights, their average), names as in the file of an autoencoder."""
    return tuple(as_ldm(drawn(VAE, CONFIG, seed)) for seed in (0, 1))


def first(path, network="vae"):
    params = folder.load(path, components=(network,)).params[network]
    return nets.flatten(params)[CONV if network == "vae" else ("conv_in", "kernel")]


def kernel(tensors):
    return tensors["decoder.conv_in.weight"].transpose(2, 3, 1, 0)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("raw", "average", "wrap"),
    [
        ("params", "params_ema", ""),  # BasicSR
        ("model", "ema", ""),
        ("state_dict", "state_dict_ema", ""),  # timm
        ("model", "model_ema", "module."),  # torch's AveragedModel
        ("model", "ema", "ema_model."),  # ema-pytorch
    ],
)
def test_averages_of_training_checkpoints(tmp_path, pair, raw, average, wrap):
    torch = pytest.importorskip("torch")
    last, mean = ({n: torch.tensor(a) for n, a in tensors.items()} for tensors in pair)
    mean = {wrap + name: tensor for name, tensor in mean.items()}
    if wrap:
        mean |= {"n_averaged": torch.tensor(3), "step": torch.tensor(5)}
    torch.save({raw: last, average: mean, "iteration": 4}, tmp_path / "a.pth")
    report = convert([tmp_path / "a.pth"], tmp_path / "w", Options())
    assert report["left_out"] == {"weights without averaging": len(last)}
    np.testing.assert_array_equal(first(tmp_path / "w"), kernel(pair[1]))
    options = Options(hints=Hints(ema="no"))
    report = convert([tmp_path / "a.pth"], tmp_path / "raw", options)
    assert report["left_out"] == {"averaged weights": len(last)}
    np.testing.assert_array_equal(first(tmp_path / "raw"), kernel(pair[0]))


@pytest.mark.torch
def test_averages_that_cannot_be_read_or_are_incomplete_are_refused(tmp_path, pair):
    torch = pytest.importorskip("torch")
    last, mean = ({n: torch.tensor(a) for n, a in tensors.items()} for tensors in pair)
    nameless = {"decay": 0.99, "shadow_params": list(mean.values())}
    short = dict(list(mean.items())[:-1])
    for ema, said in ((nameless, "without names"), (short, "averages 119 of 120")):
        file = tmp_path / "a.pth"
        torch.save({"model": last, "ema": ema}, file)
        with pytest.raises(InputError, match=said + ".*--ema no"):
            convert([file], tmp_path / "x", Options())
        convert([file], tmp_path / "w", Options(hints=Hints(ema="no"), force=True))
        np.testing.assert_array_equal(first(tmp_path / "w"), kernel(pair[0]))
    torch.save({"params_ema": mean}, file)
    convert([file], tmp_path / "w", Options(hints=Hints(ema="yes"), force=True))
    np.testing.assert_array_equal(first(tmp_path / "w"), kernel(pair[1]))
    with pytest.raises(InputError, match="averaged weights alone"):
        convert([file], tmp_path / "x", Options(hints=Hints(ema="no")))


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_the_autoencoder_of_an_ldm_file_has_averages_too(tmp_path, pair, prefix):
    last, mean = pair
    tensors = {prefix + name: array for name, array in last.items()}
    tensors |= {
        f"{prefix}model_ema.{name.replace('.', '')}": array
        for name, array in mean.items()
    }
    tensors[f"{prefix}model_ema.decay"] = np.zeros((), np.float32)
    write_safetensors(tmp_path / "a.safetensors", tensors)
    report = convert([tmp_path / "a.safetensors"], tmp_path / "w", Options())
    np.testing.assert_array_equal(first(tmp_path / "w"), kernel(mean))
    assert report["left_out"]["weights without averaging"] == len(last)


def test_the_folder_unet_ema_goes_before_unet(tmp_path):
    last, mean = (drawn(UNet, UNET, seed) for seed in (0, 1))
    save_component(tmp_path / "sd" / "unet", UNET, last)
    save_component(tmp_path / "sd" / "unet_ema", UNET, mean)
    config = tmp_path / "sd" / "unet_ema" / "config.json"
    said = json.loads(config.read_text()) | {"decay": 0.9999, "optimization_step": 8}
    config.write_text(json.dumps(said))
    count = len(nets.flatten(last))
    for ema, expected, left_out in (
        ("auto", mean, {"weights without averaging": count}),
        ("no", last, {"averaged weights in unet_ema/": count}),
    ):
        options = Options(hints=Hints(ema=ema, prediction="eps"), force=True)
        report = convert([tmp_path / "sd"], tmp_path / "w", options)
        assert report["left_out"] == left_out
        found = first(tmp_path / "w", "unet")
        np.testing.assert_array_equal(found, expected["conv_in"]["kernel"])
    shutil.rmtree(tmp_path / "sd" / "unet")
    with pytest.raises(InputError, match="averaged weights alone"):
        convert([tmp_path / "sd"], tmp_path / "x", options)
