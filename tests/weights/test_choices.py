"""Every flag, scheduler field and adapter of a source is used or refused."""

import json

import jax
import numpy as np
import pytest

import gendr_jax
from gendr_jax import nets
from gendr_jax.errors import GendrError, InputError, UsageError
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.weights import folder
from gendr_jax.weights.convert import Options, convert
from gendr_jax.weights.foreign.component_folder import save_component
from gendr_jax.weights.foreign.single_files import Hints
from gendr_jax.weights.foreign.tensors import write_safetensors

CONFIG = UNetConfig(4, 4, (8, 16), 1, (1, 2), (True, False), 6, 4)
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA = "lora_unet_" + LAYER.replace(".", "_")
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture
def pipeline(tmp_path):
    rng = np.random.default_rng(0)
    abstract = nets.build(UNet, CONFIG).abstract
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), abstract)
    save_component(tmp_path / "sd" / "unet", CONFIG, params)
    (tmp_path / "sd" / "scheduler").mkdir()
    schedule(tmp_path / "sd")
    return tmp_path / "sd"


def schedule(path, **fields):
    said = SD | {"prediction_type": "epsilon"} | fields
    file = path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(said))


def kernel(path):
    params = folder.load(path, components=("unet",)).params["unet"]
    return nets.flatten(params)[(*LAYER.split("."), "kernel")]


def test_other_schedules_are_refused_and_sampling_fields_are_kept(pipeline, tmp_path):
    for fields, said in (
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "flow matching"),
        ({"beta_schedule": "linear"}, "beta_schedule 'linear'"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({"something_new": 2}, "something_new 2"),
    ):
        schedule(pipeline, **fields)
        with pytest.raises(InputError, match=said):
            convert([pipeline], tmp_path / "w", Options())
    assert not (tmp_path / "w").exists()
    schedule(pipeline, timestep_spacing="trailing")
    convert([pipeline], tmp_path / "w", Options())
    kept = folder.load(tmp_path / "w").provenance["scheduler"]
    assert kept["timestep_spacing"] == "trailing"


def test_flags_are_applied_or_refused(pipeline, tmp_path):
    convert([pipeline], tmp_path / "w", Options())
    convert([tmp_path / "w"], tmp_path / "v", Options(hints=Hints(prediction="v")))
    assert folder.load(tmp_path / "v").prediction == "v"
    for options in (
        Options(hints=Hints(scaling_factor=0.2)),
        Options(hints=Hints(ema="yes")),
        Options(lora_strength=0.5),
        Options(sha256=("0" * 64,)),
    ):
        with pytest.raises(GendrError):
            convert([tmp_path / "w"], tmp_path / "x", options)
    with pytest.raises(UsageError, match="no source has|none was read"):
        convert([tmp_path / "w"], tmp_path / "x", Options(hints=Hints(variant="fp16")))


def test_adapters_kept_with_a_unet_count_in_every_reader(pipeline, tmp_path):
    rng = np.random.default_rng(1)
    down, up = (rng.standard_normal(s, np.float32) for s in ((2, 8), (8, 2)))
    halves = {f"{KOHYA}.lora_down.weight": down, f"{KOHYA}.lora_up.weight": up}
    alpha = {f"{KOHYA}.alpha": np.asarray(3, np.float32)}
    write_safetensors(tmp_path / "l.safetensors", halves | alpha)
    sources = [pipeline, tmp_path / "l.safetensors"]
    convert([pipeline], tmp_path / "base", Options())
    convert(sources, tmp_path / "beside", Options(lora_strength=0.5))
    expected = kernel(tmp_path / "base") + 0.5 * 3 / 2 * (up @ down).T
    np.testing.assert_allclose(kernel(tmp_path / "beside"), expected, atol=1e-5)
    loaded = gendr_jax.load_unet(tmp_path / "beside").params
    found = nets.flatten(loaded)[(*LAYER.split("."), "kernel")]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_loha_and_dora_are_merged_by_their_formulas(pipeline, tmp_path):
    rng = np.random.default_rng(2)
    a, b, c, d = (rng.standard_normal(s, np.float32) for s in ((8, 2), (2, 8)) * 2)
    alpha = {f"{KOHYA}.alpha": np.asarray(4, np.float32)}
    loha = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}
    m = rng.uniform(1, 2, (8, 1)).astype(np.float32)
    dora = {"lora_up.weight": a, "lora_down.weight": b, "dora_scale": m}
    convert([pipeline], tmp_path / "base", Options())
    base = kernel(tmp_path / "base").T
    changed = base + 2 * (a @ b)
    norm = np.sqrt((changed**2).sum(axis=1, keepdims=True))
    for name, parts, expected in (
        ("loha", loha, base + 2 * (a @ b) * (c @ d)),
        ("dora", dora, changed * m / norm),
    ):
        file = tmp_path / f"{name}.safetensors"
        write_safetensors(file, alpha | {f"{KOHYA}.{k}": v for k, v in parts.items()})
        convert([pipeline, file], tmp_path / name, Options(merge=True))
        np.testing.assert_allclose(kernel(tmp_path / name).T, expected, atol=1e-5)
        with pytest.raises(InputError, match="--merge"):
            convert([pipeline, file], tmp_path / "x", Options())


def test_a_symbolic_link_stays_one(pipeline, tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "big")
    convert([pipeline], tmp_path / "link", Options())
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "big" / "gendr.json").is_file()
