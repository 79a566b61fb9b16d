"""LoRA files of PEFT, diffusers and kohya are read bit for bit, and written back."""

import json
import logging
import warnings

import jax
import ml_dtypes
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.errors import InputError
from gendr_jax.models.lora import ATTENTION_TARGETS, UNET_TARGETS, LoRAConfig
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.weights.foreign import ldm, names
from gendr_jax.weights.foreign.adapters import lora, lora_names, lora_writing
from gendr_jax.weights.foreign.tensors import Tensor

CONFIG = UNetConfig(
    in_channels=4,
    out_channels=4,
    block_out_channels=(16, 32),
    layers_per_block=1,
    heads=(1, 2),
    attention=(True, False),
    cross_attention_dim=12,
    norm_groups=8,
)
LORA = LoRAConfig(rank=3, alpha=5.0)
SHAPES = lora.kernel_shapes(nets.build(UNet, CONFIG).abstract)
# A base of three layers: what needs no UNet.
FEW = {"conv_in": (8, 4, 3, 3), "a.proj_in": (8, 6, 1, 1), "a.attn1.to_q": (8, 6)}


def opened(arrays):
    """Arrays as a file's directory gives them."""
    return {n: Tensor(n, a.dtype, a.shape, lambda a=a: a) for n, a in arrays.items()}


def read(arrays, shapes=SHAPES, reader=lora.read, **more):
    return reader(opened(arrays), list(shapes), shapes, **more)


def drawn(shapes=FEW, rank=2, dtype=np.float32, seed=0):
    """{module: (down, up)} in torch's layout."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return (0.2 * rng.standard_normal(shape)).astype(dtype)

    return {
        name: (draw(rank, *s[1:]), draw(s[0], rank, *(1 for _ in s[2:])))
        for name, s in shapes.items()
    }


def spelled(pairs, module, down, up, alpha=None):
    """The pairs under names that ``module`` and the endings make."""
    arrays = {}
    for name, (a, b) in pairs.items():
        arrays |= {f"{module(name)}.{down}": a, f"{module(name)}.{up}": b}
        if alpha is not None:
            arrays[f"{module(name)}.alpha"] = np.asarray(alpha)
    return arrays


def kohya(pairs, alpha=None):
    def module(name):
        return "lora_unet_" + name.replace(".", "_")

    return spelled(pairs, module, "lora_down.weight", "lora_up.weight", alpha)


def assert_same(params, expected):
    """Same paths, shapes, dtypes and bits."""
    params, expected = nets.flatten(params), nets.flatten(expected)
    assert params.keys() == expected.keys()
    for path, array in params.items():
        assert array.dtype == expected[path].dtype, path
        assert array.shape == expected[path].shape, path
        assert array.tobytes() == expected[path].tobytes(), path


def torch_unet():
    diffusers = pytest.importorskip("diffusers")
    import torch

    from tests.helpers.torch_parity import randomise

    torch.manual_seed(2)  # biases start from torch's own draw: the same in each copy
    module = diffusers.UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=(1, 2),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        norm_num_groups=8,
        use_linear_projection=True,
    )
    return randomise(module, seed=3)


def with_peft(**options):
    """The UNet as a PeftModel, A of PEFT's gaussian start, B random too."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        target_modules=list(UNET_TARGETS), init_lora_weights="gaussian", **options
    )
    model = peft.get_peft_model(torch_unet(), config).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    return model


def folder_of(model, folder):
    """(tensors, adapter_config) as PEFT saves them."""
    from safetensors.numpy import load_file

    model.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    return load_file(folder / "adapter_model.safetensors"), config


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(1)
    z = rng.standard_normal((2, 8, 4, 4), np.float32)
    return z, np.array([20, 700]), rng.standard_normal((2, 3, 12), np.float32)


def output(module, inputs):
    import torch

    from tests.helpers.torch_parity import nchw, nhwc

    z, t, context = inputs
    with torch.no_grad():
        return nhwc(module(nchw(z), torch.tensor(t), torch.tensor(context)).sample)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, inputs):
    """(PeftModel, its folder's tensors and config, our adapters, its output)."""
    model = with_peft(r=3, lora_alpha=5)
    arrays, config = folder_of(model, tmp_path_factory.mktemp("peft"))
    return model, arrays, read(arrays, peft_config=config), output(model, inputs)


