"""Attention: every kernel gives the plain softmax formula, in values and gradients."""

import importlib.util
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gendr_jax.models import attention, platform
from gendr_jax.models.attention_blocks import attend_blocks


def qkv(length, keys, heads, width, dtype=jnp.float32, batch=2):
    draws = jax.random.split(jax.random.key(0), 3)
    shapes = [(batch, n, heads, width) for n in (length, keys, keys)]
    return [jax.random.normal(k, s, dtype) for k, s in zip(draws, shapes, strict=True)]


def formula(q, k, v):
    """softmax(q k^T / sqrt(d)) v in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = np.einsum("blnd,bmnd->bnlm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bnlm,bmnd->blnd", weights, v)


@pytest.mark.parametrize("shape", [(9, 9, 2, 8), (35, 7, 1, 64), (16, 5, 3, 20)])
def test_attend_is_the_formula(shape):
    q, k, v = qkv(*shape)
    np.testing.assert_allclose(attention.attend(q, k, v), formula(q, k, v), atol=2e-6)


@pytest.mark.parametrize("chunk", [1, 4, 7, 13, 50])
def test_chunks_change_nothing(chunk):
    q, k, v = qkv(13, 11, 2, 8)
    out = attention.attend_chunked(q, k, v, chunk)
    np.testing.assert_allclose(out, formula(q, k, v), atol=2e-6)


def test_gradients_through_chunks_equal_those_without():
    q, k, v = qkv(13, 11, 2, 8)
    weight = jax.random.normal(jax.random.key(1), q.shape)

    def loss(f):
        return jax.grad(lambda *a: jnp.sum(weight * f(*a)), argnums=(0, 1, 2))(q, k, v)

    plain = loss(attention._attend_xla)
    for parts in (
        loss(lambda *a: attention.attend_chunked(*a, chunk=4)),
        loss(lambda *a: attend_blocks(*a, block=4)),
    ):
        for a, b in zip(plain, parts, strict=True):
            np.testing.assert_allclose(a, b, atol=5e-6)


@pytest.mark.parametrize("name", ["MAX_SCORES", "BLOCKS_MIN_SCORES"])
def test_large_scores_are_not_formed_at_once(monkeypatch, name):
    """Chunks of queries on any platform, blocks of a head on a CPU."""
    q, k, v = (jax.ShapeDtypeStruct((1, 2048, 2, 64), jnp.float32) for _ in range(3))

    def memory(limit):
        monkeypatch.setattr(attention, "BLOCKS_MIN_SCORES", 2**30)
        monkeypatch.setattr(attention, name, limit)
        monkeypatch.setattr(jax, "device_count", lambda: 1)
        lowered = jax.jit(lambda *a: attention.attend(*a)).lower(q, k, v)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert memory(128 * 2048) < memory(2**30) / 3


@pytest.mark.parametrize("block", [1, 4, 13, 50])
def test_blocks_are_the_formula(block):
    q, k, v = qkv(13, 11, 2, 8)
    np.testing.assert_allclose(
        attend_blocks(q, k, v, block), formula(q, k, v), atol=2e-6
    )


def test_long_attention_on_a_cpu_is_the_formula(monkeypatch):
    """600 queries: more than a block and not two; and the other precision."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    q, k, v = qkv(600, 130, 2, 8)
    np.testing.assert_allclose(attention.attend(q, k, v), formula(q, k, v), atol=2e-6)
    q, k, v = qkv(600, 130, 2, 8, jnp.bfloat16)
    out = attention.attend(q, k, v)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), formula(q, k, v), atol=2e-2)


def space_mesh():
    devices = np.array(jax.devices()[:8]).reshape(2, 4)
    return Mesh(devices, ("data", "space"), axis_types=(AxisType.Auto,) * 2)


