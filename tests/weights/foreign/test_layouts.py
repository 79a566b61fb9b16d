"""Layouts of foreign files: bijections, the libraries' own names, what shapes imply."""

import dataclasses
import functools
import itertools
import math

import jax
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.errors import InputError
from gendr_jax.models.dinov2 import DINOv2, DINOv2Config
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.weights.foreign import dinov2, layouts, ldm, names

TINY_UNET = UNetConfig(
    in_channels=4,
    out_channels=6,
    block_out_channels=(16, 32, 24),
    layers_per_block=1,
    heads=(2, 4, 3),
    attention=(True, False, True),
    cross_attention_dim=12,
    norm_groups=8,
)
SD1_UNET = UNetConfig(
    in_channels=4,
    out_channels=4,
    heads=(8, 8, 8, 8),
    cross_attention_dim=768,
    linear_projection=False,
)
TINY_VAE = VAEConfig(
    in_channels=1,
    latent_channels=6,
    block_out_channels=(16, 24, 24),
    layers_per_block=1,
    norm_groups=8,
    quant_conv=False,
)
VAE4 = VAEConfig(
    latent_channels=4,
    block_out_channels=(128, 256, 512, 512),
    scaling_factor=0.18215,
)
FLUX_VAE = VAEConfig(
    block_out_channels=(128, 256, 512, 512),
    quant_conv=False,
    post_quant_conv=False,
    scaling_factor=0.3611,
    shift_factor=0.1159,
)
TINY_DINO = DINOv2Config(
    hidden_size=128,
    num_hidden_layers=2,
    num_attention_heads=2,
    mlp_ratio=3,
    image_size=42,
)
UNETS = {
    "sd21": UNetConfig(in_channels=4, out_channels=4),
    "sd21-16": UNetConfig(),
    "sd15": SD1_UNET,
    "tiny": TINY_UNET,
}
VAES = {
    "vae4": VAE4,
    "vae16": VAEConfig(),
    "flux": FLUX_VAE,
    "tiny": TINY_VAE,
    "no-attention": dataclasses.replace(TINY_VAE, mid_attention=False),
}
DINOS = {
    "small": DINOv2Config.small(),
    "base": DINOv2Config.base(),
    "large": DINOv2Config.large(),
    "tiny": TINY_DINO,
    "no-mask": dataclasses.replace(TINY_DINO, use_mask_token=False),
    "no-qkv-bias": dataclasses.replace(TINY_DINO, qkv_bias=False),
}
ALL = [*UNETS.values(), *VAES.values(), *DINOS.values()]
ALL_IDS = [
    f"{kind}-{which}"
    for kind, configs in (("unet", UNETS), ("vae", VAES), ("dinov2", DINOS))
    for which in configs
]

CLASSES = {UNetConfig: UNet, VAEConfig: VAE, DINOv2Config: DINOv2}
LAYOUTS = {
    UNetConfig: ldm.unet_layout,
    VAEConfig: ldm.vae_layout,
    DINOv2Config: dinov2.layout,
}


@functools.cache
def our_shapes(config) -> dict[str, layouts.Shape]:
    return names.torch_shapes(nets.build(CLASSES[type(config)], config).abstract)


@functools.cache
def layout_of(config) -> layouts.Layout:
    return LAYOUTS[type(config)](config)


def foreign_shapes(config) -> dict[str, layouts.Shape]:
    return layouts.foreign_shapes(layout_of(config))


def random_tensors(config, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = our_shapes(config).items()
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes}


@pytest.mark.parametrize("config", ALL, ids=ALL_IDS)
def test_every_tensor_has_one_place_and_every_place_is_filled(config):
    layout, shapes = layout_of(config), our_shapes(config)
    assert layout.keys() == shapes.keys()
    places: dict[str, list[layouts.StoredTensor]] = {}
    for name, place in layout.items():
        rows = place.shape[0] if place.rows is None else place.rows[1] - place.rows[0]
        assert rows * np.prod(place.shape[1:]) == np.prod(shapes[name]), name
        places.setdefault(place.name, []).append(place)
    for name, parts in places.items():
        assert len({part.shape for part in parts}) == 1, name
        if len(parts) == 1:
            assert parts[0].rows is None, name
            continue
        rows = sorted(part.rows for part in parts)
        assert rows[0][0] == 0 and rows[-1][1] == parts[0].shape[0], name
        assert all(a[1] == b[0] for a, b in itertools.pairwise(rows)), name


