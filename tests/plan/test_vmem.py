"""HBM traffic of programs that keep arrays in vector memory, on text and for real."""

import importlib.util
import os
import subprocess
import sys

import pytest

from gendr_jax.plan import hlo, loops, topologies

# Weights come by an asynchronous copy, in two parts; the product stays in VMEM, the sum
# of it and its copy in HBM does not.
TEXT = """HloModule m

%add (a: f32[8,128], b: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
  %b = f32[8,128]{1,0:T(8,128)} parameter(1)
  ROOT %sum = f32[8,128]{1,0:T(8,128)} add(%a, %b)
}

ENTRY %main (x: f32[8,128], w: f32[128,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %w = f32[128,128]{1,0:T(8,128)} parameter(1)
  %start = (f32[128,128]{1,0:T(8,128)S(1)}, f32[128,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%w)
  %here = f32[128,128]{1,0:T(8,128)S(1)} copy-done(%start)
  %part = ((f32[8,128]{1,0:T(8,128)}), f32[8,64]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:8], [0:64]}
  %part.1 = f32[8,64]{1,0:T(8,128)S(1)} slice-done(%part)
  %y = f32[8,128]{1,0:T(8,128)S(1)} dot(%x, %here), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %z = f32[8,128]{1,0:T(8,128)} fusion(%y, %x), kind=kLoop, calls=%add
}
"""  # noqa: E501


def traffic(text):
    module = hlo.parse(text)
    return loops.hbm_traffic(module, hlo.runs(module))


def test_only_what_leaves_or_enters_hbm_counts():
    copied, part = 4 * 128 * 128, 4 * 8 * 128  # the part's 64 columns fill one tile
    product, fused = 4 * 8 * 128, 2 * 4 * 8 * 128
    assert traffic(TEXT) == copied + part + product + fused
    assert loops.has_vector_memory(TEXT)


def test_without_vector_memory_everything_counts():
    text = TEXT.replace("S(1)", "")
    assert not loops.has_vector_memory(text)
    assert traffic(text) > traffic(TEXT)


@pytest.mark.parametrize(
    ("array", "size"),
    [
        ("f32[3,5]{1,0:T(8,128)}", 4 * 8 * 128),
        ("bf16[3,5]{0,1:T(8,128)(2,1)}", 2 * 128 * 8),
        ("f32[100]{0:T(1024)}", 4 * 1024),
        ("f32[3,5]{1,0}", 4 * 15),
        ("f32[]{:S(2)}", 4),
        ("pred[2,8,128]{2,1,0:T(8,128)(4,1)}", 2 * 8 * 128),
    ],
)
def test_tiles_are_filled_up(array, size):
    assert loops._hbm(array) == size


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
def test_the_compilers_full_effort_moves_less():
    """Two products whose middle fits the chip: asked of the compiler in a process."""
    code = """
import jax, jax.numpy as jnp
from gendr_jax import sharding
from gendr_jax.plan import hlo, loops, measure, topologies
mesh = sharding.make_mesh("", topologies.devices(topologies.parse("v6e:2x2"))[:1])
x = jax.ShapeDtypeStruct((4096, 1024), jnp.bfloat16, sharding=sharding.replicated(mesh))
w = jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16, sharding=sharding.replicated(mesh))
lowered = jax.jit(lambda x, w: jnp.tanh(jnp.sin(x @ w) @ w) @ w).trace(x, w).lower(
    lowering_platforms=("tpu",))
for options in (measure.LOW_EFFORT["tpu"], None):
    text = lowered.compile(options).as_text()
    module = hlo.parse(text)
    print(loops.has_vector_memory(text), loops.hbm_traffic(module, hlo.runs(module)))
"""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    environment = kept | topologies.environment(topologies.parse("v6e:2x2"))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (low, more), (full, less) = (line.split() for line in done.stdout.splitlines())
    needed = 2 * (2 * 4096 * 1024 + 1024 * 1024)  # read x and w, write the result
    assert (low, full) == ("False", "True")
    assert 0.99 * needed <= float(less) < float(more)