@pytest.mark.parametrize("length", [12, 3, 300])
def test_attention_of_a_spread_picture_gathers_keys_not_scores(length):
    q, k, v = qkv(length, length, 2, 8)
    mesh = space_mesh()
    with jax.set_mesh(mesh):
        compiled = jax.jit(lambda *a: attention.attend(*a)).lower(q, k, v).compile()
        out = compiled(q, k, v)
    np.testing.assert_allclose(out, formula(q, k, v), atol=2e-6)
    assert f"{length},{length}]" not in compiled.as_text()


def test_softmax_is_float32_under_bfloat16():
    """Scores of a few hundred lose their order in bfloat16; the result must not."""
    q, k, v = qkv(8, 8, 1, 16, jnp.bfloat16)
    q = (q * 100).astype(jnp.bfloat16)
    out = attention.attend(q, k, v)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), formula(q, k, v), atol=2e-2)


@pytest.mark.parametrize(
    ("length", "keys"),
    [pytest.param(520, 600, marks=pytest.mark.slow), (256, 77), (300, 200)],
)
def test_the_tpu_kernel_is_the_formula(length, keys):
    """The Pallas kernel under its interpreter: padded lengths, masked keys."""
    from jax.experimental.pallas import tpu as pltpu

    q, k, v = qkv(length, keys, 1, 64, batch=1)
    with pltpu.force_tpu_interpret_mode():
        out = attention.flash_tpu_local(q, k, v)
    np.testing.assert_allclose(out, formula(q, k, v), atol=1e-5)


@pytest.mark.parametrize(("length", "keys"), [(256, 77), (256, 700)])
def test_the_tpu_kernels_gradient_is_that_of_plain_attention(length, keys, monkeypatch):
    """700 keys: three blocks of the backward kernel, two steps of computing each."""
    from jax.experimental.pallas import tpu as pltpu

    monkeypatch.setattr(attention, "FLASH_BLOCK", 128)
    monkeypatch.setattr(attention, "KEYS_BACKWARD", 300)
    arrays = qkv(length, keys, 1, 64, batch=1)
    gradient = lambda f: jax.grad(lambda *a: jnp.sum(f(*a) ** 2), (0, 1, 2))(*arrays)  # noqa: E731
    with pltpu.force_tpu_interpret_mode():
        found = gradient(attention.flash_tpu_local)
    for one, other in zip(found, gradient(attention.attend), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(
    ("length", "width", "keys"),
    [
        (128, 64, 128),
        (512, 64, 512),
        (1024, 64, 1024),
        (1536, 64, 1536),
        (2560, 64, 512),
        (4096, 64, 2048),
        (4096, 512, 512),
    ],
)
def test_the_backward_kernel_holds_keys_that_divide_them(length, width, keys):
    assert attention._keys_backward(length, width) == keys


def test_platform_is_the_current_meshs():
    assert platform.platform() == "cpu"


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
@pytest.mark.parametrize("keys", [4096, 77])
def test_many_queries_on_a_tpu_meet_the_flash_kernel(monkeypatch, keys):
    """Compiled for a real topology: no score matrix, forward or backward."""
    from jax.experimental import topologies

    for name, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-4"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
    ):
        monkeypatch.setitem(os.environ, name, value)
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    devices = np.array(topology.devices).reshape(2, 2)
    mesh = Mesh(devices, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    q, k = (
        jax.ShapeDtypeStruct((4, n, 5, 64), jnp.bfloat16, sharding=rows)
        for n in (4096, keys)
    )

    def loss(q, k, v):
        return jnp.sum(attention.attend(q, k, v).astype(jnp.float32))

    with jax.set_mesh(mesh):
        assert platform.platform() == "tpu"
        lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, k, k)
    compiled = lowered.compile(compiler_options={"exec_time_optimization_effort": -1.0})
    assert not re.search(rf"\[[\d,]*4096,{keys}\]", compiled.as_text())
    if keys == 4096:
        scores = 5 * 4096 * 4096 * 4  # bytes of one sample's float32 scores
        assert compiled.memory_analysis().temp_size_in_bytes < scores / 2
