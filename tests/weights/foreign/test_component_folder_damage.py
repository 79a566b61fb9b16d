"""Component folders that are old, odd, incomplete or broken: read, or one line."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gendr_jax import nets
from gendr_jax.errors import InputError
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.weights.foreign import components
from gendr_jax.weights.foreign.component_folder import load_component, save_component
from gendr_jax.weights.foreign.open_file import open_file

CONFIG = VAEConfig(
    latent_channels=6,
    block_out_channels=(16, 24),
    layers_per_block=1,
    norm_groups=8,
    quant_conv=False,
    scaling_factor=0.36,
    shift_factor=0.11,
)


def _params() -> nets.Params:
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda a: rng.standard_normal(a.shape, np.float32),
        nets.build(VAE, CONFIG).abstract,
    )


@pytest.fixture
def vae_folder(tmp_path) -> Path:
    save_component(tmp_path, CONFIG, _params())
    return tmp_path


def _assert_equal(ours: nets.Params, theirs: nets.Params) -> None:
    ours, theirs = nets.flatten(ours), nets.flatten(theirs)
    assert ours.keys() == theirs.keys()
    for path, array in ours.items():
        assert array.dtype == theirs[path].dtype, path
        np.testing.assert_array_equal(array, theirs[path])


def _edit(folder: Path, change) -> None:
    """Apply ``change`` to the dict of tensors in the folder."""
    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = {name: tensor.copy() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)


def _configure(folder: Path, **options) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | options))


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
    _assert_equal(load_component(vae_folder, "vae")[1], _params())


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
        "missing encoder.conv_in.weight (nearest: encoder.conv_inn.weight)",
        "unexpected encoder.conv_inn.weight",
        "decoder.conv_out.bias has shape (7,), expected (3,)",
        "decoder.conv_norm_out.bias has dtype int32",
    ):
        assert part in message
    assert "\n" not in message


def test_a_tensor_in_two_shards_is_refused(vae_folder):
    whole = vae_folder / "diffusion_pytorch_model.safetensors"
    whole.rename(vae_folder / "a.safetensors")
    bias = {"decoder.conv_in.bias": np.zeros(24, np.float32)}
    save_file(bias, vae_folder / "b.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (vae_folder / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps(index)
    )
    with pytest.raises(InputError, match="decoder.conv_in.bias appears twice"):
        load_component(vae_folder, "vae")


def test_groups_that_do_not_divide_are_one_line(vae_folder):
    _configure(vae_folder, norm_num_groups=7)
    with pytest.raises(InputError, match="config.json: .*16 channels.*7 groups"):
        load_component(vae_folder, "vae")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: (f / "config.json").unlink(), "config.json cannot be read"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "holds no JSON object"),
        (
            lambda f: (f / "diffusion_pytorch_model.safetensors").write_bytes(
                (f / "diffusion_pytorch_model.safetensors").read_bytes()[:-1000]
            ),
            "is not a complete safetensors file",
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
    ids=["no-config", "no-json", "list", "truncated", "shard", "index"],
)
def test_damaged_folders_are_one_line(vae_folder, spoil, message):
    spoil(vae_folder)
    with pytest.raises(InputError, match=message) as error:
        load_component(vae_folder, "vae")
    assert "\n" not in str(error.value)


class Malicious:
    """Pickled, it runs a command when it is loaded without care."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["junk", "empty", "plain-pickle", "zip", "list"])
def test_a_bin_that_is_no_state_dict_is_one_line_and_never_run(vae_folder, kind):
    torch = pytest.importorskip("torch")
    (vae_folder / "diffusion_pytorch_model.safetensors").unlink()
    file, ran = vae_folder / "diffusion_pytorch_model.bin", vae_folder / "ran"
    message = "diffusion_pytorch_model.bin.* (is damaged|needs more than tensors)"
    if kind in ("plain-pickle", "zip"):
        content = {"encoder.conv_in.weight": torch.zeros(2), "x": Malicious(ran)}
        torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")
        # the pickle does what it says where it is loaded without care
        torch.load(file, weights_only=False)
        ran.unlink()
        message = "diffusion_pytorch_model.bin needs more .*could run code"
    elif kind == "list":
        torch.save([torch.zeros(2)], file)
        message = "diffusion_pytorch_model.bin.* list"
    else:
        file.write_bytes(b"\x00junk" * 300 if kind == "junk" else b"")
    with pytest.raises(InputError, match=message) as error:
        load_component(vae_folder, "vae")
    assert "\n" not in str(error.value)
    assert not ran.exists()


@pytest.mark.torch
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"\n<!DOCTYPE html><title>404</title>", "is a web page"),
        (b"<html>" + b" " * 99, "is a web page"),
    ],
)
def test_what_stands_for_a_file_is_told(tmp_path, suffix, content, said):
    file = tmp_path / f"weights.{suffix}"
    file.write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        open_file(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_long_list_of_wrong_tensors_is_cut():
    components.refuse([], "vae")
    names = [f"missing {i}." for i in range(100)]
    with pytest.raises(InputError, match="100 tensors do not fit: .*; and 81 more"):
        components.refuse(names, "vae")


def test_a_bin_is_read_where_there_is_no_safetensors(vae_folder):
    torch = pytest.importorskip("torch")
    whole = vae_folder / "diffusion_pytorch_model.safetensors"
    tensors = {name: torch.tensor(x) for name, x in load_file(whole).items()}
    torch.save(tensors, vae_folder / "diffusion_pytorch_model.bin")
    whole.unlink()
    _assert_equal(load_component(vae_folder, "vae")[1], _params())


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
    params = _params()
    del params["encoder"]["conv_in"]["bias"]
    with pytest.raises(InputError, match="missing encoder.conv_in.bias"):
        save_component(tmp_path / "new", CONFIG, params)
    assert not (tmp_path / "new").exists()


def test_a_failed_save_leaves_the_old_file_and_no_other(vae_folder, monkeypatch):
    before = {file.name: file.read_bytes() for file in vae_folder.iterdir()}

    def fail(path, tensors):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(
        "gendr_jax.weights.foreign.component_folder.write_safetensors", fail
    )
    with pytest.raises(OSError, match="disk full"):
        save_component(vae_folder, CONFIG, _params())
    assert {f.name: f.read_bytes() for f in vae_folder.iterdir()} == before
