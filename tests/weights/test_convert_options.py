"""convert: its options, what it refuses, and that it writes all or nothing."""

import json
import os

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gendr_jax import nets
from gendr_jax.errors import InputError, UsageError
from gendr_jax.models.heads import RepaProjector, RepaProjectorConfig
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.weights import folder, surgery
from gendr_jax.weights.convert import Options, convert
from gendr_jax.weights.foreign.component_folder import save_component
from gendr_jax.weights.foreign.single_files import Hints
from gendr_jax.weights.gendr_json import Weights
from gendr_jax.weights.gendr_json import read as read_manifest

UNET = UNetConfig(4, 4, (8, 16), 1, (1, 2), (True, False), 6, 4)
VAE_CONFIG = VAEConfig(
    latent_channels=4, block_out_channels=(8, 12), layers_per_block=1, norm_groups=4
)
EPS = Hints(prediction="eps")
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FILE = "diffusion_pytorch_model.safetensors"


def drawn(model, config, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: rng.standard_normal(a.shape, np.float32).astype(dtype),
        nets.build(model, config).abstract,
    )


def assert_same(ours, expected):
    """Same paths, dtypes and bits."""
    ours, expected = nets.flatten(ours), nets.flatten(expected)
    assert ours.keys() == expected.keys()
    for path, array in ours.items():
        assert array.dtype == expected[path].dtype, path
        assert array.tobytes() == np.asarray(expected[path]).tobytes(), path


def listing(path):
    """Every file below a folder with its bytes."""
    return {
        str(p.relative_to(path)): p.read_bytes() if p.is_file() else None
        for p in sorted(path.rglob("*"))
    }


def edit(source, change):
    tensors = {n: t.copy() for n, t in load_file(source / FILE).items()}
    change(tensors)
    save_file(tensors, source / FILE)


def refused(sources, destination, options, error=InputError):
    """The message; nothing has changed below the destination's parent."""
    before = listing(destination.parent)
    with pytest.raises(error) as caught:
        convert(sources, destination, options)
    assert "\n" not in str(caught.value)
    assert listing(destination.parent) == before
    return str(caught.value)


@pytest.fixture
def unet(tmp_path):
    save_component(tmp_path / "unet", UNET, drawn(UNet, UNET))
    return tmp_path / "unet"


@pytest.fixture
def vae(tmp_path):
    save_component(tmp_path / "vae", VAE_CONFIG, drawn(VAE, VAE_CONFIG))
    return tmp_path / "vae"


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtypes_are_rounded_as_torch_rounds(vae, tmp_path, dtype):
    torch = pytest.importorskip("torch")

    def extremes(tensors):
        # halves between neighbours, even and odd, and around the subnormal numbers
        bits = np.array([0x3F808000, 0x3F818000, 0x3F80FFFF, 0xBF808001], np.uint32)
        small = np.array([1e-8, 6e-8, 1.5e-5, -3e-42], np.float32)
        tensors["decoder.conv_in.weight"].reshape(-1)[:4] = bits.view(np.float32)
        tensors["decoder.conv_in.weight"].reshape(-1)[4:8] = small

    edit(vae, extremes)
    convert([vae], tmp_path / "new", Options(dtype=dtype))
    convert([tmp_path / "new"], tmp_path / "back", Options(to="diffusers"))
    convert([vae], tmp_path / "same", Options())
    convert([tmp_path / "same"], tmp_path / "late", Options(dtype=dtype))
    got = load_file(tmp_path / "back" / "vae" / FILE)
    for name, tensor in load_file(vae / FILE).items():
        expected = torch.tensor(tensor).to(getattr(torch, dtype)).view(torch.int16)
        assert got[name].dtype == np.dtype(dtype), name
        np.testing.assert_array_equal(got[name].view(np.int16), expected.numpy(), name)
    late, new = folder.load(tmp_path / "late"), folder.load(tmp_path / "new")
    assert_same(late.params["vae"], new.params["vae"])