@pytest.mark.torch
def test_a_peft_folder_gives_pefts_output_and_goes_back_bit_for_bit(trained, inputs):
    from tests.helpers.torch_parity import assert_close, params_of

    _, arrays, ours, expected = trained
    assert (ours.config, ours.format, ours.left_out) == (LORA, "peft", {})
    net = nets.build(UNet, CONFIG, lora=ours.config)
    params = nets.overlay(params_of(torch_unet()), ours.params)
    nets.check_like(params, net.abstract)
    got = jax.jit(lambda p, *x: net.bind(p)(*x)[0])(params, *inputs)
    assert_close(got, expected, "peft folder")
    back, config = lora_writing.to_peft(ours.config, ours.params)
    assert back.keys() == arrays.keys()
    for name, array in back.items():
        assert array.dtype == arrays[name].dtype, name
        assert array.shape == arrays[name].shape, name
        assert array.tobytes() == arrays[name].tobytes(), name
    assert (config["r"], config["lora_alpha"]) == (3, 5)
    assert read(back, peft_config=config).config == LORA


@pytest.mark.torch
@pytest.mark.parametrize("writer", ["network", "pipeline"])
def test_a_diffusers_file_is_the_peft_folder(trained, tmp_path, writer):
    import peft
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from safetensors import safe_open

    model, _, ours, _ = trained
    unet = model.base_model.model
    if writer == "network":
        unet.peft_config = model.peft_config
        unet.save_lora_adapter(tmp_path)
    else:
        StableDiffusionLoraLoaderMixin.save_lora_weights(
            tmp_path,
            unet_lora_layers={
                name.removeprefix("base_model.model."): tensor
                for name, tensor in peft.get_peft_model_state_dict(model).items()
            },
            unet_lora_adapter_metadata={"r": 3, "lora_alpha": 5, "bias": "none"},
        )
    with safe_open(tmp_path / "pytorch_lora_weights.safetensors", "np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata()
    assert next(iter(arrays)).startswith("unet.") == (writer == "pipeline")
    got = read(arrays, metadata=metadata)
    assert (got.config, got.format) == (LORA, "diffusers")
    assert_same(got.params, ours.params)
    assert read(arrays).config == LoRAConfig(rank=3, alpha=3.0)


@pytest.mark.torch
def test_old_diffusers_names_are_those_that_diffusers_understands():
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    pairs = drawn(SHAPES, rank=3)

    def old(name):
        for layer in ("to_q", "to_k", "to_v", "to_out.0"):
            if name.endswith(layer):
                parent = name.removesuffix(layer)
                return f"{parent}processor.{layer.removesuffix('.0')}_lora"
        return name + ".lora"

    arrays = spelled(pairs, old, "down.weight", "up.weight")
    modern = spelled(pairs, str, "lora_A.weight", "lora_B.weight")
    theirs = diffusers.utils.state_dict_utils.convert_unet_state_dict_to_peft(arrays)
    assert theirs.keys() == modern.keys()
    arrays = {"unet." + name: array for name, array in arrays.items()}
    got, expected = read(arrays), read(modern)
    assert got.config == expected.config
    assert got.format == "diffusers"
    assert_same(got.params, expected.params)


@pytest.mark.torch
def test_exports_load_in_peft_and_diffusers_and_give_the_same_output(
    trained, inputs, tmp_path
):
    import peft
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from safetensors.numpy import save_file

    from tests.helpers.torch_parity import assert_close

    *_, ours, expected = trained
    tensors, config = lora_writing.to_peft(ours.config, ours.params)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    tensors, metadata = lora_writing.to_diffusers(ours.config, ours.params)
    file = tmp_path / "diffusers" / "pytorch_lora_weights.safetensors"
    file.parent.mkdir()
    save_file(tensors, file, metadata=metadata)
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("diffusers").addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = peft.PeftModel.from_pretrained(torch_unet(), tmp_path)
            assert_close(output(loaded, inputs), expected, "to_peft", 1e-5)
            network = torch_unet()
            network.load_lora_adapter(
                file.parent, prefix="unet", weight_name=file.name, use_safetensors=True
            )
            assert_close(output(network, inputs), expected, "to_diffusers", 1e-5)
            pipeline, loader = torch_unet(), StableDiffusionLoraLoaderMixin
            state, alphas, said = loader.lora_state_dict(
                file.parent, weight_name=file.name, return_lora_metadata=True
            )
            assert all("lora" in name for name in state)  # the pipeline's own check
            loader.load_lora_into_unet(state, alphas, pipeline, metadata=said)
            assert_close(output(pipeline, inputs), expected, "pipeline", 1e-5)
    finally:
        logging.getLogger("diffusers").removeHandler(handler)
    assert not lines


@pytest.mark.torch
def test_modules_of_different_rank_are_refused_and_merge_as_in_peft(tmp_path):
    model = with_peft(
        r=3,
        lora_alpha=5,
        rank_pattern={"attn1.to_q": 2, "^conv_in": 4},
        alpha_pattern={"attn1.to_q": 7, "conv1": 1},
    )
    arrays, config = folder_of(model, tmp_path)
    with pytest.raises(InputError, match=r"rank 2 alpha 7 \(4 modules\).*--merge"):
        read(arrays, peft_config=config)
    pairs = read(arrays, reader=lora.read_modules, peft_config=config)
    assert {(p.rank, p.alpha) for p in pairs.values()} == {
        (3, 5),
        (2, 7),
        (4, 5),
        (3, 1),
    }
    base = {name: t.numpy() for name, t in torch_unet().state_dict().items()}
    merged = lora.merge(base, pairs)
    theirs = model.merge_and_unload().state_dict()
    assert merged.keys() == theirs.keys()
    changed = 0
    for name, tensor in theirs.items():
        scale = tensor.abs().max()
        assert np.abs(merged[name] - tensor.numpy()).max() <= 1e-5 * scale, name
        changed += bool(np.any(tensor.numpy() != base[name]))
    assert changed == len(pairs)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_kohya_names_of_both_spellings_are_the_same_adapters(dtype):
    layout = ldm.unet_layout(CONFIG)
    pairs = drawn(SHAPES, rank=3, dtype=dtype)
    plain = kohya(pairs, alpha=np.asarray(1.5, dtype))
    other = kohya(
        {
            layout[f"{name}.weight"].name.removesuffix(".weight"): pair
            for name, pair in pairs.items()
        },
        alpha=np.asarray(1.5, dtype),
    )
    assert "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.alpha" in other
    expected = names.from_torch(spelled(pairs, str, "lora_A.weight", "lora_B.weight"))
    for arrays in (plain, other):
        got = read(arrays, ldm=layout)
        assert (got.format, got.config.rank, got.config.alpha) == ("kohya", 3, 1.5)
        assert_same(got.params, expected)
        net = nets.build(UNet, CONFIG, lora=got.config)
        assert nets.flatten(nets.split_lora(net.abstract)[1]).keys() == (
            nets.flatten(got.params).keys()
        )
    with pytest.raises(InputError, match="has no layer input_blocks_"):
        read(other)


@pytest.mark.parametrize("kind", ["linear", "1x1"])
def test_linear_layers_and_1x1_convolutions_hold_each_others_pairs(kind):
    pairs = drawn({n: s for n, s in FEW.items() if n != "conv_in"})
    stored = {
        name: tuple(h.reshape(h.shape[:2] + (1, 1) * (kind == "1x1")) for h in pair)
        for name, pair in pairs.items()
    }
    got = read(kohya(stored, alpha=4), FEW, lora.read_modules)
    rng = np.random.default_rng(5)
    for name, (down, up) in pairs.items():
        weight = rng.standard_normal(FEW[name]).astype(np.float32)
        delta = 2 * up.reshape(8, 2) @ down.reshape(2, 6)
        merged = lora.merged_kernel(weight, got[name])
        assert merged.shape == weight.shape and got[name].scale == 2
        np.testing.assert_allclose(merged, weight + delta.reshape(FEW[name]), atol=1e-6)


def test_targets_attach_to_exactly_the_adapted_modules():
    def targets(chosen, shapes=SHAPES):
        pairs = drawn({name: shapes[name] for name in chosen})
        return read(kohya(pairs), shapes).config.targets

    def fitting(suffixes):
        return [n for n in SHAPES if f".{n}".endswith(tuple(f".{s}" for s in suffixes))]

    assert targets(fitting(UNET_TARGETS)) == UNET_TARGETS
    assert targets(fitting(ATTENTION_TARGETS)) == ATTENTION_TARGETS
    some = tuple(sorted([*fitting(["attn2.to_k"]), "conv_in"]))
    assert targets(some) == some
    net = nets.build(UNet, CONFIG, lora=LoRAConfig(2, 2.0, some))
    attached = nets.flatten(nets.split_lora(net.abstract)[1])
    assert {".".join(path[:-1]) for path in attached} == set(some)
    with pytest.raises(InputError, match="also match b.conv.*--merge"):
        targets(["conv"], {"conv": (8, 6), "b.conv": (8, 6)})


def test_text_encoders_are_counted_and_left_out():
    arrays = kohya(drawn(), alpha=2) | {
        f"lora_te{i}_text_model_encoder_layers_0_mlp_fc1.{half}": np.zeros(2)
        for i, half in [("", "alpha"), ("1", "lora_up.weight"), ("1", "alpha")]
    }
    assert read(arrays, FEW).left_out == {"lora_te": 1, "lora_te1": 2}
    arrays = spelled(drawn(), "unet.{}".format, "lora_A.weight", "lora_B.weight")
    arrays["text_encoder.text_model.q_proj.lora_A.weight"] = np.zeros(2)
    assert read(arrays, FEW).left_out == {"text_encoder": 1}
    with pytest.raises(InputError, match="no tensor is for this network"):
        read({"text_encoder.q_proj.lora_A.weight": np.zeros(2)}, FEW)


def test_all_that_does_not_fit_is_said_at_once():
    pairs = drawn()
    arrays = kohya(pairs, alpha=2)
    arrays["lora_unet_conv_inn.lora_up.weight"] = np.zeros((8, 2), np.float32)
    del arrays["lora_unet_conv_in.lora_up.weight"]
    arrays["lora_unet_a_proj_in.lora_down.weight"] = np.zeros((2, 5), np.float32)
    arrays["lora_unet_a_attn1_to_q.lora_up.weight"] = np.zeros((8, 2), np.int8)
    with pytest.raises(InputError) as error:
        read(arrays, FEW)
    message = str(error.value)
    assert "\n" not in message and "4 problems" in message
    told = [
        part in message
        for part in (
            "has no layer conv_inn (nearest: conv_in)",
            "conv_in has no up weight",
            "a_proj_in.lora_down.weight has shape (2, 5), expected (2, 6, 1, 1)",
            "a_attn1_to_q.lora_up.weight has dtype int8, expected a float",
        )
    ]
    assert sum(told) == 3 and "; and 1 more" in message
    arrays = kohya(pairs, alpha=np.nan)
    with pytest.raises(InputError, match="3 problems: a.attn1.to_q has alpha nan"):
        read(arrays, FEW)
    twice = spelled(pairs, str, "lora.down.weight", "lora.up.weight")
    twice |= spelled(pairs, str, "lora_A.weight", "lora_B.weight")
    with pytest.raises(InputError, match="6 problems: .* are the same"):
        read(twice, FEW)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bias": "all"}, "bias 'all', expected 'none'"),
        ({"peft_type": "LOHA"}, "peft_type 'LOHA', expected 'LORA'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"lora_alpha": None}, "lora_alpha None is no number"),
        ({"rank_pattern": {"(": 3}}, r"pattern '\('"),
        ({"r": 3}, "has rank 2, its settings say 3"),
        ({"alpha_pattern": {"to_q": 9}}, "differ in rank or scale.*--merge"),
    ],
)
def test_settings_that_we_cannot_follow_are_refused(change, message):
    arrays = spelled(
        drawn(), "base_model.model.{}".format, "lora_A.default.weight", "lora_B.weight"
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"}
    assert read(arrays, FEW, peft_config=config).config.scale == 2
    with pytest.raises(InputError, match=message):
        read(arrays, FEW, peft_config=config | change)
    with pytest.raises(InputError, match="adapter_config.json"):
        read(arrays, FEW)


def test_what_is_no_lora_is_not_taken_for_one():
    base = {f"{name}.weight": np.zeros(shape) for name, shape in FEW.items()}
    assert lora_names.recognise(base) is None
    assert lora_names.recognise([]) is None
    with pytest.raises(InputError, match="none of 3 tensors"):
        read(base, FEW)


def test_every_layer_of_the_full_size_unet_has_one_name_in_each_spelling():
    config = UNetConfig()
    abstract = nets.build(UNet, config, lora=LoRAConfig()).abstract
    base, adapters = nets.split_lora(abstract)
    shapes = lora.kernel_shapes(base)
    adapted = {".".join(path[:-1]) for path in nets.flatten(adapters)}
    assert len(adapted) == 258 and adapted < shapes.keys()
    plain = lora_names.spellings("kohya", list(shapes))
    assert len(plain) == len(shapes) and set(plain.values()) == set(shapes)
    both = lora_names.spellings("kohya", list(shapes), ldm.unet_layout(config))
    assert len(both) == 2 * len(shapes)
    assert plain.items() < both.items()
