"""Every flag, scheduler field and adapter of a source is used or refused."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import gendr_jax
from gendr_jax import diffusion, nets
from gendr_jax.errors import GendrError, InputError, UsageError
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.train.settings import Init
from gendr_jax.train.stages import initial_weights
from gendr_jax.weights import folder
from gendr_jax.weights.convert import Options, convert
from gendr_jax.weights.foreign import layouts, ldm, names
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
        Options(lora_alpha=2.0),
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
    # Once more: adapters of our own folder take a strength, and no other alpha.
    half = Options(lora_strength=0.5, merge=True)
    convert([tmp_path / "beside"], tmp_path / "quarter", half)
    less = kernel(tmp_path / "base") + 0.25 * 3 / 2 * (up @ down).T
    np.testing.assert_allclose(kernel(tmp_path / "quarter"), less, atol=1e-5)
    for known in ([tmp_path / "beside"], sources):
        with pytest.raises(UsageError, match="--lora-alpha 2"):
            convert(known, tmp_path / "x", Options(lora_alpha=2.0))
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
    w1, w2 = (rng.standard_normal(s, np.float32) for s in ((2, 2), (4, 4)))
    lokr = {"lokr_w1": w1, "lokr_w2": w2}
    full = {"diff": rng.standard_normal((8, 8), np.float32)}
    convert([pipeline], tmp_path / "base", Options())
    base = kernel(tmp_path / "base").T
    changed = base + 2 * (a @ b)
    norm = np.sqrt((changed**2).sum(axis=1, keepdims=True))
    for name, parts, expected in (
        ("loha", loha, base + 2 * (a @ b) * (c @ d)),
        ("dora", dora, changed * m / norm),
        ("lokr", lokr, base + np.kron(w1, w2)),
        ("full", full, base + full["diff"]),
    ):
        file = tmp_path / f"{name}.safetensors"
        write_safetensors(file, alpha | {f"{KOHYA}.{k}": v for k, v in parts.items()})
        convert([pipeline, file], tmp_path / name, Options(merge=True))
        np.testing.assert_allclose(kernel(tmp_path / name).T, expected, atol=1e-5)
        with pytest.raises(InputError, match="--merge"):
            convert([pipeline, file], tmp_path / "x", Options())


def test_rslora_and_a_lost_alpha(pipeline, tmp_path):
    rng = np.random.default_rng(3)
    down, up = (rng.standard_normal(s, np.float32) for s in ((4, 8), (8, 4)))
    halves = {
        f"base_model.model.{LAYER}.lora_A.weight": down,
        f"base_model.model.{LAYER}.lora_B.weight": up,
    }
    (tmp_path / "rs").mkdir()
    write_safetensors(tmp_path / "rs" / "adapter_model.safetensors", halves)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "use_rslora": True}
    (tmp_path / "rs" / "adapter_config.json").write_text(json.dumps(config))
    plain = {n.removeprefix("base_model.model."): a for n, a in halves.items()}
    write_safetensors(tmp_path / "lost.safetensors", plain)
    convert([pipeline], tmp_path / "base", Options())
    for source, options, scale in (
        ("rs", Options(merge=True), 6 / 4**0.5),
        ("lost.safetensors", Options(merge=True), 1.0),
        ("lost.safetensors", Options(merge=True, lora_alpha=12.0), 3.0),
    ):
        options = dataclasses.replace(options, force=True)
        convert([pipeline, tmp_path / source], tmp_path / "w", options)
        expected = kernel(tmp_path / "base") + scale * (up @ down).T
        np.testing.assert_allclose(kernel(tmp_path / "w"), expected, atol=1e-5)


def test_a_symbolic_link_stays_one(pipeline, tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "big")
    convert([pipeline], tmp_path / "link", Options())
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "big" / "gendr.json").is_file()


def as_ldm(path, **extra):
    """One file of a UNet with what LDM files say of their training."""
    config = UNetConfig(4, 4, (32, 32), 1, (8, 8), (False, False), 768, 32)
    params = jax.tree.map(
        lambda a: np.ones(a.shape, np.float32), nets.build(UNet, config).abstract
    )
    tensors = layouts.scatter(ldm.unet_layout(config), names.to_torch(params))
    tensors = {ldm.UNET_PREFIX + name: array for name, array in tensors.items()}
    write_safetensors(path, tensors | extra)
    return path


def test_what_an_ldm_file_says_of_its_schedule_counts(tmp_path):
    file, empty = tmp_path / "a.safetensors", np.zeros(1, np.float32)
    table = diffusion.ALPHA_BAR.astype(np.float32)
    report = convert(
        [as_ldm(file, v_pred=empty, alphas_cumprod=table)], tmp_path / "w", Options()
    )
    assert report["prediction"] == "v"
    assert report["left_out"] == {"marks of the prediction": 1, "noise schedule": 1}
    linear = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)).astype(np.float32)
    zero = (table - table[-1]) / (1 - table[-1])
    for extra, said in (
        ({"ztsnr": empty}, "marker ztsnr"),
        ({"alphas_cumprod": linear}, "another noise schedule"),
        ({"alphas_cumprod": zero}, "another noise schedule"),
    ):
        as_ldm(file, v_pred=empty, **extra)
        with pytest.raises(InputError, match=said):
            convert([file], tmp_path / "x", Options())
    # Of what is left out anyway no dtype is asked for.
    text = np.zeros((2, 2), ml_dtypes.float8_e4m3fn)
    as_ldm(file, **{"cond_stage_model.x": text})
    report = convert([file], tmp_path / "f8", Options(hints=Hints(prediction="eps")))
    assert report["left_out"] == {"text encoder": 1}


def test_an_absent_field_of_a_scheduler_is_diffusers_default(pipeline, tmp_path):
    file = pipeline / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({"_class_name": "DDPMScheduler"}))
    with pytest.raises(InputError, match="beta_schedule 'linear'"):
        convert([pipeline], tmp_path / "x", Options())
    file.write_text(json.dumps({"_class_name": "LCMScheduler"}))
    convert([pipeline], tmp_path / "w", Options())


def test_the_schedule_goes_back_as_it_came(pipeline, tmp_path):
    said = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
    schedule(pipeline, **said, prediction_type="v_prediction")
    convert([pipeline], tmp_path / "w", Options())
    convert([tmp_path / "w"], tmp_path / "back", Options(to="diffusers"))
    one, two = (
        json.loads((p / "scheduler" / "scheduler_config.json").read_text())
        for p in (pipeline, tmp_path / "back")
    )
    assert one == two


def test_training_refuses_a_unet_that_predicts_something_else(pipeline, tmp_path):
    schedule(pipeline, prediction_type="v_prediction")
    convert([pipeline], tmp_path / "w", Options())
    convert([pipeline], tmp_path / "w.safetensors", Options(to="safetensors"))
    ours = (tmp_path / "w", tmp_path / "w.safetensors")
    for path in (pipeline, pipeline / "unet", *ours):
        init = Init(unet=str(path))
        with pytest.raises(
            UsageError, match="predicts 'v', config.prediction is 'eps'"
        ):
            initial_weights.check_prediction(init, "eps")
        initial_weights.check_prediction(init, "v")
    schedule(pipeline, beta_schedule="linear")
    with pytest.raises(InputError, match="noise schedule"):
        initial_weights.check_prediction(Init(unet=str(pipeline)), "eps")


def test_networks_of_other_latents_are_not_joined(pipeline, tmp_path):
    config = VAEConfig(3, 16, (8, 12), 1, 4)
    params = jax.tree.map(
        lambda a: np.ones(a.shape, np.float32), nets.build(VAE, config).abstract
    )
    save_component(tmp_path / "vae16", config, params)
    sources = [pipeline, tmp_path / "vae16"]
    with pytest.raises(InputError, match="4 channels and the autoencoder has 16"):
        convert(sources, tmp_path / "x", Options())
    report = convert(sources, tmp_path / "w", Options(latent_channels=16))
    assert report["formats"] == ["diffusers pipeline", "diffusers vae"]
    (record,) = folder.load(tmp_path / "w").provenance["converted"]
    assert len(record["files"]) == 2
    inpainting = dataclasses.replace(CONFIG, in_channels=9)
    params = jax.tree.map(
        lambda a: np.ones(a.shape, np.float32), nets.build(UNet, inpainting).abstract
    )
    save_component(tmp_path / "inpaint", inpainting, params)
    eps = Hints(prediction="eps")
    for channels in (4, 16):
        options = Options(latent_channels=channels, hints=eps)
        with pytest.raises(InputError, match="9 channels and makes 4.*inpainting"):
            convert([tmp_path / "inpaint"], tmp_path / "x", options)


def test_prefixes_of_wrappers_are_taken_off(pipeline, tmp_path):
    file = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    convert([pipeline], tmp_path / "plain", Options())
    for name, wrap in (
        ("ddp", lambda n: f"module.{n}"),
        ("compiled", lambda n: f"_orig_mod.{n}"),
        ("both", lambda n: f"module._orig_mod.{n}"),
    ):
        write_safetensors(file, {wrap(n): array for n, array in tensors.items()})
        convert([pipeline], tmp_path / name, Options())
        np.testing.assert_array_equal(
            kernel(tmp_path / name), kernel(tmp_path / "plain")
        )


def test_options_of_the_flags_from_python(pipeline, tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    down, up = (rng.standard_normal(s, np.float32) for s in ((2, 8), (8, 2)))
    halves = {f"{KOHYA}.lora_down.weight": down, f"{KOHYA}.lora_up.weight": up}
    write_safetensors(tmp_path / "l.safetensors", halves)
    convert([pipeline], tmp_path / "base", Options())
    base = kernel(tmp_path / "base")
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in (pipeline, "~/base", pipeline / "unet"):
        unet = gendr_jax.load_unet(
            source, lora="~/l.safetensors", lora_strength=0.5, lora_alpha=6
        )
        found = nets.flatten(unet.params)[(*LAYER.split("."), "kernel")]
        np.testing.assert_allclose(found, base + 0.5 * 3 * (up @ down).T, atol=1e-5)
    assert gendr_jax.load_unet("~/base", latent_channels=16).config.in_channels == 16
    with pytest.raises(UsageError, match="--ema yes"):
        gendr_jax.load_unet("~/base", ema="yes")
    with pytest.raises(InputError, match="has sha256"):
        gendr_jax.load_unet(pipeline, sha256=["0" * 64])
    config = VAEConfig(3, 4, (8, 12), 1, 4)
    params = jax.tree.map(
        lambda a: np.ones(a.shape, np.float32), nets.build(VAE, config).abstract
    )
    save_component(tmp_path / "vae", config, params)
    vae = gendr_jax.load_vae("~/vae", scaling_factor=0.3, shift_factor=0.2)
    assert (vae.config.scaling_factor, vae.config.shift_factor) == (0.3, 0.2)


def test_a_hub_id_is_a_source_where_its_library_is_installed(
    pipeline, tmp_path, monkeypatch
):
    hub = types.ModuleType("huggingface_hub")
    hub.snapshot_download = lambda name: str({"some/model": pipeline}[name])
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.chdir(tmp_path)
    report = convert(["some/model"], tmp_path / "w", Options())
    assert report["formats"] == ["diffusers pipeline"]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match="pip install huggingface_hub"):
        convert(["some/model"], tmp_path / "x", Options())


def test_messages_are_one_line_of_400_bytes_at_most(pipeline, tmp_path):
    file = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    write_safetensors(file, {f"other.{n}": array for n, array in tensors.items()})
    with pytest.raises(InputError) as caught:
        convert([pipeline], tmp_path / "x", Options())
    said = str(caught.value).replace(str(tmp_path), "")
    assert len(said.encode()) < 400 and "\n" not in said
    assert f"{2 * len(tensors)} tensors do not fit" in said and " more" in said
    config = json.loads((pipeline / "unet" / "config.json").read_text())
    config |= {f"option_{n}": "x" * 100 for n in range(50)}
    (pipeline / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="and 4[0-9] more") as caught:
        convert([pipeline], tmp_path / "x", Options())
    assert len(str(caught.value).replace(str(tmp_path), "").encode()) < 400


def test_plain_orbax_reads_a_component_without_this_library(pipeline, tmp_path):
    """The three lines of docs/weights.md, in a process that cannot import us."""
    convert([pipeline], tmp_path / "w", Options())
    docs = Path(gendr_jax.__file__).parents[1] / "docs" / "weights.md"
    (code,) = re.findall(
        r"```python\n(import orbax.*?)```", docs.read_text("utf-8"), re.DOTALL
    )
    code = code.replace("/absolute/path/DIR", str(tmp_path / "w"))
    code += f"""
import sys
import numpy as np
leaf = params
for key in {[*LAYER.split("."), "kernel"]!r}:
    leaf = leaf[key]
np.save({str(tmp_path / "leaf.npy")!r}, leaf)
assert not any(name.startswith("gendr_jax") for name in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": "", "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-500:]
    np.testing.assert_array_equal(
        np.load(tmp_path / "leaf.npy"), kernel(tmp_path / "w")
    )
