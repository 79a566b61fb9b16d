"""weights/folder.py, gendr_json.py, digest.py: round trip, damage, refusals."""

import dataclasses
import errno
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.errors import InputError, UsageError
from gendr_jax.models.heads import RepaProjector, RepaProjectorConfig
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.weights import folder
from gendr_jax.weights.resolve import resolve_folder
from gendr_jax.weights.sha256 import sha256

VAE_CONFIG = VAEConfig(
    latent_channels=4,
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_groups=4,
    scaling_factor=0.5,
)
UNET_CONFIG = UNetConfig(
    in_channels=4,
    out_channels=4,
    block_out_channels=(8, 16),
    layers_per_block=1,
    heads=(2, 2),
    attention=(True, False),
    cross_attention_dim=12,
    norm_groups=4,
)


def params_of(model, config, seed=0):
    """Random weights in numpy: initialising a network is not what is tested."""
    rng = np.random.default_rng(seed)
    abstract = nets.build(model, config).abstract
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype), abstract
    )


@pytest.fixture(scope="module")
def parts():
    """Arguments of `folder.save` for a whole restorer."""
    rng = np.random.default_rng(1)
    return {
        "kind": "restorer",
        "unet": (UNET_CONFIG, params_of(UNet, UNET_CONFIG)),
        "vae": (VAE_CONFIG, params_of(VAE, VAE_CONFIG, 1)),
        "prompt": {"positive": rng.standard_normal((5, 12)).astype(np.float32)},
        "prediction": "v",
        "t_star": 300,
        "prompt_text": {"positive": "a sharp photograph"},
        "provenance": {"stage": "distill", "step": 7},
    }


@pytest.fixture(scope="module")
def saved(parts, tmp_path_factory):
    return folder.save(tmp_path_factory.mktemp("weights") / "w", **parts)


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def edit(path, **changes):
    manifest = json.loads((path / "gendr.json").read_text())
    (path / "gendr.json").write_text(json.dumps(manifest | changes))


def assert_same(a, b):
    assert nets.flatten(a).keys() == nets.flatten(b).keys()
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_round_trip(parts, saved):
    loaded = folder.load(saved)
    for name in ("unet", "vae"):
        assert loaded.configs[name] == parts[name][0]
        assert_same(loaded.params[name], parts[name][1])
    assert_same(loaded.prompt, parts["prompt"])
    for name in ("kind", "prediction", "t_star", "prompt_text"):
        assert getattr(loaded, name) == parts[name]
    assert loaded.provenance["step"] == 7
    # No temporary folders are left beside it.
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_manifest_says_what_is_inside(parts, saved):
    manifest = json.loads((saved / "gendr.json").read_text())
    assert manifest["format"] == "gendr" and manifest["version"] == 1
    assert manifest["configs"]["vae"]["scaling_factor"] == 0.5
    component = manifest["components"]["unet"]
    assert component["parameters"] == nets.count(parts["unet"][1])
    assert component["dtypes"] == {"float32": component["parameters"]}
    assert component["sha256"] == sha256(parts["unet"][1])


def test_only_the_components_asked_for(saved):
    loaded = folder.load(saved, components=("vae",))
    assert loaded.params.keys() == {"vae"} and not loaded.prompt
    assert loaded.configs["unet"] == UNET_CONFIG


def test_base_with_its_projector(parts, tmp_path):
    config = RepaProjectorConfig(in_dim=8, hidden_dim=6, out_dim=4)
    projector = (config, params_of(RepaProjector, config))
    path = folder.save(
        tmp_path / "b", kind="base", unet=parts["unet"], projector=projector
    )
    loaded = folder.load(path)
    assert loaded.params.keys() == {"unet", "projector"}
    assert loaded.configs["projector"] == config
    assert_same(loaded.params["projector"], projector[1])


def test_bfloat16_is_kept(parts, tmp_path):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), parts["vae"][1])
    path = folder.save(tmp_path / "v", kind="vae", vae=(VAE_CONFIG, half))
    loaded = folder.load(path).params["vae"]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded)} == {"bfloat16"}
    assert_same(loaded, half)


def test_saving_again_replaces_and_other_folders_are_left_alone(parts, tmp_path):
    path = folder.save(tmp_path / "v", kind="vae", vae=parts["vae"])
    other = jax.tree.map(lambda x: x + 1, parts["vae"][1])
    folder.save(path, kind="vae", vae=(VAE_CONFIG, other))
    assert_same(folder.load(path).params["vae"], other)
    assert [p.name for p in tmp_path.iterdir()] == ["v"]
    foreign = tmp_path / "holiday"
    foreign.mkdir()
    (foreign / "photo.txt").write_text("dear")
    with pytest.raises(UsageError, match="no weights folder"):
        folder.save(foreign, kind="vae", vae=parts["vae"])
    assert (foreign / "photo.txt").read_text() == "dear"


