"""gendr convert: exit status, one-line errors, the report, --verify."""

import json
import os
import re
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.cli import convert as command
from gendr_jax.cli import main as main_lib
from gendr_jax.models.dinov2 import DINOv2, DINOv2Config
from gendr_jax.models.lpips import LPIPS, LPIPSConfig
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.weights import export, folder
from gendr_jax.weights.foreign.component_folder import save_component
from gendr_jax.weights.gendr_json import Weights
from gendr_jax.weights.gendr_json import read as read_manifest

UNET = UNetConfig(4, 4, (8, 16), 1, (1, 2), (True, False), 6, 4)
VAE_CONFIG = VAEConfig(
    latent_channels=4, block_out_channels=(8, 12), layers_per_block=1, norm_groups=4
)
DINO = DINOv2Config(64, 2, 1, image_size=28)
FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def no_tracebacks(monkeypatch):
    """Errors are told in one line, whatever the shell of the tests asks for."""
    monkeypatch.setenv("GENDR_DEBUG", "")


def drawn(model, config, seed):
    rng = np.random.default_rng(seed)

    def draw(leaf):
        fan = max(leaf.size // leaf.shape[-1], 1) if leaf.ndim > 1 else 4
        return (rng.standard_normal(leaf.shape) / fan**0.5).astype(np.float32)

    return jax.tree.map(draw, nets.build(model, config).abstract)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A folder as diffusers has it, which says what its UNet predicts."""
    place = tmp_path_factory.mktemp("pipeline")
    save_component(place / "unet", UNET, drawn(UNet, UNET, 1))
    save_component(place / "vae", VAE_CONFIG, drawn(VAE, VAE_CONFIG, 2))
    (place / "scheduler").mkdir()
    scheduler = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
    }
    file = place / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(scheduler))
    return place


def gendr(*args):
    return main_lib.main(["convert", *(str(arg) for arg in args)])


def failed(capsys, *args):
    """(exit status, the one line)."""
    status = gendr(*args)
    out, error = capsys.readouterr()
    assert not out
    assert error.startswith("gendr: error: ") and error.count("\n") == 1, error
    return status, error


def test_a_pipeline_becomes_ours_and_says_so(pipeline, tmp_path, capsys):
    assert gendr(pipeline, "-o", tmp_path / "w", "--dtype", "bf16") == 0
    out, error = capsys.readouterr()
    assert not error
    for part in ("diffusers pipeline", FILE, "sha256 ", "kind base", "unet", "vae"):
        assert part in out
    manifest = read_manifest(tmp_path / "w")
    assert manifest["prediction_type"] == "v"
    assert manifest["components"]["unet"]["dtypes"].keys() == {"bfloat16"}


def test_the_report_as_json(pipeline, tmp_path, capsys):
    assert gendr(pipeline, "-o", tmp_path / "w", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report.keys() == {
        "formats",
        "files",
        "left_out",
        "kind",
        "parameters",
        "prediction",
        "ema",
        "scaling_factor",
        "shift_factor",
        "output",
        "to",
        "seconds",
    }
    assert report["formats"] == ["diffusers pipeline"]
    assert [f["name"] for f in report["files"]] == [FILE, FILE]
    assert all(f.keys() == {"name", "bytes", "sha256"} for f in report["files"])
    assert (report["kind"], report["to"]) == ("base", "orbax")
    assert report["output"] == str(tmp_path / "w")
    unet = nets.count(folder.load(tmp_path / "w").params["unet"])
    assert report["parameters"]["unet"] == unet
    hashes = [x for f in report["files"] for x in ("--sha256", f["sha256"])]
    assert gendr(pipeline, "-o", tmp_path / "v", *hashes) == 0


def test_wrong_usage_is_two_and_bad_files_are_one(pipeline, tmp_path, capsys):
    unet, new = pipeline / "unet", tmp_path / "new"
    assert gendr(pipeline / "vae", "-o", tmp_path / "taken") == 0
    capsys.readouterr()
    alone = tmp_path / "alone" / "unet"
    save_component(alone, UNET, drawn(UNet, UNET, 1))
    for args, part in (
        ((alone, "-o", new), "Give --prediction eps"),
        ((unet, "-o", tmp_path / "taken"), "add --force"),
        ((unet, "-o", new, "--dtype", "int8"), "--dtype is 'int8'"),
        ((unet, "-o", new, "--latent-channels", "-1"), "--latent-channels is -1"),
        ((unet, "-o", new, "--to", "onnx"), "onnx"),
        ((unet, "-o", new, "--merge"), "--merge takes adapters"),
        ((unet, "-o", new, "--to", "peft"), "--to peft takes adapters"),
        ((unet, "-o", new, "--to", "peft", "--verify"), "--verify runs networks"),
        ((unet,), "-o"),
    ):
        status, line = failed(capsys, *args)
        assert (status, part in line) == (2, True), line
    for args, part in (
        ((tmp_path / "gone", "-o", new), "does not exist"),
        ((unet, "-o", new, "--sha256", "0" * 64), "has sha256"),
        ((unet, "-o", new, "--variant", "fp16"), "--variant"),
        ((unet, "-o", new, "--latent-channels", "6"), "multiple of 4"),
    ):
        status, line = failed(capsys, *args)
        assert (status, part in line) == (1, True), line
    assert not new.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone", "taken"]


def test_force_and_the_way_back(pipeline, tmp_path, capsys):
    assert gendr(pipeline, "-o", tmp_path / "w", "--prediction", "eps") == 0
    assert read_manifest(tmp_path / "w")["prediction_type"] == "eps"
    wide = ("-o", tmp_path / "w", "--force", "--latent-channels", "16")
    capsys.readouterr()
    same = failed(capsys, tmp_path / "w", *wide)
    assert same[0] == 2 and "is the input" in same[1]
    assert gendr(pipeline / "unet", *wide, "--prediction", "eps") == 0
    assert read_manifest(tmp_path / "w")["configs"]["unet"]["in_channels"] == 16
    assert gendr(tmp_path / "w", "-o", tmp_path / "d", "--to", "diffusers") == 0
    assert "(diffusers, kind base)" in capsys.readouterr().out
    assert (tmp_path / "d" / "README.md").is_file()


def test_help_shows_examples_that_parse(capsys):
    with pytest.raises(SystemExit) as stop:
        gendr("--help")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    examples = [
        line.strip() for line in out.splitlines() if line.startswith("  gendr convert ")
    ]
    assert len(examples) >= 4
    for line in examples:
        flags = command._parser().parse_args(shlex.split(line)[2:])
        assert flags.sources and flags.output
    for flag in ("--to", "--dtype", "--merge", "--verify", "--force", "--sha256"):
        assert flag in out


@pytest.mark.torch
@pytest.mark.parametrize(
    "to", [pytest.param("orbax", marks=pytest.mark.slow), "diffusers"]
)
def test_verify_agrees(pipeline, tmp_path, capsys, to):
    pytest.importorskip("diffusers")
    options = ("--to", to, "--dtype", "bf16", "--verify")
    assert gendr(pipeline, "-o", tmp_path / "w", *options, "--json") == 0
    verified = json.loads(capsys.readouterr().out)["verify"]
    assert verified["agrees"] is True and verified["skipped"] == []
    assert verified["blocks"].keys() == {"unet", "vae"}
    assert {"conv_in", "mid_block", "output"} <= verified["blocks"]["unet"].keys()
    for blocks in verified["blocks"].values():
        assert all(0 <= ratio <= verified["limit"] for ratio in blocks.values())
    assert [p.name for p in tmp_path.iterdir()] == ["w"]


@pytest.mark.torch
def test_verify_of_dinov2_and_of_what_no_library_has(tmp_path, capsys):
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    save_component(tmp_path / "dino", DINO, drawn(DINOv2, DINO, 3))
    for to in ("orbax", "diffusers"):
        new = tmp_path / to
        assert gendr(tmp_path / "dino", "-o", new, "--to", to, "--verify") == 0
        assert "PyTorch and JAX agree" in capsys.readouterr().out
    lpips = tmp_path / "lpips"
    config = LPIPSConfig("alexnet")
    params = {"lpips": drawn(LPIPS, config, 4)}
    weights = Weights(kind="lpips", configs={"lpips": config}, params=params)
    export.save_pipeline(lpips, weights)
    assert gendr(lpips, "-o", tmp_path / "w", "--verify") == 1
    out = capsys.readouterr().out
    assert "not compared: no library" in out and "NOTHING WAS COMPARED" in out
    assert "AGREE" not in out


@pytest.mark.torch
def test_verify_shows_where_weights_differ(pipeline, tmp_path, capsys, monkeypatch):
    pytest.importorskip("diffusers")
    save = export.save_pipeline

    def altered(target, weights):
        save(target, weights)
        params = jax.tree.map(np.copy, weights.params["unet"])
        params["mid_block"]["resnets"]["0"]["conv1"]["kernel"][0] *= 1.5
        save_component(target / "unet", UNET, params)

    monkeypatch.setattr(export, "save_pipeline", altered)
    assert gendr(pipeline, "-o", tmp_path / "w", "--verify") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "DO NOT AGREE" in lines[-1]
    ratios = {
        (words[1], words[2]): float(words[3])
        for words in (line.split() for line in lines)
        if words[0] == "verify" and len(words) == 4
    }
    assert ratios["unet", "down_blocks.0"] <= 1e-4 < ratios["unet", "mid_block"]
    assert ratios["unet", "output"] > 1e-4 >= ratios["vae", "output"]


def test_a_damaged_folder_of_ours_is_one_line_of_a_real_process(tmp_path):
    """Threads of tensorstore print tracebacks of their own where nobody stops them."""
    config = VAEConfig(block_out_channels=(32, 64), layers_per_block=1)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: rng.standard_normal(a.shape, np.float32),
        nets.build(VAE, config).abstract,
    )
    path = folder.save(tmp_path / "w", kind="vae", vae=(config, params))
    largest = max((path / "vae").rglob("*"), key=lambda p: p.stat().st_size)
    os.truncate(largest, 2000)
    command = [sys.executable, "-m", "gendr_jax.cli.main", "inspect", path, "--verify"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"gendr: error: .*vae is damaged .*\n", done.stderr)
