"""An exported restorer in PyTorch: its README runs, the libraries load it silently."""

import contextlib
import dataclasses
import logging
import re
import warnings

import jax
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.models.lora import LoRAConfig
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.restore import tiling
from gendr_jax.restore.pipeline import Restorer
from gendr_jax.weights import export_readme, folder, verify
from gendr_jax.weights.convert import Options, convert
from gendr_jax.weights.gendr_json import read as read_manifest
from tests.helpers.tiny_restorer import pixel_weights

pytestmark = pytest.mark.torch

UNET = UNetConfig(
    in_channels=4,
    out_channels=4,
    block_out_channels=(16, 32),
    layers_per_block=1,
    heads=(2, 4),
    attention=(True, False),
    cross_attention_dim=12,
    norm_groups=8,
)
VAE_CONFIG = VAEConfig(
    latent_channels=4,
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_groups=8,
    scaling_factor=0.7,
    shift_factor=0.1,
)
SIZE, SCALE = (13, 19), 4


def drawn(model, config, seed):
    rng = np.random.default_rng(seed)

    def draw(leaf):
        fan = max(leaf.size // leaf.shape[-1], 1) if leaf.ndim > 1 else 4
        return (rng.standard_normal(leaf.shape) / fan**0.5).astype(np.float32)

    return jax.tree.map(draw, nets.build(model, config).abstract)


@pytest.fixture(
    scope="module", params=["eps", pytest.param("v", marks=pytest.mark.slow)]
)
def exported(request, tmp_path_factory):
    """(our restorer's folder, the same for diffusers)."""
    pytest.importorskip("diffusers")
    place = tmp_path_factory.mktemp(request.param)
    rng = np.random.default_rng(3)
    prompt = {
        n: rng.standard_normal((7, 12)).astype(np.float32)
        for n in ("positive", "negative")
    }
    ours = folder.save(
        place / "ours",
        kind="restorer",
        unet=(UNET, drawn(UNet, UNET, 1)),
        vae=(VAE_CONFIG, drawn(VAE, VAE_CONFIG, 2)),
        prompt=prompt,
        prediction=request.param,
        t_star=123,
        prompt_text={"positive": "sharp", "negative": ""},
        provenance={"stage": "distill"},
    )
    convert([ours], place / "theirs", Options(to="diffusers"))
    return ours, place / "theirs"


@pytest.fixture(scope="module", autouse=True)
def modules_of_pipelines(tmp_path_factory):
    """Where diffusers copies the code of folders to: not the user's cache."""
    utils = pytest.importorskip("diffusers.utils.dynamic_modules_utils")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("hf")))
        yield