@pytest.mark.parametrize(
    "config", [TINY_UNET, TINY_VAE, TINY_DINO], ids=["unet", "vae", "dinov2"]
)
def test_gather_undoes_scatter(config):
    tensors, layout = random_tensors(config), layout_of(config)
    foreign = layouts.scatter(layout, tensors)
    assert {n: a.shape for n, a in foreign.items()} == foreign_shapes(config)
    for name, array in tensors.items():
        again = layouts.gather(layout, our_shapes(config), name, foreign.__getitem__)
        np.testing.assert_array_equal(again, array, err_msg=name)


def test_what_is_known_of_the_published_files():
    unet, vae = foreign_shapes(UNETS["sd21"]), foreign_shapes(VAES["vae4"])
    assert (len(unet), len(vae)) == (686, 248)
    assert sum(map(math.prod, unet.values())) == 865_910_724
    assert sum(map(math.prod, vae.values())) == 83_653_863
    attention = "transformer_blocks.0.attn2.to_k.weight"
    assert unet[f"input_blocks.1.1.{attention}"] == (320, 1024)
    assert unet["middle_block.1.proj_in.weight"] == (1280, 1280)
    assert unet["input_blocks.3.0.op.weight"] == (320, 320, 3, 3)
    assert unet["output_blocks.2.1.conv.weight"] == (1280, 1280, 3, 3)
    assert unet["output_blocks.5.2.conv.weight"] == (1280, 1280, 3, 3)
    assert unet["output_blocks.11.0.skip_connection.weight"] == (320, 640, 1, 1)
    assert unet["out.2.weight"] == (4, 320, 3, 3)
    sd1 = foreign_shapes(SD1_UNET)
    assert sd1["middle_block.1.proj_in.weight"] == (1280, 1280, 1, 1)
    assert vae["encoder.mid.attn_1.q.weight"] == (512, 512, 1, 1)
    assert vae["decoder.up.0.block.0.nin_shortcut.weight"] == (128, 256, 1, 1)
    assert vae["decoder.up.3.upsample.conv.weight"] == (512, 512, 3, 3)
    assert "decoder.up.0.upsample.conv.weight" not in vae
    assert vae["quant_conv.weight"] == (8, 8, 1, 1)


def _diffusers_reads(config, converter: str, prefix: str, options: dict) -> dict:
    """Our tensors after the way to the foreign file and diffusers' way back."""
    torch = pytest.importorskip("torch")
    single = pytest.importorskip("diffusers.loaders.single_file_utils")
    foreign = layouts.scatter(layout_of(config), random_tensors(config))
    file = {prefix + name: torch.from_numpy(a) for name, a in foreign.items()}
    back = getattr(single, converter)(file, options)
    return {name: tensor.numpy() for name, tensor in back.items()}


def _assert_equal(theirs: dict, config) -> None:
    ours = random_tensors(config)
    assert theirs.keys() == ours.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(theirs[name], array, err_msg=name)


@pytest.mark.torch
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("linear", [pytest.param(True, marks=pytest.mark.slow), False])
def test_diffusers_reads_our_ldm_unet(count, linear):
    config = dataclasses.replace(
        TINY_UNET, layers_per_block=count, linear_projection=linear
    )
    options = {"layers_per_block": count}
    converter = "convert_ldm_unet_checkpoint"
    _assert_equal(_diffusers_reads(config, converter, ldm.UNET_PREFIX, options), config)


@pytest.mark.torch
@pytest.mark.parametrize("quant", [True, False])
def test_diffusers_reads_our_ldm_vae(quant):
    config = dataclasses.replace(TINY_VAE, quant_conv=quant, post_quant_conv=quant)
    options = {
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
    }
    converter = "convert_ldm_vae_checkpoint"
    _assert_equal(_diffusers_reads(config, converter, ldm.VAE_PREFIX, options), config)


@pytest.mark.torch
def test_diffusers_finds_the_averages_where_we_do():
    """More than a hundred of them, or diffusers does not take them for averages."""
    torch = pytest.importorskip("torch")
    single = pytest.importorskip("diffusers.loaders.single_file_utils")
    foreign = layouts.scatter(layout_of(TINY_UNET), random_tensors(TINY_UNET))
    file = {ldm.UNET_PREFIX + n: torch.zeros(a.shape) for n, a in foreign.items()}
    assert len(file) > 100
    file |= {
        ldm.ema_name(ldm.UNET_PREFIX + n): torch.from_numpy(a)
        for n, a in foreign.items()
    }
    back = single.convert_ldm_unet_checkpoint(
        file, {"layers_per_block": 1}, extract_ema=True
    )
    _assert_equal({name: tensor.numpy() for name, tensor in back.items()}, TINY_UNET)


