"""The name map is a bijection on every key of the full-size models."""

import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.models.dinov2 import DINOv2, DINOv2Config
from gendr_jax.models.lora import LoRAConfig
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.weights.foreign import names

UNET16 = UNetConfig()
UNET4 = UNetConfig(in_channels=4, out_channels=4)
VAE16 = VAEConfig()


def _diffusers(name: str):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    # The published config.json files, by their options that differ from the default.
    unet = {
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    }
    vae = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 16,
    }
    with torch.device("meta"):
        if name == "unet16":
            return diffusers.UNet2DConditionModel(
                in_channels=16, out_channels=16, **unet
            )
        if name == "unet4":
            return diffusers.UNet2DConditionModel(**unet)
        if name == "flux":
            return diffusers.AutoencoderKL(
                use_quant_conv=False, use_post_quant_conv=False, **vae
            )
        return diffusers.AutoencoderKL(
            **vae | {"block_out_channels": (128, 128, 256, 512)}
        )


def _dinov2_files(size: str) -> dict:
    """Names and shapes as transformers 5 writes them to a file."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = getattr(DINOv2Config, size)()
    with torch.device("meta"):
        model = transformers.Dinov2Model(
            transformers.Dinov2Config(
                hidden_size=config.hidden_size,
                num_hidden_layers=config.num_hidden_layers,
                num_attention_heads=config.num_attention_heads,
                image_size=config.image_size,
            )
        )
    stored = {
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
    }
    tensors = {}
    for name, tensor in model.state_dict().items():
        for modern, old in stored.items():
            name = name.replace(modern, old)
        tensors[name] = tuple(tensor.shape)
    return tensors


def _assert_bijection(abstract: nets.Params, theirs: dict[str, tuple]) -> None:
    assert names.torch_shapes(abstract) == theirs
    paths = {name: names.param_path(name, len(shape)) for name, shape in theirs.items()}
    ours = nets.flatten(abstract)
    assert set(paths.values()) == ours.keys()
    for name, path in paths.items():
        assert names.torch_name(path) == name
        shape = tuple(
            theirs[name][a] for a in names.param_axes(path, len(theirs[name]))
        )
        assert shape == ours[path].shape, name


@pytest.mark.torch
@pytest.mark.parametrize(
    "name, model, config",
    [
        ("unet16", UNet, UNET16),
        ("unet4", UNet, UNET4),
        ("vae16", VAE, VAE16),
        (
            "flux",
            VAE,
            VAEConfig(
                block_out_channels=(128, 256, 512, 512),
                quant_conv=False,
                post_quant_conv=False,
            ),
        ),
    ],
    ids=["unet16", "unet4", "vae16", "flux"],
)
def test_every_key_of_diffusers_models(name, model, config):
    module = _diffusers(name)
    theirs = {n: tuple(t.shape) for n, t in module.state_dict().items()}
    _assert_bijection(nets.build(model, config).abstract, theirs)


@pytest.mark.torch
@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_every_key_of_dinov2(size):
    abstract = nets.build(DINOv2, getattr(DINOv2Config, size)()).abstract
    _assert_bijection(abstract, _dinov2_files(size))


@pytest.mark.torch
def test_every_key_of_a_full_size_peft_adapter():
    peft = pytest.importorskip("peft")
    config = LoRAConfig()
    module = _diffusers("unet16")
    module.add_adapter(
        peft.LoraConfig(
            r=config.rank, lora_alpha=config.alpha, target_modules=list(config.targets)
        )
    )
    theirs = {
        name: tuple(t.shape)
        for name, t in peft.get_peft_model_state_dict(module).items()
    }
    abstract = nets.build(UNet, UNET16, lora=config).abstract
    _assert_bijection(nets.split_lora(abstract)[1], theirs)


@pytest.mark.parametrize(
    "path, name, ours, torchs",
    [
        (("conv_in", "kernel"), "conv_in.weight", (3, 5, 4, 8), (8, 4, 3, 5)),
        (("to_out", "0", "kernel"), "to_out.0.weight", (4, 8), (8, 4)),
        (("norm", "scale"), "norm.weight", (4,), (4,)),
        (("norm", "bias"), "norm.bias", (4,), (4,)),
        (("conv", "lora_a"), "conv.lora_A.weight", (3, 5, 4, 2), (2, 4, 3, 5)),
        (("conv", "lora_b"), "conv.lora_B.weight", (1, 1, 2, 8), (8, 2, 1, 1)),
        (("to_q", "lora_a"), "to_q.lora_A.weight", (4, 2), (2, 4)),
        (("e", "cls_token"), "e.cls_token", (1, 1, 4), (1, 1, 4)),
        (("e", "mask_token"), "e.mask_token", (1, 4), (1, 4)),
        (("l", "lambda1"), "l.lambda1", (4,), (4,)),
    ],
)
def test_names_and_axes_in_both_directions(path, name, ours, torchs):
    array = np.arange(np.prod(ours)).reshape(ours)
    params = nets.unflatten({path: array})
    tensors = names.to_torch(params)
    assert list(tensors) == [name]
    assert tensors[name].shape == torchs == names.torch_shapes(params)[name]
    assert tensors[name].flags.c_contiguous
    back = nets.flatten(names.from_torch(tensors))
    assert list(back) == [path]
    np.testing.assert_array_equal(back[path], array)


def test_axes_are_where_torch_has_them():
    """Which number lands where, not only which shape."""
    kernel = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    tensor = names.to_torch({"c": {"kernel": kernel}})["c.weight"]
    assert tensor[6, 4, 1, 2] == kernel[1, 2, 4, 6]
    matrix = np.arange(6).reshape(2, 3)
    assert names.to_torch({"l": {"kernel": matrix}})["l.weight"][2, 1] == matrix[1, 2]


def test_dtypes_are_kept():
    import ml_dtypes

    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        tensors = names.to_torch({"l": {"kernel": np.ones((2, 3), dtype)}})
        assert tensors["l.weight"].dtype == dtype
        assert names.from_torch(tensors)["l"]["kernel"].dtype == dtype


def test_two_names_of_one_parameter_are_refused():
    with pytest.raises(ValueError, match="Two tensors are the parameter norm.scale"):
        names.from_torch({"norm.weight": np.ones(2), "norm.scale": np.ones(2)})
