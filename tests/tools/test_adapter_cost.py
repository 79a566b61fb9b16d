"""An update of adapters forms no full-size weight gradient, and costs less."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from gendr_jax import nets
from gendr_jax.models.unet import UNet
from tests.helpers.tiny_stages import fewer_passes
from tools import adapter_cost

ROOT = Path(__file__).resolve().parents[2]
quick = pytest.fixture(scope="module", autouse=True)(fewer_passes)


@pytest.fixture(scope="module")
def cost():
    return {
        k: adapter_cost.measure(k, "tiny", "float32", "none")
        for k in adapter_cost.KINDS
    }


@pytest.mark.slow
def test_adapters_cost_less(cost):
    full, ours = (cost[k] for k in adapter_cost.KINDS)
    assert ours["FLOP"] < 0.9 * full["FLOP"]
    assert ours["temp bytes"] < full["temp bytes"]
    assert ours["output bytes"] < 0.1 * full["output bytes"]
    assert ours["argument bytes"] < 0.5 * full["argument bytes"]


@pytest.mark.slow
def test_no_product_has_the_shape_of_a_frozen_kernel(cost):
    """The count means something: a full update forms one for every kernel."""
    net = nets.build(UNet, adapter_cost.TINY)
    kernels = [x for x in jax.tree.leaves(net.abstract) if x.ndim > 1]
    assert cost["all weights"]["weight gradients"] == len(kernels) > 40
    assert cost["adapters"]["weight gradients"] == 0


@pytest.mark.slow
def test_no_output_has_the_shape_of_a_frozen_kernel():
    program, base = adapter_cost.traced("adapters", "tiny", "float32", "none")
    kernels = {x.shape for x in jax.tree.leaves(base) if x.ndim > 1}
    outputs = {x.shape for x in jax.tree.leaves(program.out_info)}
    assert outputs and not outputs & kernels
    full, _ = adapter_cost.traced("all weights", "tiny", "float32", "none")
    assert {x.shape for x in jax.tree.leaves(full.out_info)} >= kernels


@pytest.mark.slow
def test_recomputation_is_looked_into():
    """Blocks under jax.checkpoint hide their products in an inner program."""
    program, _ = adapter_cost.traced("all weights", "tiny", "float32", "block")
    plain, _ = adapter_cost.traced("all weights", "tiny", "float32", "none")
    count = lambda p: len(list(adapter_cost.products(p.jaxpr)))  # noqa: E731
    assert count(program) > count(plain)


def test_products_of_a_known_program():
    def f(x, w):
        y = jax.checkpoint(lambda x: x @ w)(x)
        return jnp.sum(jax.lax.cond(True, lambda: y, lambda: y + x @ w))

    jaxpr = jax.make_jaxpr(f)(jnp.ones((2, 3)), jnp.ones((3, 3)))
    assert list(adapter_cost.products(jaxpr.jaxpr)) == [(2, 3), (2, 3)]


@pytest.mark.slow
def test_the_command():
    def run(*flags):
        command = [sys.executable, "tools/adapter_cost.py", "--size", "tiny", *flags]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=True
        ).stdout

    found = json.loads(run("--json", "--remat", "block", "--dtype", "bfloat16"))
    assert found["adapters"]["FLOP"] < found["all weights"]["FLOP"]
    assert "temp bytes" in run()