@contextlib.contextmanager
def silence():
    """No warning, and nothing logged at the level of one."""
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    loggers = [logging.getLogger(n) for n in (None, "diffusers", "transformers")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    assert not lines


def programs(theirs):
    text = (theirs / "README.md").read_text("utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run_readme(theirs, source):
    """The variables that README.md's program leaves."""
    _, program = programs(theirs)
    stated = 'folder, source, scale = ".", "photo.jpg", 4\n'
    assert stated in program
    mine = f"folder, source, scale = {str(theirs)!r}, {str(source)!r}, {SCALE}\n"
    variables = {}
    exec(compile(program.replace(stated, mine), "README.md", "exec"), variables)
    return variables


def test_the_program_in_the_readme_is_our_restorer(exported, tmp_path, monkeypatch):
    from diffusers import DiffusionPipeline
    from PIL import Image

    ours, theirs = exported
    rng = np.random.default_rng(4)
    picture = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    with silence():
        variables = run_readme(theirs, tmp_path / "photo.png")
    expected = variables["y"].numpy() / 255
    assert expected.shape == (SCALE * SIZE[0], SCALE * SIZE[1], 3)
    assert expected.std() > 0.05 and ((0 < expected) & (expected < 1)).mean() > 0.5

    # The same enlargement, which the README rounds to eight bits and we do not.
    restorer = Restorer(folder.load(ours), dtype="float32", color_fix="none")
    up = np.moveaxis(variables["x"].numpy(), 1, -1) / 2 + 0.5
    assert up.shape[1:3] == (64 + 64, 128 + 64)
    assert export_readme.MARGIN == tiling.MARGIN
    sizes = np.array([expected.shape[:2]], np.int32)
    got, spread = restorer._programs.untiled(up, sizes, "none", (1.0, 1.0))
    inner = (
        slice(export_readme.MARGIN, export_readme.MARGIN + side)
        for side in expected.shape[:2]
    )
    got = np.asarray(got)[(0, *inner)]
    assert np.isfinite(spread).all()
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()

    saved = np.asarray(Image.open(tmp_path / "restored.png"), np.float64)
    np.testing.assert_array_equal(saved, np.round(expected * 255))
    # diffusers opens the folder by its own model_index.json and pipeline.py.
    pipeline = DiffusionPipeline.from_pretrained(theirs, trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    shown = pipeline(Image.open(tmp_path / "photo.png"), scale=SCALE).images[0]
    np.testing.assert_array_equal(np.asarray(shown), saved)
    whole = restorer(picture, SCALE)
    assert whole.shape == saved.shape
    assert np.abs(whole - saved).mean() < 1


@pytest.mark.parametrize("kind", [pytest.param("adc", marks=pytest.mark.slow), "pix"])
def test_the_program_of_a_kind_without_encoder_is_our_restorer(
    kind, tmp_path, monkeypatch
):
    from PIL import Image

    weights = pixel_weights(kind)
    parts = {n: (weights.configs[n], tree) for n, tree in weights.params.items()}
    folder.save(tmp_path / "w", kind=kind, prompt=weights.prompt, t_star=123, **parts)
    convert([tmp_path / "w"], tmp_path / "theirs", Options(to="diffusers"))
    rng = np.random.default_rng(4)
    picture = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    (program,) = programs(tmp_path / "theirs")
    stated = 'folder, source, scale = ".", "photo.jpg", 4\n'
    assert stated in program
    mine = f'folder, source, scale = "theirs", "photo.png", {SCALE}\n'
    variables: dict = {}
    exec(compile(program.replace(stated, mine), "README.md", "exec"), variables)
    restorer = Restorer(weights, dtype="float32", color_fix="none")
    ours = restorer(picture, SCALE)
    saved = np.asarray(Image.open(tmp_path / "restored.png"), np.float64)
    assert ours.shape == saved.shape and saved.std() > 10
    assert np.abs(ours - saved).mean() < 1
    # And back: the same weights, and the same kind.
    convert([tmp_path / "theirs"], tmp_path / "back", Options())
    back = folder.load(tmp_path / "back")
    assert back.kind == kind and back.configs == weights.configs
    jax.tree.map(np.testing.assert_array_equal, back.params, weights.params)


def test_the_libraries_load_it_without_a_word(exported):
    import diffusers
    import torch

    from tests.helpers.torch_parity import assert_close, nchw, nhwc

    ours, theirs = exported
    with silence():
        unet, facts = diffusers.UNet2DConditionModel.from_pretrained(
            theirs, subfolder="unet", output_loading_info=True
        )
        vae, more = diffusers.AutoencoderKL.from_pretrained(
            theirs, subfolder="vae", output_loading_info=True
        )
        scheduler = diffusers.DDIMScheduler.from_pretrained(
            theirs, subfolder="scheduler"
        )
    for found in (facts, more):
        assert not any(found.values()), found
    weights = folder.load(ours)
    said = {"eps": "epsilon", "v": "v_prediction"}[weights.prediction]
    assert scheduler.config.prediction_type == said
    from gendr_jax import diffusion

    alphas = scheduler.alphas_cumprod.numpy()
    np.testing.assert_allclose(alphas, diffusion.ALPHA_BAR, rtol=1e-4)

    rng = np.random.default_rng(5)
    z = rng.standard_normal((1, 6, 10, 4)).astype(np.float32)
    context = weights.prompt["negative"][None]
    with torch.no_grad():
        expected = unet.eval()(nchw(z), torch.tensor([20]), torch.tensor(context))
        decoded = vae.eval().decode(nchw(z)).sample
    net = nets.build(UNet, UNET)
    got = jax.jit(lambda p: net.bind(p)(z, np.array([20]), context)[0])
    assert_close(got(weights.params["unet"]), nhwc(expected.sample), "exported unet")
    net_vae = nets.build(VAE, VAE_CONFIG)
    got = jax.jit(lambda p: net_vae.bind(p).decode(z))(weights.params["vae"])
    assert_close(got, nhwc(decoded), "exported vae")


def test_it_comes_back_with_all_that_our_folder_says(exported, tmp_path):
    ours, theirs = exported
    report = convert([theirs], tmp_path / "again", Options())
    assert report["formats"] == ["diffusers pipeline"]
    one, two = read_manifest(ours), read_manifest(tmp_path / "again")
    for key in one.keys() - {"provenance"}:
        assert one[key] == two[key], key
    assert two["provenance"]["stage"] == "distill"
    # and through a narrower dtype
    convert([ours], tmp_path / "half", Options(to="diffusers", dtype="bfloat16"))
    convert([tmp_path / "half"], tmp_path / "back", Options())
    two = read_manifest(tmp_path / "back")
    assert two["components"]["unet"]["dtypes"].keys() == {"bfloat16"}
    assert (two["kind"], two["t_star"]) == ("restorer", 123)


@pytest.mark.slow
def test_adapters_count_in_the_readme_and_in_verify(exported, tmp_path, monkeypatch):
    from diffusers import DiffusionPipeline
    from PIL import Image

    pytest.importorskip("peft")
    config = LoRAConfig(2, 3.0, ("to_q", "conv1"))
    adapted = nets.split_lora(nets.build(UNet, UNET, lora=config).abstract)[1]
    rng = np.random.default_rng(6)
    lora = jax.tree.map(lambda a: rng.standard_normal(a.shape, np.float32), adapted)
    ours = folder.load(exported[0])
    weights = dataclasses.replace(
        ours,
        configs=ours.configs | {"lora": config},
        params=ours.params | {"lora": lora},
    )
    (tmp_path / "beside").mkdir()
    folder.write(tmp_path / "beside", weights)
    picture = rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    found = {}
    for name, options in (
        ("plain", Options(to="diffusers")),
        ("merged", Options(to="diffusers", merge=True)),
    ):
        convert([tmp_path / "beside"], tmp_path / name, options)
        found[name] = run_readme(tmp_path / name, "photo.png")["y"].numpy()
    np.testing.assert_allclose(found["plain"], found["merged"], atol=2e-2)
    pipeline = DiffusionPipeline.from_pretrained(
        tmp_path / "plain", trust_remote_code=True
    )
    pipeline.set_progress_bar_config(disable=True)
    shown = np.asarray(pipeline(Image.open("photo.png")).images[0])
    np.testing.assert_array_equal(shown, np.round(found["plain"]))
    without = run_readme(exported[1], "photo.png")["y"].numpy()
    assert np.abs(found["plain"] - without).max() > 1
    said = verify.run(tmp_path / "plain", "diffusers")
    assert said["agrees"] and said["skipped"] == []


def test_a_missing_prompt_is_said(exported, tmp_path):
    import shutil

    from gendr_jax.errors import InputError

    theirs = shutil.copytree(exported[1], tmp_path / "copy")
    (theirs / "prompt.safetensors").unlink()
    with pytest.raises(InputError, match="prompt.safetensors is missing"):
        convert([theirs], tmp_path / "new", Options())
    assert not (tmp_path / "new").exists()