def test_names_of_averages_and_of_tensors_without_use():
    name = "model.diffusion_model.input_blocks.0.0.weight"
    assert ldm.ema_name(name) == "model_ema.diffusion_modelinput_blocks00weight"
    assert ldm.dropped(name) is None and ldm.dropped(ldm.ema_name(name)) is None
    assert ldm.dropped("first_stage_model.encoder.conv_in.weight") is None
    assert ldm.dropped("cond_stage_model.model.logit_scale") == "text encoder"
    assert ldm.dropped("betas") == "noise schedule"
    assert ldm.dropped("betas_of_mine") is None
    assert "counter" in ldm.dropped("model_ema.decay")
    assert "discriminator" in ldm.dropped("first_stage_model.loss.logvar")


HEAD_DIMS = {"tiny": 8}  # the others follow from their context


@pytest.mark.parametrize("which", UNETS)
def test_unet_config_is_what_the_shapes_imply(which):
    config, options = UNETS[which], {"head_dim": HEAD_DIMS.get(which)}
    options["norm_groups"] = config.norm_groups
    assert ldm.unet_config(foreign_shapes(config), **options) == config


@pytest.mark.parametrize("which", VAES)
def test_vae_config_is_what_the_shapes_imply(which):
    config = VAES[which]
    again = ldm.vae_config(
        foreign_shapes(config),
        scaling_factor=config.scaling_factor,
        shift_factor=config.shift_factor,
        norm_groups=config.norm_groups,
    )
    assert again == config


@pytest.mark.parametrize("which", DINOS)
def test_dinov2_config_is_what_the_shapes_imply(which):
    assert dinov2.config(foreign_shapes(DINOS[which])) == DINOS[which]


def test_heads_and_groups_that_cannot_be_known_are_asked_for():
    shapes = foreign_shapes(TINY_UNET)
    with pytest.raises(InputError, match=r"12 wide.*known for 768 and 1024"):
        ldm.unet_config(shapes, norm_groups=8)
    with pytest.raises(InputError, match=r"16 channels.*heads of 7"):
        ldm.unet_config(shapes, norm_groups=8, head_dim=7)
    with pytest.raises(InputError, match=r"heads of 0"):
        ldm.unet_config(shapes, norm_groups=8, head_dim=0)
    with pytest.raises(InputError, match=r"16 channels.*32 groups"):
        ldm.unet_config(shapes, head_dim=8)
    with pytest.raises(InputError, match=r"16 channels.*32 groups"):
        ldm.vae_config(foreign_shapes(TINY_VAE), scaling_factor=1.0, shift_factor=0.0)


READERS = {
    "unet": (functools.partial(ldm.unet_config, head_dim=8, norm_groups=8), TINY_UNET),
    "vae": (
        functools.partial(
            ldm.vae_config, scaling_factor=1.0, shift_factor=0.0, norm_groups=8
        ),
        TINY_VAE,
    ),
    "dinov2": (dinov2.config, TINY_DINO),
}
readers = pytest.mark.parametrize("kind", READERS)
JUNK = [(), (3,), (0, 0, 0, 0), (5, 7), (1, 1, 1), (3, 5, 3, 3, 3), None, "1234"]


@readers
def test_foreign_dicts_are_refused(kind):
    read, _ = READERS[kind]
    for shapes in ({}, {"weight": (3, 4)}, {"encoder.down.x": (1,)}):
        with pytest.raises(InputError, match="is not among the"):
            read(shapes)


@readers
def test_damaged_dicts_are_read_or_refused_and_nothing_else(kind):
    """One tensor is gone or another: the answer is a configuration or an InputError."""
    read, config = READERS[kind]
    whole = foreign_shapes(config)
    refused = 0
    for name, junk in itertools.product(whole, ["gone", *JUNK]):
        shapes = dict(whole)
        if junk == "gone":
            del shapes[name]
        else:
            shapes[name] = junk
        try:
            assert isinstance(read(shapes), type(config))
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused >= 30