@pytest.mark.parametrize("ours", [False, True], ids=["foreign", "own folder"])
def test_overflow_and_nan_are_refused_with_all_names(vae, tmp_path, ours):
    def large(tensors):
        tensors["decoder.conv_in.weight"][0, 0, 0, 0] = 7e4
        tensors["encoder.conv_out.bias"][1] = -1e5

    edit(vae, large)
    source = vae
    if ours:
        source = tmp_path / "ours"
        convert([vae], source, Options())
    message = refused([source], tmp_path / "new", Options(dtype="float16"))
    for name in ("decoder.conv_in", "encoder.conv_out.bias"):
        assert name in message
    assert "2 tensors" in message and "dtype" in message
    convert([source], tmp_path / "wide", Options(dtype="bfloat16"))  # has the range
    if ours:
        return

    def spoil(tensors):
        tensors["decoder.conv_in.weight"][0, 0, 0, 0] = np.nan
        tensors["encoder.conv_out.bias"][0] = np.inf
        tensors["encoder.conv_in.bias"][0] = -np.inf

    edit(vae, spoil)
    message = refused([vae], tmp_path / "new", Options())
    assert "3 tensors" in message
    for name in ("decoder.conv_in.weight", "encoder.conv_out.bias", "conv_in.bias"):
        assert f"{name} has NaN or Inf" in message


def test_all_that_does_not_fit_is_one_error_and_nothing_is_written(vae, tmp_path):
    def spoil(tensors):
        del tensors["decoder.conv_in.bias"]
        tensors["encoder.conv_inn.weight"] = tensors.pop("encoder.conv_in.weight")
        tensors["decoder.conv_out.bias"] = np.zeros(7, np.float32)
        tensors["decoder.conv_norm_out.bias"] = np.zeros(8, np.int32)

    edit(vae, spoil)
    message = refused([vae], tmp_path / "new", Options())
    assert "5 tensors do not fit" in message
    for part in (
        "missing decoder.conv_in.bias",
        "missing encoder.conv_in.weight (nearest: encoder.conv_inn.weight)",
        "unexpected encoder.conv_inn.weight",
        "decoder.conv_out.bias has shape (7,), expected (3,)",
        "decoder.conv_norm_out.bias has dtype int32",
    ):
        assert part in message


def test_a_second_source_that_fails_leaves_nothing_either(unet, vae, tmp_path):
    edit(vae, lambda tensors: tensors.pop("decoder.conv_in.bias"))
    options = Options(hints=EPS)
    assert "decoder.conv_in.bias" in refused([unet, vae], tmp_path / "new", options)


@pytest.mark.parametrize("to", ["orbax", "diffusers"])
def test_force_replaces_weights_and_nothing_else(vae, tmp_path, to):
    new, options = tmp_path / "new", Options(to=to)
    new.mkdir()
    convert([vae], new, options)  # an empty folder is free
    assert "exists. Name another" in refused([vae], new, options, UsageError)
    (new / "stale").write_text("of the old weights")
    edit(vae, lambda t: t.update({n: -x for n, x in t.items()}))
    convert([vae], new, Options(to=to, force=True))
    assert not (new / "stale").exists()
    convert([new], tmp_path / "again", Options(to="diffusers"))
    again = load_file(tmp_path / "again" / "vae" / FILE)
    for name, tensor in load_file(vae / FILE).items():
        np.testing.assert_array_equal(again[name], tensor)
    other = tmp_path / "photos"
    other.mkdir()
    (other / "only.jpg").write_text("precious")
    message = refused([vae], other, Options(force=True), UsageError)
    assert "no weights that --force could replace" in message
    (tmp_path / "file").write_text("precious")
    message = refused([vae], tmp_path / "file", Options(force=True), UsageError)
    assert "is a file" in message
    # what is wrong with the destination is said before any source is opened
    assert "exists" in refused([tmp_path / "no"], new, options, UsageError)


def test_a_folder_may_be_replaced_by_what_is_made_of_it(vae, tmp_path):
    convert([vae], tmp_path / "w", Options())
    convert([tmp_path / "w"], tmp_path / "w", Options(dtype="bfloat16", force=True))
    found = folder.load(tmp_path / "w").params["vae"]
    assert_same(found, nets.cast(drawn(VAE, VAE_CONFIG), ml_dtypes.bfloat16))


