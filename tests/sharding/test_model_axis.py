"""The mesh axis `model`: what a transformer computes and sends when it is split.

Whole steps on such meshes are in test_mesh_presets.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gendr_jax import nets, sharding
from gendr_jax.models import tensor_axis
from gendr_jax.models.layers import Conv
from gendr_jax.models.lora import LoRAConfig
from gendr_jax.models.transformer import SpatialTransformer
from gendr_jax.plan import collectives, hlo
from tests.helpers.tiny_stages import fewer_passes, random

quick = pytest.fixture(scope="module", autouse=True)(fewer_passes)
WIDTH, WORDS, SIDE, BATCH = 32, 16, 8, 8
MAP = BATCH * SIDE * SIDE * WIDTH * 4  # bytes of all tokens


class Net:
    """A transformer over a map, and its arguments."""

    def __init__(self, heads, lora=None):
        net = nets.build(_Block, heads, dtype="float32", lora=lora)
        self.params = random(net, 1)
        self.apply = lambda params, *inputs: net.bind(params)(*inputs)
        rng = np.random.default_rng(2)
        draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
        self.x, self.words = draw(BATCH, SIDE, SIDE, WIDTH), draw(BATCH, 7, WORDS)

    def loss(self, params, x, words):
        return jnp.mean(jnp.sin(self.apply(params, x, words)))


class _Block(SpatialTransformer):
    def __init__(self, heads, *, dtype, remat="none", rngs):
        kw = {"groups": 4, "linear": True, "dtype": dtype, "rngs": rngs}
        super().__init__(WIDTH, WORDS, heads, **kw)


@functools.cache
def forward(heads, spec, rules=sharding.TENSOR_RULES):
    """The compiled pass on a mesh: (program, collectives)."""
    net, mesh = Net(heads), sharding.make_mesh(spec)
    where = sharding.Placement(mesh, rules, 1)
    at, rows = where.tree(net.params, "unet"), sharding.batch_sharding(mesh)

    def run(params, x, words):
        whole = sharding.gather(params, at, "float32")
        return net.apply(whole, sharding.split_rows(x, mesh), words)

    with jax.set_mesh(mesh), tensor_axis.used(where.splits("model")):
        jitted = jax.jit(run, in_shardings=(at, rows, rows), out_shardings=rows)
        program = jitted.lower(net.params, net.x, net.words).compile()
    module = hlo.parse(program.as_text())
    return program, collectives.find(module, hlo.runs(module), dict(mesh.shape))


def test_a_block_sends_two_all_reduces_and_is_split_evenly():
    program, found = forward(4, "data=2,model=4")
    alone, _ = forward(4, "data=8")
    sent = {one.kind: (one.axes, one.count, one.bytes) for one in found}
    # Self-attention and feed-forward: a gather of tokens before, a sum after. One more
    # gather gives the map back to the convolutions.
    assert sent == {
        "all-reduce": (("model",), 2, 2 * MAP / 2),
        "all-gather": (("model",), 3, 3 * MAP / 2),
    }
    # data=8 splits perfectly; what is not split here are words, biases and one norm
    ratio = program.cost_analysis()["flops"] / alone.cost_analysis()["flops"]
    assert 1 <= ratio < 1.1


def test_without_rules_the_axis_repeats_the_work():
    program, found = forward(4, "data=2,model=4", rules=())
    alone, _ = forward(4, "data=8")
    assert found == []
    ratio = program.cost_analysis()["flops"] / alone.cost_analysis()["flops"]
    assert ratio == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize("heads", [2])
def test_heads_that_do_not_divide_split_queries(heads):
    program, found = forward(heads, "data=2,model=4")
    alone, _ = forward(heads, "data=8")
    assert not [one for one in found if one.kind == "all-to-all"]
    ratio = program.cost_analysis()["flops"] / alone.cost_analysis()["flops"]
    assert ratio < 1.1


class Stem(nnx.Module):
    """Two convolutions, the second of stride 2."""

    def __init__(self, config, *, dtype, remat="none", rngs):
        self.first = Conv(3, 4, dtype=dtype, rngs=rngs)
        self.second = Conv(4, 4, stride=2, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.sin(self.first(x)))


@pytest.mark.parametrize("side", [8, 6])  # 8: rows over space and model, 6: over none
def test_kernel_gradients_of_convolutions_are_summed_once(side):
    """Rows over `space`, repeated over `model`: XLA alone sums them over both."""
    net, mesh = nets.build(Stem, None), sharding.make_mesh("data=2,space=2,model=2")
    params = random(net, 1)
    x = np.random.default_rng(3).normal(size=(4, side, 8, 3)).astype(np.float32)
    loss = lambda params, x: jnp.sum(jnp.sin(net.bind(params)(x)))  # noqa: E731
    expected = jax.jit(jax.grad(loss, (0, 1)))(params, x)
    rows = sharding.batch_sharding(mesh)
    with jax.set_mesh(mesh):
        split = lambda params, x: loss(params, sharding.split_rows(x, mesh))  # noqa: E731
        placed = sharding.place(params, sharding.replicated(mesh))
        found = jax.jit(jax.grad(split, (0, 1)))(placed, sharding.place(x, rows))
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "lora", [None, pytest.param(LoRAConfig(rank=4, alpha=2.0), marks=pytest.mark.slow)]
)
def test_gradients_are_those_of_one_device(lora):
    net, mesh = Net(4, lora), sharding.make_mesh("fsdp=2,space=2,model=2")
    where = sharding.Placement(mesh, sharding.TENSOR_RULES, 1)
    at, rows = where.tree(net.params, "unet"), sharding.batch_sharding(mesh)
    given = (net.params, net.x, net.words)
    expected = jax.jit(jax.grad(net.loss, (0, 1)))(*given)

    def split(params, x, words):
        whole = sharding.gather(params, at, "float32")
        return net.loss(whole, sharding.split_rows(x, mesh), words)

    with jax.set_mesh(mesh):
        step = jax.jit(
            jax.grad(split, (0, 1)),
            in_shardings=(at, rows, rows),
            out_shardings=(at, rows),
        )
        program = step.lower(*given).compile()
    found = program(
        *(sharding.place(a, s) for a, s in zip(given, (at, rows, rows), strict=True))
    )
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)
    text = program.as_text()
    assert "all-gather" in text
    if lora is None:  # adapters beside a split layer are left to the partitioner
        assert "all-to-all" not in text


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("attn1/to_q/kernel", (64, 64), ("fsdp", "model")),
        ("attn1/to_out/0/kernel", (64, 64), ("model", "fsdp")),
        ("ff/net/2/kernel", (256, 64), (("model", "fsdp"),)),
        ("ff/net/0/proj/kernel", (64, 512), (None, "fsdp")),
        ("attn2/to_q/kernel", (64, 64), (None, "fsdp")),
        ("attn1/to_q/lora_a", (64, 64), (None, "fsdp")),
    ],
)
def test_where_weights_lie(name, shape, spec):
    mesh = sharding.make_mesh("data=2,fsdp=2,model=2")
    where = sharding.Placement(mesh, sharding.TENSOR_RULES)
    path = f"generator/params/unet/mid_block/attentions/0/transformer_blocks/0/{name}"
    assert where.spec(path, shape) == jax.sharding.PartitionSpec(*spec)
