"""Component folders: what the libraries write is read, what we write they read."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gendr_jax import nets
from gendr_jax.errors import InputError
from gendr_jax.models.dinov2 import DINOv2Config
from gendr_jax.models.unet import UNetConfig
from gendr_jax.models.vae import VAEConfig
from gendr_jax.weights import names, torch_config
from gendr_jax.weights.torch_files import MODELS, load_component, save_component

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
STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "dinov2": "model",
}
kinds = pytest.mark.parametrize("kind", CONFIGS)


def _params(kind: str, dtype="float32") -> nets.Params:
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda a: rng.standard_normal(a.shape, np.float32).astype(dtype),
        nets.build(MODELS[kind], CONFIGS[kind]).abstract,
    )


def _assert_equal(ours: nets.Params, theirs: nets.Params) -> None:
    ours, theirs = nets.flatten(ours), nets.flatten(theirs)
    assert ours.keys() == theirs.keys()
    for path, array in ours.items():
        assert array.dtype == theirs[path].dtype, path
        np.testing.assert_array_equal(array, theirs[path])


@pytest.fixture
def vae_folder(tmp_path) -> Path:
    save_component(tmp_path, CONFIGS["vae"], _params("vae"))
    return tmp_path


def _edit(folder: Path, change) -> None:
    """Apply ``change`` to the dict of tensors in the folder."""
    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = {name: tensor.copy() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)


def _configure(folder: Path, **options) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | options))


@kinds
def test_what_is_saved_is_loaded_again(kind, tmp_path):
    params = _params(kind)
    save_component(tmp_path / "new", CONFIGS[kind], params)
    config, again = load_component(tmp_path / "new", kind)
    assert config == CONFIGS[kind]
    _assert_equal(again, params)
    written = sorted(file.name for file in (tmp_path / "new").iterdir())
    assert written == ["config.json", f"{STEMS[kind]}.safetensors"]


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_files(dtype, tmp_path):
    params = _params("vae", dtype)
    save_component(tmp_path, CONFIGS["vae"], params)
    _assert_equal(load_component(tmp_path, "vae", dtype=None)[1], params)
    _assert_equal(load_component(tmp_path, "vae")[1], nets.cast(params, np.float32))


def _their_model(kind: str):
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    c = CONFIGS[kind]
    if kind == "dinov2":
        transformers = pytest.importorskip("transformers")
        return transformers.Dinov2Model(
            transformers.Dinov2Config(**dataclasses.asdict(c))
        )
    diffusers = pytest.importorskip("diffusers")
    if kind == "unet":
        return diffusers.UNet2DConditionModel(
            in_channels=4,
            out_channels=6,
            block_out_channels=(16, 32),
            layers_per_block=1,
            attention_head_dim=(2, 4),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=12,
            norm_num_groups=8,
            use_linear_projection=True,
            norm_eps=1e-4,
        )
    return diffusers.AutoencoderKL(
        latent_channels=6,
        block_out_channels=(16, 24),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        use_quant_conv=False,
        scaling_factor=0.36,
        shift_factor=0.11,
    )


@pytest.mark.torch
@pytest.mark.parametrize("shards", ["single", "sharded"])
@kinds
def test_folders_written_by_the_libraries(kind, shards, tmp_path):
    model = _their_model(kind)
    size = {} if shards == "single" else {"max_shard_size": "40KB"}
    model.save_pretrained(tmp_path, **size)
    files = list(tmp_path.glob("*.safetensors"))
    assert (len(files) > 1) == (shards == "sharded")
    config, params = load_component(tmp_path, kind)
    assert config == CONFIGS[kind]
    tensors = {}
    for file in files:
        tensors |= load_file(file)
    _assert_equal(params, names.from_torch(tensors))
    nets.check_like(params, nets.build(MODELS[kind], config).abstract)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@kinds
def test_folders_written_by_us_load_in_the_libraries(kind, dtype, tmp_path):
    torch = pytest.importorskip("torch")
    params = _params(kind, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    save_component(tmp_path, CONFIGS[kind], params)
    wanted = getattr(torch, dtype)
    if kind == "dinov2":
        transformers = pytest.importorskip("transformers")
        model, info = transformers.Dinov2Model.from_pretrained(
            tmp_path, output_loading_info=True, dtype=wanted
        )
    else:
        diffusers = pytest.importorskip("diffusers")
        classes = {
            "unet": diffusers.UNet2DConditionModel,
            "vae": diffusers.AutoencoderKL,
        }
        model, info = classes[kind].from_pretrained(
            tmp_path, output_loading_info=True, torch_dtype=wanted
        )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for name, value in torch_config.dump(CONFIGS[kind]).items():
        if name not in ("_class_name", "architectures", "sample_size"):
            theirs = getattr(model.config, name)
            assert theirs == (tuple(value) if isinstance(theirs, tuple) else value)
    model.save_pretrained(tmp_path / "again")
    _assert_equal(load_component(tmp_path / "again", kind, dtype=None)[1], params)


@pytest.mark.torch
def test_loaded_weights_compute_what_the_library_computes(tmp_path):
    """End to end through the files, with a network neither side has by default."""
    torch = pytest.importorskip("torch")
    from torch_parity import assert_close, nchw, nhwc, randomise

    model = randomise(_their_model("vae"), seed=4)
    model.save_pretrained(tmp_path)
    config, params = load_component(tmp_path, "vae")
    net = nets.build(MODELS["vae"], config)
    x = np.random.default_rng(5).uniform(-1, 1, (1, 18, 26, 3)).astype(np.float32)
    with torch.no_grad():
        expected = model.encode(nchw(x)).latent_dist.mean
    got = jax.jit(lambda p: net.bind(p).encode(x)[0])(params)
    assert_close(got, nhwc(expected), "vae through files")


def test_old_vae_files_name_attention_otherwise(vae_folder):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors):
        for name in list(tensors):
            for new, before in old.items():
                if f".{new}." in name:
                    tensors[name.replace(new, before)] = tensors.pop(name)

    _edit(vae_folder, rename)
    stored = load_file(vae_folder / "diffusion_pytorch_model.safetensors")
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in stored
    _assert_equal(load_component(vae_folder, "vae")[1], _params("vae"))


def test_every_wrong_tensor_is_listed_at_once(vae_folder):
    def spoil(tensors):
        del tensors["decoder.conv_in.bias"]
        tensors["encoder.conv_inn.weight"] = tensors.pop("encoder.conv_in.weight")
        tensors["decoder.conv_out.bias"] = np.zeros(7, np.float32)
        tensors["decoder.conv_norm_out.bias"] = np.zeros(16, np.int32)

    _edit(vae_folder, spoil)
    with pytest.raises(InputError) as error:
        load_component(vae_folder, "vae")
    message = str(error.value)
    assert f"vae in {vae_folder}: 5 tensors do not fit" in message
    for part in (
        "missing decoder.conv_in.bias",
        "missing encoder.conv_in.weight",
        "unexpected encoder.conv_inn.weight",
        "decoder.conv_out.bias has shape (7,), expected (3,)",
        "decoder.conv_norm_out.bias has dtype I32",
    ):
        assert part in message
    assert "\n" not in message


def test_a_tensor_in_two_shards_is_refused(vae_folder):
    whole = vae_folder / "diffusion_pytorch_model.safetensors"
    whole.rename(vae_folder / "a.safetensors")
    save_file({"decoder.conv_in.bias": np.zeros(24, np.float32)}, vae_folder / "b.st")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.st"}}
    (vae_folder / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps(index)
    )
    with pytest.raises(InputError, match="decoder.conv_in.bias is there twice"):
        load_component(vae_folder, "vae")


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
        ("vae", {"mid_block_add_attention": False}),
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
    raw = torch_config.dump(CONFIGS[kind])
    assert torch_config.parse(kind, raw) == CONFIGS[kind]
    with pytest.raises(InputError) as error:
        torch_config.parse(kind, raw | options, "somewhere/config.json")
    message = str(error.value)
    assert message.startswith("somewhere/config.json: ")
    for name, value in options.items():
        assert f"{name}={value!r} is not supported" in message


def test_options_that_are_off_or_without_effect_are_accepted():
    raw = torch_config.dump(CONFIGS["unet"]) | {
        "class_embed_type": None,
        "only_cross_attention": [False, False],
        "upcast_attention": True,
        "sample_size": 96,
        "option_of_tomorrow": False,
        "transformer_layers_per_block": [1, 1],
        "layers_per_block": [1, 1],
        "cross_attention_dim": [12, 12],
    }
    assert torch_config.parse("unet", raw) == CONFIGS["unet"]


def test_absent_options_have_the_libraries_defaults():
    """An SD 1 config.json says no linear projection, no norm_eps, one head count."""
    config = torch_config.parse("unet", {"cross_attention_dim": 768, "norm_eps": None})
    assert config == UNetConfig(
        in_channels=4,
        out_channels=4,
        heads=(8, 8, 8, 8),
        cross_attention_dim=768,
        linear_projection=False,
    )
    assert torch_config.parse("dinov2", {}).image_size == 224
    old = torch_config.parse("vae", {"block_out_channels": [64, 128]})
    assert (old.scaling_factor, old.latent_channels, old.quant_conv) == (
        0.18215,
        4,
        True,
    )


def test_heads_or_groups_that_do_not_divide_are_one_line(vae_folder):
    _configure(vae_folder, norm_num_groups=7)
    with pytest.raises(InputError, match="config.json: .*16 channels.*7 groups"):
        load_component(vae_folder, "vae")
    raw = torch_config.dump(CONFIGS["unet"]) | {"attention_head_dim": [2]}
    with pytest.raises(InputError, match="heads has 1 entries"):
        torch_config.parse("unet", raw)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: (f / "config.json").unlink(), "config.json cannot be read"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "holds no JSON object"),
        (
            lambda f: (f / "diffusion_pytorch_model.safetensors").rename(
                f / "diffusion_pytorch_model.bin"
            ),
            "no .*safetensors, only diffusion_pytorch_model.bin",
        ),
        (
            lambda f: (f / "diffusion_pytorch_model.safetensors").write_bytes(
                (f / "diffusion_pytorch_model.safetensors").read_bytes()[:-1000]
            ),
            "is not a whole safetensors file",
        ),
        (
            lambda f: (f / "diffusion_pytorch_model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "gone.safetensors"}}'
            ),
            "lacks gone.safetensors",
        ),
        (
            lambda f: (f / "diffusion_pytorch_model.safetensors.index.json").write_text(
                "{}"
            ),
            "has no weight_map",
        ),
    ],
    ids=["no-config", "no-json", "list", "pickle", "truncated", "shard", "index"],
)
def test_damaged_folders_are_one_line(vae_folder, spoil, message):
    spoil(vae_folder)
    with pytest.raises(InputError, match=message) as error:
        load_component(vae_folder, "vae")
    assert "\n" not in str(error.value)


def test_a_lone_variant_is_read_and_several_are_refused(vae_folder):
    whole = vae_folder / "diffusion_pytorch_model.safetensors"
    content = whole.read_bytes()
    fp16 = vae_folder / "diffusion_pytorch_model.fp16.safetensors"
    fp16.write_bytes(b"not read while the plain one is there")
    load_component(vae_folder, "vae")
    whole.rename(fp16)
    load_component(vae_folder, "vae")
    (vae_folder / "diffusion_pytorch_model.ema.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="several weight files .*ema.*fp16"):
        load_component(vae_folder, "vae")


def test_saving_an_incomplete_tree_writes_nothing(tmp_path):
    params = _params("vae")
    del params["encoder"]["conv_in"]["bias"]
    with pytest.raises(InputError, match="missing encoder.conv_in.bias"):
        save_component(tmp_path / "new", CONFIGS["vae"], params)
    assert not (tmp_path / "new").exists()


def test_a_failed_save_leaves_the_old_file_and_no_other(vae_folder, monkeypatch):
    before = {file.name: file.read_bytes() for file in vae_folder.iterdir()}

    def fail(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("gendr_jax.weights.torch_files.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_component(vae_folder, CONFIGS["vae"], _params("vae"))
    assert {f.name: f.read_bytes() for f in vae_folder.iterdir()} == before


def test_loading_needs_no_torch(vae_folder):
    code = (
        "import sys; from gendr_jax.weights.torch_files import load_component;"
        f"load_component({str(vae_folder)!r}, 'vae');"
        "heavy = {'torch', 'diffusers', 'transformers', 'peft'};"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
