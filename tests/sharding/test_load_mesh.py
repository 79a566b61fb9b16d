"""Weights straight onto a mesh: every format, never the whole model on one device."""

from pathlib import Path

import jax
import numpy as np
import pytest

import gendr_jax
from gendr_jax import api, nets
from gendr_jax.errors import InputError
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.sharding import make_mesh
from gendr_jax.weights import folder
from gendr_jax.weights.foreign import component_folder

# Wide enough that most numbers stand in arrays that FSDP splits.
CONFIG = UNetConfig(
    in_channels=4,
    out_channels=4,
    block_out_channels=(64, 128),
    layers_per_block=1,
    heads=(2, 4),
    attention=(True, False),
    cross_attention_dim=32,
)


@pytest.fixture(scope="module")
def params() -> nets.Params:
    rng = np.random.default_rng(0)
    abstract = nets.build(UNet, CONFIG).abstract
    return jax.tree.map(lambda a: rng.standard_normal(a.shape, np.float32), abstract)


@pytest.fixture(scope="module", params=["ours", "diffusers"])
def source(request, params, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("mesh") / request.param
    if request.param == "ours":
        return folder.save(path, kind="base", unet=(CONFIG, params))
    component_folder.save_component(path, CONFIG, params)
    return path


def test_weights_lie_spread_and_are_the_same(source, params):
    mesh = make_mesh("fsdp=8")
    _, spread = api.load_component(source, "unet", mesh=mesh)
    whole = sum(x.nbytes for x in jax.tree.leaves(params))
    held = dict.fromkeys(mesh.devices.flat, 0)
    for leaf in jax.tree.leaves(spread):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    assert max(held.values()) < whole / 4, (held, whole)
    for path, leaf in nets.flatten(spread).items():
        np.testing.assert_array_equal(leaf, nets.flatten(params)[path])


@pytest.mark.slow
def test_the_network_computes_the_same(source):
    rng = np.random.default_rng(1)
    z = rng.standard_normal((2, 9, 8, 4), np.float32)
    context = rng.standard_normal((2, 5, 32), np.float32)
    t = np.array([3, 900])
    alone = gendr_jax.load_unet(source)(z, t, context)
    spread = gendr_jax.load_unet(source, mesh=make_mesh("fsdp=4,data=2"))
    difference = np.abs(spread(z, t, context) - alone).max()
    assert difference <= 1e-4 * np.abs(alone).max()


@pytest.mark.slow
def test_a_flipped_bit_is_found_on_a_mesh_too(params, tmp_path, monkeypatch):
    path = folder.save(tmp_path / "w", kind="base", unet=(CONFIG, params))
    real = folder._read_component

    def flipped(*arguments):
        tree = real(*arguments)
        bias = tree["conv_out"]["bias"]
        return tree | {"conv_out": tree["conv_out"] | {"bias": bias.at[0].add(1)}}

    monkeypatch.setattr(folder, "_read_component", flipped)
    with pytest.raises(InputError, match="sha256"):
        folder.load(path, mesh=make_mesh("fsdp=8"))


def test_another_network_is_refused_before_it_is_read(params, tmp_path):
    path = folder.save(tmp_path / "w", kind="base", unet=(CONFIG, params))
    text = (path / "gendr.json").read_text()
    (path / "gendr.json").write_text(
        text.replace('"in_channels": 4', '"in_channels": 5')
    )
    with pytest.raises(InputError, match=r"conv_in.kernel has shape .*expected"):
        folder.load(path, mesh=make_mesh("fsdp=8"))