def test_hashes_are_compared_before_anything_is_written(vae, tmp_path):
    report = convert([vae], tmp_path / "one", Options())
    (file,) = report["files"]
    assert file["name"] == FILE
    assert file["bytes"] == (vae / FILE).stat().st_size
    right = ("0" * 64, file["sha256"].upper())
    convert([vae], tmp_path / "two", Options(sha256=right))
    message = refused([vae], tmp_path / "three", Options(sha256=("0" * 64,)))
    assert file["sha256"] in message and "0" * 64 in message


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_latent_channels_are_the_surgery_and_recorded(tmp_path, dtype):
    params = drawn(UNet, UNET, dtype)
    save_component(tmp_path / "unet", UNET, params)
    options = Options(hints=EPS, latent_channels=16)
    convert([tmp_path / "unet"], tmp_path / "wide", options)
    expected = surgery.widen(params, channels_in=16, channels_out=16)
    expected = jax.tree.map(lambda x: np.asarray(x, dtype), expected)
    weights = folder.load(tmp_path / "wide")
    assert_same(weights.params["unet"], expected)
    assert not np.any(weights.params["unet"]["conv_out"]["kernel"])
    manifest = read_manifest(tmp_path / "wide")
    config = manifest["configs"]["unet"]
    assert (config["in_channels"], config["out_channels"]) == (16, 16)
    assert manifest["provenance"]["surgery"]["latent_channels"] == [4, 16]
    # once more, it is done already
    convert([tmp_path / "wide"], tmp_path / "same", options)
    assert_same(folder.load(tmp_path / "same").params["unet"], expected)
    odd = Options(hints=EPS, latent_channels=6)
    assert "6" in refused([tmp_path / "unet"], tmp_path / "odd", odd)


def test_what_a_unet_predicts_is_said_by_somebody(unet, vae, tmp_path):
    for wanted in ("--prediction eps", "--prediction v"):
        assert wanted in refused([unet], tmp_path / "n", Options(), UsageError)
    convert([unet], tmp_path / "said", Options(hints=Hints(prediction="v")))
    assert read_manifest(tmp_path / "said")["prediction_type"] == "v"
    scheduler = tmp_path / "scheduler" / "scheduler_config.json"
    scheduler.parent.mkdir()
    # a pipeline folder, and its UNet's folder alone
    for source in (tmp_path, unet):
        for name, expected in (("epsilon", "eps"), ("v_prediction", "v")):
            scheduler.write_text(json.dumps(SD | {"prediction_type": name}))
            convert([source], tmp_path / "new", Options(force=True))
            assert read_manifest(tmp_path / "new")["prediction_type"] == expected
    scheduler.write_text(json.dumps(SD | {"prediction_type": "sample"}))
    message = refused([unet], tmp_path / "no", Options())
    assert "prediction_type 'sample'" in message


def test_choices_that_cannot_be_joined(unet, vae, tmp_path):
    new = tmp_path / "new"
    for sources, options, expected in (
        ([vae], Options(merge=True), "--merge takes adapters"),
        ([vae], Options(latent_channels=16), "--latent-channels widens a UNet"),
        ([vae], Options(to="peft"), "--to peft takes adapters"),
        ([vae, vae], Options(), "two sources hold a vae"),
    ):
        assert expected in refused(sources, new, options, UsageError)
    assert "does not exist" in refused([tmp_path / "gone"], new, Options())


def test_prompts_make_a_restorer_and_must_fit(unet, vae, tmp_path):
    rng = np.random.default_rng(1)
    positive = rng.standard_normal((5, 6)).astype(np.float32)
    prompt = tmp_path / "prompt.npz"
    np.savez(prompt, positive=positive, text_positive="sharp")
    options = Options(hints=EPS, prompt=prompt)
    report = convert([unet, vae], tmp_path / "restorer", options)
    assert report["kind"] == "restorer"
    weights = folder.load(tmp_path / "restorer")
    np.testing.assert_array_equal(weights.prompt["positive"], positive)
    assert weights.prompt_text == {"positive": "sharp"}
    np.savez(prompt, positive=positive[:, :4])
    assert "prompt positive" in refused([unet, vae], tmp_path / "no", options)
    prompt.write_bytes(b"junk")
    assert "is no prompt file" in refused([unet, vae], tmp_path / "no", options)


