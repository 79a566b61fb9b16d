"""Meshes from text, weights placed by one rule, and the gather helper."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from gendr_jax import nets, sharding
from gendr_jax.errors import UsageError
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.plan import collectives, hlo

F32, BF16 = jnp.float32, jnp.bfloat16


class SliceOf:
    """A device that says it belongs to a slice."""

    def __init__(self, device, slice_index):
        self.device, self.slice_index = device, slice_index

    def __getattr__(self, name):
        return getattr(self.device, name)


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
    assert mesh.axis_types == (AxisType.Auto,) * len(sharding.AXES)
    assert sorted(d.id for d in mesh.devices.flat) == sorted(
        d.id for d in jax.devices()
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("data=2,fsdp=2", "needs 4 devices, 8 are visible"),
        ("data=16", "needs 16 devices, 8 are visible"),
        ("data=3,fsdp=-1", "needs a multiple of 3 devices, 8 are visible"),
        ("data=-1,fsdp=-1", "gives data and fsdp the size -1"),
        ("expert=8", "names the axis 'expert', the axes are"),
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
        (r"^frozen/a/kernel$", "fsdp,-"),
        (r"^frozen/b/", "split:data+fsdp"),
        (r"kernel$", "replicated"),
    )
    mesh = sharding.make_mesh("data=2,fsdp=4")
    tree = {name: {"kernel": shape(64, 128)} for name in "abc"}
    placed = sharding.tree_shardings(tree, mesh, role="frozen", rules=rules)
    assert placed["a"]["kernel"].spec == PartitionSpec("fsdp")
    assert placed["b"]["kernel"].spec == PartitionSpec(None, ("data", "fsdp"))
    assert placed["c"]["kernel"].spec == PartitionSpec()
    placed = sharding.tree_shardings(tree, mesh, role="fake/params", rules=rules)
    assert {s["kernel"].spec for s in placed.values()} == {PartitionSpec()}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (("(", "replicated"), "no regular expression"),
        (("x", "split:expert"), "is 'split:expert', expected 'replicated'"),
        (("x", "whole"), "is 'whole', expected 'replicated'"),
        (("x", "split:-"), "is 'split:-'"),
    ],
)
def test_rules_that_say_nothing_are_refused(rule, words):
    with pytest.raises(UsageError, match=words):
        sharding.Placement(sharding.make_mesh("fsdp=8"), (rule,))


@pytest.mark.parametrize(
    ("how", "words"),
    [("fsdp", "has 1 entries, x has shape"), ("-,fsdp", "splits an axis of 30 of x 8")],
)
def test_rules_that_do_not_fit_an_array_are_refused(how, words):
    where = sharding.Placement(sharding.make_mesh("fsdp=8"), (("x", how),))
    with pytest.raises(UsageError, match=words):
        where.tree({"x": shape(512, 30)})


def test_report_counts_bytes_and_names_what_is_left_whole():
    rules = (("nowhere", "replicated"), ("^frozen/small", "fsdp"))
    where = sharding.Placement(sharding.make_mesh("data=2,fsdp=4"), rules)
    frozen = {"odd": shape(255, 1023), "kernel": shape(64, 128), "small": shape(8)}
    state = {"ema": shape(4, dtype=BF16)}
    found = sharding.report({"frozen": frozen, "": state}, where)
    assert found.roles == {
        "frozen": sharding.RoleBytes(
            4 * (255 * 1023 + 64 * 128 + 8),
            4 * (255 * 1023 + 64 * 32 + 2),
            4 * 255 * 1023,
        ),
        "ema": sharding.RoleBytes(8, 8, 8),
    }
    assert found.indivisible == ("frozen/odd",) and found.unmatched == ("nowhere",)
    text = "\n".join(found.lines())
    assert "no axis divides: frozen/odd" in text
    assert "rules without an array: nowhere" in text


def test_state_bytes_fall_as_the_number_of_devices():
    """Full-size UNet with its moments: a share of 1/fsdp, from 8 to 256 devices."""
    params = nets.build(UNet, UNetConfig()).abstract
    shares = []
    for parts in (8, 64, 256):
        inner = min(parts, 64)
        mesh = AbstractMesh((1, 1, parts // inner, inner, 1, 1), sharding.AXES)
        found = sharding.report({"params": params}, sharding.Placement(mesh))
        part = found.roles["params"]
        shares.append(part.per_device * parts / part.total)
    assert max(shares) < 1.15, shares  # what is too small to split stays whole


def test_moments_that_live_on_the_host():
    mesh = sharding.make_mesh("fsdp=8")
    where = sharding.Placement(mesh, on_host=("^fake/opt/",))
    placed = where.tree({"mu": shape(64, 128), "count": shape()}, "fake/opt")
    assert placed["mu"].memory_kind == "pinned_host"
    assert placed["mu"].spec == PartitionSpec(None, "fsdp")
    assert placed["count"].memory_kind != "pinned_host"


def test_slices_are_the_outermost_axis():
    """Devices of two slices: dcn is 2 without being named, and never mixes them."""
    devices = [SliceOf(d, i // 4) for i, d in enumerate(jax.devices())]
    for spec in ("fsdp=4", "dcn=2,data=2,fsdp=2"):
        mesh = sharding.make_mesh(spec, devices)
        assert mesh.shape["dcn"] == 2
        for number, block in enumerate(mesh.devices):
            assert {d.slice_index for d in block.flat} == {number}
    with pytest.raises(UsageError, match="dcn=1, the devices are 2 slices"):
        sharding.make_mesh("dcn=1,data=8", devices)


def test_every_process_reads_its_share():
    """Alone, all rows; with `space` across processes, the same rows on both."""
    assert sharding.data_share(sharding.make_mesh("data=2,space=4")) == (0, 1)
    assert sharding.row_shards(sharding.make_mesh("data=2,space=4")) == 2


def test_pictures_are_cut_along_the_height():
    mesh = sharding.make_mesh("data=2,space=4")
    cut = jax.jit(lambda x: sharding.split_rows(x, mesh))
    assert cut(jnp.ones((2, 16, 4, 3))).sharding.shard_shape((2, 16, 4, 3)) == (
        1,
        4,
        4,
        3,
    )
    whole = sharding.split_rows(jnp.ones((2, 15, 4, 3)), mesh)
    assert whole.shape == (2, 15, 4, 3)  # rows that do not divide stay together


def test_moments_are_placed_like_their_weights():
    mesh = sharding.make_mesh("data=2,fsdp=4")
    params = {"kernel": shape(128, 256), "bias": shape(256)}
    moments = jax.eval_shape(optax.adam(1e-3).init, params)[0]
    want = sharding.tree_shardings(params, mesh)
    placed = sharding.tree_shardings(moments, mesh)
    assert placed.mu == want and placed.nu == want
    assert placed.count.spec == PartitionSpec()


def _loss(params, shardings, x_bd, dtype):
    w = sharding.gather(params, shardings, dtype)
    y_bd = jnp.tanh(x_bd.astype(dtype) @ w["kernel"]) + w["bias"]
    return jnp.sum(jnp.square(y_bd.astype(F32)))


def _setup(spec, dtype=BF16):
    mesh = sharding.make_mesh(spec)
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "kernel": jax.random.normal(keys[0], (64, 128)) / 8,
        "bias": jnp.zeros((1, 128)),
    }
    shardings = sharding.tree_shardings(params, mesh)
    x_bd = jax.random.normal(keys[1], (16, 64))
    grad = jax.jit(
        jax.grad(lambda p, x: _loss(p, shardings, x, dtype)),
        in_shardings=(shardings, sharding.batch_sharding(mesh)),
        out_shardings=shardings,
    )
    return grad, jax.device_put(params, shardings), x_bd


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_gather_gives_the_same_gradient_on_every_mesh(dtype):
    results = []
    for spec in ("data=8", "data=2,fsdp=4", "fsdp=8"):
        grad, params, x_bd = _setup(spec, dtype)
        g = grad(params, x_bd)
        assert jax.tree.map(lambda a: a.dtype, g) == {"kernel": F32, "bias": F32}
        assert jax.tree.map(lambda a: a.sharding, g) == jax.tree.map(
            lambda a: a.sharding, params
        )
        results.append(jax.device_get(g))
    # Over two axes the sum is rounded to `dtype` twice.
    rounding = float(jnp.finfo(dtype).eps) / 2
    # One axis: the same sum, element by element; in float32 two axes as well.
    for other in results[1:] if dtype == F32 else results[2:]:
        for name in other:
            np.testing.assert_allclose(
                other[name], results[0][name], rtol=0.02, atol=0.02
            )
    for other in results[1:]:
        for name in other:
            error = np.linalg.norm(other[name] - results[0][name])
            assert error < 2 * rounding * np.linalg.norm(results[0][name])


def test_a_gradient_is_reduced_to_its_shards():
    """Over `fsdp` to a shard, then the shard over `data`; not complete over both."""
    grad, params, x_bd = _setup("data=2,fsdp=4", F32)
    module = hlo.parse(grad.lower(params, x_bd).compile().as_text())
    axes = {"data": 2, "fsdp": 4}
    sums = [
        c
        for c in collectives.find(module, hlo.runs(module), axes)
        if "reduce" in c.kind
    ]
    kernel, bias = 4 * 64 * 128, 4 * 128
    over = {c.axes: c.bytes for c in sums}
    assert over == {("fsdp",): kernel, ("data",): kernel / 4, ("data", "fsdp"): bias}


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


def test_more_than_64_ways_are_two_axes_of_the_mesh():
    """320 divides by 64 and not by 128; its kernels are split on two of their axes."""
    mesh = AbstractMesh((1, 1, 4, 64, 1, 1), sharding.AXES)
    where = sharding.Placement(mesh)
    spec = where.spec("k", (3, 3, 320, 640))
    assert spec == PartitionSpec(None, None, "fsdp_outer", "fsdp")
    assert where.spec("k", (1280, 320)) == PartitionSpec(("fsdp_outer", "fsdp"))
    assert where.spec("k", (3, 3, 3, 320)) == PartitionSpec(None, None, None, "fsdp")


def test_a_large_fsdp_axis_is_split_when_the_mesh_is_made():
    devices = [SliceOf(jax.devices()[0], 0) for _ in range(512)]
    mesh = sharding.make_mesh("data=2,fsdp=256", devices)
    assert tuple(mesh.shape.values()) == (1, 2, 4, 64, 1, 1)
    assert sharding.row_shards(mesh) == 512