def test_a_failed_save_leaves_the_old_folder(parts, tmp_path, monkeypatch):
    path = folder.save(tmp_path / "v", kind="vae", vae=parts["vae"])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder, "_write_component", full)
    with pytest.raises(InputError, match="is full"):
        folder.save(path, kind="vae", vae=parts["vae"])
    assert [p.name for p in tmp_path.iterdir()] == ["v"]
    assert_same(folder.load(path).params["vae"], parts["vae"][1])


@pytest.mark.parametrize("kind", ["restorer", "base", "vae"])
def test_incomplete_kinds_are_refused(kind, tmp_path):
    with pytest.raises(UsageError, match="need"):
        folder.save(tmp_path / "w", kind=kind)
    assert not (tmp_path / "w").exists()


def test_wrong_arrays_are_refused_by_name(parts, tmp_path):
    wide = dataclasses.replace(VAE_CONFIG, block_out_channels=(8, 24))
    params = parts["vae"][1]
    with pytest.raises(
        InputError, match=r"vae: 87 tensors.*decoder.conv_in.bias.*84 more"
    ):
        folder.save(tmp_path / "w", kind="vae", vae=(wide, params))
    ints = jax.tree.map(lambda x: x.astype(np.int32), params)
    with pytest.raises(InputError, match="dtype int32"):
        folder.save(tmp_path / "w", kind="vae", vae=(VAE_CONFIG, ints))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"negative": np.zeros((5, 12), np.float32)}, "positive is missing"),
        ({"positive": np.zeros((5, 9), np.float32)}, r"\(5, 9\).*\[L, 12\]"),
        ({"positive": np.full((5, 12), np.nan, np.float32)}, "finite"),
    ],
)
def test_wrong_prompts_are_refused(parts, tmp_path, prompt, message):
    with pytest.raises(InputError, match=message):
        folder.save(tmp_path / "w", **parts | {"prompt": prompt})


def test_a_flipped_bit_is_noticed(copy):
    from orbax.checkpoint import v1 as ocp

    tree = ocp.load(copy / "vae")
    bias = tree["decoder"]["conv_out"]["bias"]
    bias.view(np.uint32)[0] ^= 1
    shutil.rmtree(copy / "vae")
    ocp.save(copy / "vae", tree)
    with pytest.raises(InputError, match="sha256"):
        folder.load(copy)
    folder.load(copy, components=("unet",))  # the other component is still good
    folder.load(copy, verify=False)


def test_a_truncated_file_is_noticed(copy):
    largest = max((copy / "unet").rglob("*"), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    with pytest.raises(InputError, match="damaged"):
        folder.load(copy)


@pytest.mark.parametrize("name", ["unet", "vae", "prompt.npz"])
def test_a_missing_component_is_named(copy, name):
    path = copy / name
    path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(InputError, match=name):
        folder.load(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2.*reads 1"),
        ({"version": None}, "version None"),
        ({"format": "other"}, "format"),
        ({"kind": "pics"}, "kind 'pics'"),
        ({"components": None}, "components"),
        ({"prediction_type": "x"}, "prediction_type 'x'"),
        ({"t_star": 1000}, "t_star 1000"),
        ({"configs": {}}, "a config for unet"),
        ({"configs": {"vae": {"colour": 3}}}, r"no fields \['colour'\]"),
    ],
)
def test_foreign_or_newer_manifests_are_refused(copy, changes, message):
    edit(copy, **changes)
    with pytest.raises(InputError, match=message):
        folder.load(copy)


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="no weights folder"):
        folder.load(tmp_path)
    (tmp_path / "gendr.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        folder.load(tmp_path)


def test_digest_depends_on_content_and_nothing_else():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    tree = {"b": {"kernel": x}, "a": {"bias": x[0]}}
    same = {"a": {"bias": jnp.asarray(x[0])}, "b": {"kernel": np.asfortranarray(x)}}
    assert sha256(tree) == sha256(same)
    others = [
        {"a": {"bias": x[0]}, "b": {"kernel": x.reshape(4, 3)}},
        {"a": {"bias": x[0]}, "c": {"kernel": x}},
        {"a": {"bias": x[0]}, "b": {"kernel": x.view(np.int32)}},
        {"a": {"bias": x[0]}, "b": {"kernel": np.nextafter(x, 9)}},
    ]
    digests = {sha256(tree)} | {sha256(other) for other in others}
    assert len(digests) == 5


def test_resolve_folder(tmp_path):
    assert resolve_folder(tmp_path) == tmp_path.resolve()
    with pytest.raises(InputError, match="no weights folder"):
        resolve_folder(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        resolve_folder(str(tmp_path / "file"))
