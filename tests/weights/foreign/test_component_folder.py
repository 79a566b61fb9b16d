"""Component folders: what the libraries write is read, what we write they read."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from gendr_jax import nets
from gendr_jax.models.dinov2 import DINOv2Config
from gendr_jax.models.unet import UNetConfig
from gendr_jax.models.vae import VAEConfig
from gendr_jax.weights.foreign import config_json, names
from gendr_jax.weights.foreign.component_folder import load_component, save_component
from gendr_jax.weights.foreign.components import MODELS

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
    for name, value in config_json.dump(CONFIGS[kind]).items():
        if name not in ("_class_name", "architectures", "sample_size"):
            theirs = getattr(model.config, name)
            assert theirs == (tuple(value) if isinstance(theirs, tuple) else value)
    model.save_pretrained(tmp_path / "again")
    _assert_equal(load_component(tmp_path / "again", kind, dtype=None)[1], params)


@pytest.mark.torch
def test_loaded_weights_compute_what_the_library_computes(tmp_path):
    """End to end through the files, with a network neither side has by default."""
    torch = pytest.importorskip("torch")
    from tests.helpers.torch_parity import assert_close, nchw, nhwc, randomise

    model = randomise(_their_model("vae"), seed=4)
    model.save_pretrained(tmp_path)
    config, params = load_component(tmp_path, "vae")
    net = nets.build(MODELS["vae"], config)
    x = np.random.default_rng(5).uniform(-1, 1, (1, 18, 26, 3)).astype(np.float32)
    with torch.no_grad():
        expected = model.encode(nchw(x)).latent_dist.mean
    got = jax.jit(lambda p: net.bind(p).encode(x)[0])(params)
    assert_close(got, nhwc(expected), "vae through files")


def test_loading_needs_no_torch(vae_folder):
    code = (
        "import sys; from gendr_jax.weights.foreign.component_folder "
        "import load_component;"
        f"load_component({str(vae_folder)!r}, 'vae');"
        "heavy = {'torch', 'diffusers', 'transformers', 'peft'};"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
