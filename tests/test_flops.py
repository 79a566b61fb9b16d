"""Operations of traced programs against what is known of them."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from gendr_jax import flops, sharding
from gendr_jax.models import attention
from gendr_jax.plan import programs
from gendr_jax.plan.request import Request
from tests.helpers.tiny_stages import config


def of_built(built):
    return sum(flops.count(part.traced.jaxpr).total for part in built.programs)


def counted(f, *shapes):
    return flops.count(jax.make_jaxpr(f)(*(jnp.zeros(s) for s in shapes)))


def test_a_product_and_its_gradient():
    assert counted(lambda a, b: a @ b, (3, 4), (4, 5)).total == 2 * 3 * 4 * 5
    grad = jax.grad(lambda a, b: jnp.sum(jnp.tanh(a @ b)), (0, 1))
    assert counted(grad, (3, 4), (4, 5)).total == 3 * 2 * 3 * 4 * 5


def test_attention_of_plain_xla():
    q, k = (2, 6, 3, 8), (2, 10, 3, 8)
    found = counted(attention._attend_xla, q, k, k)
    assert found.total == 2 * (2 * 2 * 3 * 6 * 10 * 8)
    assert found.kernels == 0


def test_loops_branches_and_recomputation():
    x = (4, 4)
    one = 2 * 4**3
    scan = lambda x: jax.lax.scan(lambda h, _: (h @ x, None), x, None, length=7)[0]  # noqa: E731
    assert counted(scan, x).total == 7 * one
    cond = lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x @ x)  # noqa: E731
    assert counted(cond, x).total == 2 * one
    block = lambda x: jnp.tanh(jnp.tanh(x @ x) @ x)  # noqa: E731
    plain = jax.grad(lambda x: jnp.sum(block(x)))
    again = jax.grad(lambda x: jnp.sum(jax.checkpoint(block)(x)))
    assert counted(plain, x).total == 6 * one
    assert counted(again, x).total > counted(plain, x).total


@pytest.fixture
def mesh():
    return sharding.make_mesh("data=2,fsdp=2", jax.devices()[:4])


def test_flash_attention_is_seen_in_its_kernel(mesh):
    """Forward 2 products of queries and keys, backward 5 in one kernel."""
    shape, rows = (4, 1024, 2, 64), PartitionSpec(("data", "fsdp"))

    def attend(q, k, v):
        return jax.shard_map(
            attention.flash_tpu_local,
            mesh=mesh,
            in_specs=(rows, rows, rows),
            out_specs=rows,
            check_vma=False,
        )(q, k, v)

    product = 2 * 4 * 2 * 1024 * 1024 * 64
    forward = counted(attend, shape, shape, shape)
    assert forward.total == forward.kernels == 2 * product
    loss = lambda q, k, v: jnp.sum(attend(q, k, v))  # noqa: E731
    backward = counted(jax.grad(loss, (0, 1, 2)), shape, shape, shape)
    assert backward.kernels == 7 * product
    assert backward.announced == 0  # its authors tell the compiler nothing


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["vae", "base"])
def test_recomputation_shows_in_a_stage(mesh, stage):
    """Twice the batch is twice the operations, and remat adds some."""

    def total(batch, remat):
        request = Request(config(stage, remat=remat), "cpu", "", batch)
        return of_built(programs.traced_step(request, mesh))

    once = total(1, "none")
    assert total(1, "block") > 1.1 * once
    if stage == "base":
        assert total(2, "none") == pytest.approx(2 * once, rel=0.05)


@pytest.mark.slow
def test_bytes_by_role(mesh):
    """Adam's moments are twice the weights; split arrays hold their share."""
    request = Request(config("base"), "cpu", "", 1)
    whole = programs.traced_step(
        request, sharding.make_mesh("data=4", jax.devices()[:4])
    )
    split = programs.traced_step(request, mesh)
    assert whole.images == split.images == 4
    sizes = {k: programs.bytes_per_device(v) for k, v in whole.roles.items()}
    assert sizes["optimizer"] == pytest.approx(2 * sizes["params"], rel=1e-3)
    assert sizes["ema"] == pytest.approx(sizes["params"], rel=1e-3)
    assert programs.replicated_bytes(whole.roles["params"]) == sizes["params"]
    for role in ("params", "optimizer", "ema"):
        tree = split.roles[role]
        rest = programs.replicated_bytes(tree)
        expected = rest + (sizes[role] - rest) / 2
        assert programs.bytes_per_device(tree) == pytest.approx(expected)
    assert programs.bytes_per_device(split.roles["batch"]) == 16 * 16 * 3 + 4


@pytest.mark.slow
def test_moments_on_the_host_are_told_apart(mesh):
    pinned = config("base") | {"optim": {"lr": 1e-3, "memory": "pinned_host"}}
    built = programs.traced_step(Request(pinned, "cpu", "", 1), mesh)
    tree = built.roles["optimizer"]
    on_host = programs.bytes_on_host(tree)
    assert on_host > 10 * programs.bytes_per_device(tree)


def test_the_restoring_pass(mesh):
    request = Request(config("distill"), "cpu", "", 1, "restore", 64)
    built = programs.traced_step(request, mesh)
    assert built.images == 4 and set(built.roles) == {"params", "batch"}
    assert of_built(built) > 0
