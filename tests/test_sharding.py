"""Meshes from text, weights placed by one rule, and the gather helper."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from gendr_jax import sharding
from gendr_jax.errors import UsageError

F32, BF16 = jnp.float32, jnp.bfloat16


def shape(*sizes, dtype=F32):
    return jax.ShapeDtypeStruct(sizes, dtype)


@pytest.mark.parametrize(
    ("spec", "sizes"),
    [
        ("", (8, 1)),
        ("data=2,fsdp=4", (2, 4)),
        ("fsdp=4,data=2", (2, 4)),
        ("fsdp=8", (1, 8)),
        (" data = -1 , fsdp = 2 ", (4, 2)),
    ],
)
def test_mesh_sizes(spec, sizes):
    mesh = sharding.make_mesh(spec)
    assert (mesh.shape["data"], mesh.shape["fsdp"]) == sizes
    assert mesh.axis_types == (AxisType.Auto,) * 2
    assert sorted(d.id for d in mesh.devices.flat) == sorted(
        d.id for d in jax.devices()
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("data=2,fsdp=2", "needs 4 devices, 8 are visible"),
        ("data=16", "needs 16 devices, 8 are visible"),
        ("data=3,fsdp=-1", "needs a multiple of 3 devices, 8 are visible"),
        ("data=-1,fsdp=-1", "leaves two axes open"),
        ("model=8", "names the axis 'model', the axes are data and fsdp"),
        ("data=0", "gives data the size '0'"),
        ("data", "gives data the size ''"),
        ("data=2,data=4", "gives data twice"),
    ],
)
def test_mesh_errors_are_one_line(spec, words):
    with pytest.raises(UsageError, match=words) as caught:
        sharding.make_mesh(spec)
    assert "\n" not in str(caught.value)


def test_one_device_is_a_mesh():
    mesh = sharding.make_mesh("", jax.devices()[:1])
    x = jax.device_put(jnp.ones((2, 4)), sharding.batch_sharding(mesh))
    assert x.is_fully_replicated and mesh.size == 1


def test_batch_is_split_over_both_axes():
    mesh = sharding.make_mesh("data=2,fsdp=4")
    x = jax.device_put(jnp.ones((16, 3)), sharding.batch_sharding(mesh))
    assert {s.data.shape for s in x.addressable_shards} == {(2, 3)}


def test_fsdp_rule():
    mesh = sharding.make_mesh("data=2,fsdp=4")
    tree = {
        "conv": shape(3, 3, 64, 128),
        "square": shape(256, 256),
        "odd": shape(255, 1023),
        "wide": shape(96, 333),
        "bias": shape(1280),
        "prompt": shape(8, 1024),
        "step": shape(dtype=jnp.int32),
    }
    specs = jax.tree.map(lambda s: s.spec, sharding.tree_shardings(tree, mesh))
    assert specs == {
        "conv": PartitionSpec(None, None, None, "fsdp"),
        "square": PartitionSpec(None, "fsdp"),
        "odd": PartitionSpec(),
        "wide": PartitionSpec("fsdp"),
        "bias": PartitionSpec(),
        "prompt": PartitionSpec(),
        "step": PartitionSpec(),
    }


def test_rules_come_before_the_default_and_in_order():
    mesh = sharding.make_mesh("fsdp=8")
    rules = (
        (r"a/kernel$", PartitionSpec("fsdp")),
        (r"kernel$", PartitionSpec()),
    )
    tree = {"a": {"kernel": shape(64, 128)}, "b": {"kernel": shape(64, 128)}}
    placed = sharding.tree_shardings(tree, mesh, rules=rules)
    assert placed["a"]["kernel"].spec == PartitionSpec("fsdp")
    assert placed["b"]["kernel"].spec == PartitionSpec()


def test_moments_are_placed_like_their_weights():
    mesh = sharding.make_mesh("data=2,fsdp=4")
    params = {"kernel": shape(128, 256), "bias": shape(256)}
    moments = jax.eval_shape(optax.adam(1e-3).init, params)[0]
    want = sharding.tree_shardings(params, mesh)
    placed = sharding.tree_shardings(moments, mesh)
    assert placed.mu == want and placed.nu == want
    assert placed.count.spec == PartitionSpec()


def _loss(params, shardings, x_bd):
    w = sharding.gather(params, shardings, BF16)
    y_bd = jnp.tanh(x_bd.astype(BF16) @ w["kernel"]) + w["bias"]
    return jnp.sum(jnp.square(y_bd.astype(F32)))


def _setup(spec):
    mesh = sharding.make_mesh(spec)
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "kernel": jax.random.normal(keys[0], (64, 128)) / 8,
        "bias": jnp.zeros((1, 128)),
    }
    shardings = sharding.tree_shardings(params, mesh)
    x_bd = jax.random.normal(keys[1], (16, 64))
    grad = jax.jit(
        jax.grad(lambda p, x: _loss(p, shardings, x)),
        in_shardings=(shardings, sharding.batch_sharding(mesh)),
        out_shardings=shardings,
    )
    return grad, jax.device_put(params, shardings), x_bd


def test_gather_gives_the_same_gradient_on_every_mesh():
    results = []
    for spec in ("data=8", "data=2,fsdp=4", "fsdp=8"):
        grad, params, x_bd = _setup(spec)
        g = grad(params, x_bd)
        assert jax.tree.map(lambda a: a.dtype, g) == {"kernel": F32, "bias": F32}
        assert jax.tree.map(lambda a: a.sharding, g) == jax.tree.map(
            lambda a: a.sharding, params
        )
        results.append(jax.device_get(g))
    for other in results[1:]:
        for name in other:
            np.testing.assert_allclose(
                other[name], results[0][name], rtol=0.02, atol=0.02
            )


def test_gather_casts_before_it_gathers():
    grad, params, x_bd = _setup("data=2,fsdp=4")
    text = grad.lower(params, x_bd).as_text()
    calls = re.findall(r"sdy\.sharding_constraint .*tensor<64x128x(\w+)>", text)
    assert "bf16" in calls and "f32" not in calls[:2], calls
    # Both constraints: the weight's own shards first, then whole.
    own, whole = re.findall(r"sdy\.sharding_constraint .*<@mesh, (\[.*?\])>", text)[:2]
    assert "fsdp" in own and "fsdp" not in whole, (own, whole)


def test_gather_leaves_integers_and_replicated_weights_alone():
    mesh = sharding.make_mesh("fsdp=8")
    tree = {"ids": jnp.arange(8192), "scale": jnp.ones(8)}
    shardings = sharding.tree_shardings(tree, mesh)
    out = jax.jit(lambda t: sharding.gather(t, shardings, BF16))(tree)
    assert out["ids"].dtype == jnp.int32 and out["scale"].dtype == BF16
    assert out["ids"].is_fully_replicated