def test_uneven_levels_are_refused():
    shapes = foreign_shapes(VAE4)
    fewer = {n: s for n, s in shapes.items() if not n.startswith("encoder.down.1.")}
    only = "encoder.down.1.block.0.conv1.weight"
    fewer[only] = shapes[only]
    with pytest.raises(InputError, match=r"Resnets a level are \[2, 1, 2, 2\]"):
        ldm.vae_config(fewer, scaling_factor=1.0, shift_factor=0.0)


@pytest.mark.parametrize(
    "name, words",
    [
        ("register_tokens", "registers"),
        ("blocks.0.mlp.w12.weight", "SwiGLU"),
        ("blocks.0.0.norm1.weight", "block_chunks=0"),
    ],
)
def test_other_dinov2_networks_are_refused(name, words):
    with pytest.raises(InputError, match=words):
        dinov2.config(foreign_shapes(TINY_DINO) | {name: (1, 4, 128)})


def test_other_unets_are_refused():
    shapes = foreign_shapes(UNETS["sd21"]) | {"label_emb.0.0.weight": (1280, 2816)}
    with pytest.raises(InputError, match="SDXL"):
        ldm.unet_config(shapes)


HUB_BLOCK = {
    "norm1.weight": (128,),
    "norm1.bias": (128,),
    "attn.qkv.weight": (384, 128),
    "attn.qkv.bias": (384,),
    "attn.proj.weight": (128, 128),
    "attn.proj.bias": (128,),
    "ls1.gamma": (128,),
    "norm2.weight": (128,),
    "norm2.bias": (128,),
    "mlp.fc1.weight": (384, 128),
    "mlp.fc1.bias": (384,),
    "mlp.fc2.weight": (128, 384),
    "mlp.fc2.bias": (128,),
    "ls2.gamma": (128,),
}


def test_hub_names_and_shapes():
    """As the original repository's DinoVisionTransformer declares them."""
    expected = {f"blocks.{i}.{n}": s for i in range(2) for n, s in HUB_BLOCK.items()}
    expected |= {
        "cls_token": (1, 1, 128),
        "pos_embed": (1, 10, 128),
        "mask_token": (1, 128),
        "patch_embed.proj.weight": (128, 3, 14, 14),
        "patch_embed.proj.bias": (128,),
        "norm.weight": (128,),
        "norm.bias": (128,),
    }
    assert foreign_shapes(TINY_DINO) == expected


def _hub_forward(w: dict, x, heads: int):
    """The original vision transformer on hub tensors: patch tokens after the norm."""
    import torch
    from torch.nn import functional as f

    def norm(y, name):
        return f.layer_norm(y, y.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    def linear(y, name):
        return f.linear(y, w[f"{name}.weight"], w[f"{name}.bias"])

    patches = w["patch_embed.proj.weight"], w["patch_embed.proj.bias"]
    y = f.conv2d(x, *patches, stride=14).flatten(2).transpose(1, 2)
    y = torch.cat([w["cls_token"].expand(len(y), -1, -1), y], 1) + w["pos_embed"]
    for i in range(2):
        b = f"blocks.{i}"
        qkv = linear(norm(y, f"{b}.norm1"), f"{b}.attn.qkv")
        qkv = qkv.reshape(*y.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
        mixed = f.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(y.shape)
        y = y + w[f"{b}.ls1.gamma"] * linear(mixed, f"{b}.attn.proj")
        hidden = f.gelu(linear(norm(y, f"{b}.norm2"), f"{b}.mlp.fc1"))
        y = y + w[f"{b}.ls2.gamma"] * linear(hidden, f"{b}.mlp.fc2")
    return norm(y, "norm")[:, 1:]


@pytest.mark.torch
def test_hub_weights_compute_what_the_original_computes():
    torch = pytest.importorskip("torch")
    from tests.helpers.torch_parity import assert_close, nchw

    tensors = {n: 0.2 * a for n, a in random_tensors(TINY_DINO, seed=7).items()}
    foreign = layouts.scatter(layout_of(TINY_DINO), tensors)
    hub = {name: torch.from_numpy(array) for name, array in foreign.items()}
    x = np.random.default_rng(8).standard_normal((2, 42, 42, 3)).astype(np.float32)
    net = nets.build(DINOv2, TINY_DINO)
    got = jax.jit(lambda p: net.bind(p)(x))(names.from_torch(tensors))
    assert_close(got, _hub_forward(hub, nchw(x), 2), "DINOv2 from hub names")