def test_a_base_with_all_that_training_gives_it_goes_there_and_back(tmp_path):
    projector = RepaProjectorConfig(in_dim=16, hidden_dim=8, out_dim=5)
    parts = {
        "unet": (UNET, drawn(UNet, UNET)),
        "vae": (VAE_CONFIG, drawn(VAE, VAE_CONFIG)),
        "projector": (projector, drawn(RepaProjector, projector)),
    }
    prompt = {"positive": np.ones((3, 6), np.float32)}
    source = folder.save(tmp_path / "a", kind="base", prompt=prompt, t_star=7, **parts)
    convert([source], tmp_path / "b", Options(to="diffusers"))
    convert([tmp_path / "b"], tmp_path / "c", Options())
    one, two = read_manifest(source), read_manifest(tmp_path / "c")
    for key in ("kind", "configs", "components", "t_star", "prediction_type"):
        assert one[key] == two[key], key


def fail_after_half(target, *rest, **more):
    path = target / "half" if target.is_dir() else target
    path.write_bytes(b"half")
    raise OSError("disk full")


def interrupted(target, *rest, **more):
    raise KeyboardInterrupt


@pytest.mark.parametrize("fails", [fail_after_half, interrupted])
@pytest.mark.parametrize("old", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize(
    "to, writer",
    [
        ("orbax", "folder._write_component"),
        ("diffusers", "foreign.component_folder.write_safetensors"),
        ("diffusers", "export._write_json"),
    ],
)
def test_a_write_that_fails_leaves_nothing(
    vae, tmp_path, monkeypatch, to, writer, old, fails
):
    if old:
        convert([vae], tmp_path / "new", Options())
    before = listing(tmp_path)
    monkeypatch.setattr(f"gendr_jax.weights.{writer}", fails)
    with pytest.raises((OSError, KeyboardInterrupt)):
        convert([vae], tmp_path / "new", Options(to=to, force=old))
    assert listing(tmp_path) == before


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(
    vae, tmp_path, monkeypatch
):
    convert([vae], tmp_path / "new", Options())
    before, replace, calls = listing(tmp_path), os.replace, []

    def fail(source, target):
        calls.append(target)
        if len(calls) == 2:  # the old folder is away, the new one takes its name
            raise OSError("no such luck")
        replace(source, target)

    monkeypatch.setattr("gendr_jax.files.os.replace", fail)
    with pytest.raises(OSError, match="no such luck"):
        convert([vae], tmp_path / "new", Options(force=True))
    monkeypatch.undo()
    assert listing(tmp_path) == before


def lora_weights(seed):
    from gendr_jax.models.lora import LoRAConfig

    config = LoRAConfig(2, 3.0)
    abstract = nets.split_lora(nets.build(UNet, UNET, lora=config).abstract)[1]
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda a: rng.standard_normal(a.shape, np.float32), abstract)
    return Weights(
        kind="lora", configs={"unet": UNET, "lora": config}, params={"lora": params}
    )


def test_two_adapters_are_not_one(unet, tmp_path):
    from gendr_jax.weights import export

    for name, seed in (("a", 1), ("b", 2)):
        export.save_peft(tmp_path / name, lora_weights(seed))
    sources = [unet, tmp_path / "a", tmp_path / "b"]
    message = refused(sources, tmp_path / "no", Options(hints=EPS), UsageError)
    assert "two sources hold adapters" in message
    convert(sources, tmp_path / "both", Options(hints=EPS, merge=True))
    expected = nets.flatten(drawn(UNet, UNET))
    for seed in (1, 2):
        halves = nets.flatten(lora_weights(seed).params["lora"])
        for path, down in halves.items():
            if path[-1] == "lora_a":
                up = halves[(*path[:-1], "lora_b")]
                delta = 1.5 * (down.astype(np.float64) @ up.reshape(2, -1))
                kernel = (*path[:-1], "kernel")
                expected[kernel] = expected[kernel] + delta
    got = nets.flatten(folder.load(tmp_path / "both").params["unet"])
    for path, array in expected.items():
        np.testing.assert_allclose(got[path], array, atol=2e-5, err_msg=str(path))
