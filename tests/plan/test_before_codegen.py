"""Full effort without code generation: the dump, and the finished program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gendr_jax.plan import before_codegen, hlo, loops, topologies

BUFFERS = """BufferAssignment:
allocation 0: size 512, thread-local:
 value: <1 sum @0> (size=4,offset=0): f32[]{:T(256)}
allocation 1: size 4096, parameter 0, shape |f32[9]| at ShapeIndex {}, maybe-live-out:
 value: <2 x @0> (size=4096,offset=0): f32[1024]{0:T(1024)}
allocation 2: size 8192, parameter 1, shape |f32[2048]| at ShapeIndex {}:
allocation 3: size 16384, maybe-live-out:
allocation 4: size 32768, output shape is |(f32[1024], f32[4096])|, maybe-live-out:
allocation 5: size 1024, constant:
allocation 6: size 65536, preallocated-temp:
allocation 7: size 131072, color 1, preallocated-temp:
allocation 8: size 262144, color 5, parameter 2, shape |f32[65536]| at ShapeIndex {}:
allocation 9: size 524288, color 5, preallocated-temp:
"""

# The same asynchronous slice as the two printers of the compiler write it.
SLICES = {
    "as_text": """HloModule m

ENTRY %main (x: f32[16,128]) -> f32[8,128] {
  %x = f32[16,128]{1,0:T(8,128)} parameter(0)
  %start = ((f32[16,128]{1,0:T(8,128)}), f32[8,128]{1,0:T(8,128)SPACE}, s32[]{:S(2)}) slice-start(%x), slice={[0:8], [0:128]}
  ROOT %done = f32[8,128]{1,0:T(8,128)SPACE} slice-done(%start)
}
""",  # noqa: E501
    "dump": """HloModule m

%async (p: f32[16,128]) -> f32[8,128] {
  %p = f32[16,128]{1,0:T(8,128)} parameter(0)
  ROOT %slice = f32[8,128]{1,0:T(8,128)SPACE} slice(%p), slice={[0:8], [0:128]}
}

ENTRY %main (x: f32[16,128]) -> f32[8,128] {
  %x = f32[16,128]{1,0:T(8,128)} parameter(0)
  %start = ((f32[16,128]{1,0:T(8,128)}), f32[8,128]{1,0:T(8,128)SPACE}, s32[]{:S(2)}) async-start(%x), calls=%async
  ROOT %done = f32[8,128]{1,0:T(8,128)SPACE} async-done(%start)
}
""",  # noqa: E501
}


def test_bytes_of_a_buffer_assignment():
    sizes = before_codegen.memory(BUFFERS)
    assert sizes["argument_bytes"] == 4096 + 8192
    assert sizes["alias_bytes"] == 4096
    assert sizes["output_bytes"] == 4096 + 16384 + 32768
    assert sizes["temp_bytes"] == 512 + 1024 + 65536
    everything_once = 512 + 4096 + 8192 + 16384 + 32768 + 1024 + 65536
    assert sizes["peak_bytes"] == sizes["total_bytes"] == everything_once
    assert sizes["host_argument_bytes"] == 262144
    assert sizes["host_temp_bytes"] == 524288


@pytest.mark.parametrize("space", ["S(1)", ""])
@pytest.mark.parametrize("spelling", SLICES)
def test_a_slice_that_starts_counts_once(spelling, space):
    text = SLICES[spelling].replace("SPACE", space)
    module = hlo.parse(text)
    assert loops.hbm_traffic(module, hlo.runs(module)) == 4 * 8 * 128


class Lowered:
    """A program whose compilation writes these files, then fails or ends."""

    def __init__(self, files=(), error=None):
        self.files, self.error = files, error

    def compile(self, compiler_options):
        assert compiler_options["xla_dump_hlo_as_text"] is True
        self.folder = Path(compiler_options["xla_dump_to"])
        for name, text in self.files:
            (self.folder / name).write_text(text)
        if self.error:
            raise self.error


def test_the_last_of_several_modules_is_read():
    names = (before_codegen.HLO, before_codegen.BUFFERS, before_codegen.LAST)
    files = [("module_0000.f.cl_1" + name, "HloModule old") for name in names]
    texts = ("HloModule new", BUFFERS, "")
    files += [("module_0003.f.cl_1" + n, t) for n, t in zip(names, texts, strict=True)]
    lowered = Lowered(files)
    decided = before_codegen.decided(lowered, {})
    assert decided.text == "HloModule new" and decided.memory["alias_bytes"] == 4096
    assert not lowered.folder.exists()


@pytest.mark.parametrize(
    ("lowered", "kind", "words"),
    [
        (Lowered(error=ValueError("RESOURCE_EXHAUSTED")), ValueError, "EXHAUSTED"),
        (Lowered([("a.before_optimizations.txt", "")]), RuntimeError, "--effort low"),
    ],
)
def test_a_compilation_that_ends_early_says_why(lowered, kind, words):
    with pytest.raises(kind, match=words):
        before_codegen.decided(lowered, {})
    assert not lowered.folder.exists()


STEP = """
import json, os, sys
import jax, jax.numpy as jnp
from gendr_jax import flops, sharding
from gendr_jax.plan import measure, topologies

mesh = sharding.make_mesh(
    "data=2,fsdp=2", topologies.devices(topologies.parse("v6e:2x2"))
)
rows = sharding.batch_sharding(mesh)
split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))

def loss(kernels, x):
    def layer(x, _):
        return jnp.tanh(x @ sharding.gather(kernels[0], split, "bfloat16")), None
    x, _ = jax.lax.scan(layer, x, length=3)
    x = jnp.tanh(x @ sharding.gather(kernels[1], split, "bfloat16"))
    return jnp.sum(jnp.square(x.astype(jnp.float32)))

kernel = jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16, sharding=split)
x = jax.ShapeDtypeStruct((8192, 1024), jnp.bfloat16, sharding=rows)
with jax.set_mesh(mesh):
    traced = jax.jit(jax.value_and_grad(loss)).trace((kernel, kernel), x)
lowered = traced.lower(lowering_platforms=("tpu",))
operations = flops.count(traced.jaxpr)
for generate_code in (True, False):
    facts = measure.of_program(lowered, operations, mesh, {}, generate_code)
    print(json.dumps(facts), flush=True)
os._exit(0)
"""


def test_equal_to_the_finished_program():
    """A step with a loop, at full effort with and without its code."""
    pytest.importorskip("libtpu")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    environment = kept | topologies.environment(topologies.parse("v6e:2x2"))
    command = [sys.executable, "-c", STEP]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    complete, early = (json.loads(line) for line in done.stdout.splitlines())
    names = ("hbm_traffic_bytes", "collectives", "collectives_by_axis", "flops_loops")
    names += ("argument_bytes", "output_bytes", "alias_bytes")
    assert {n: early[n] for n in names} == {n: complete[n] for n in names}
    assert early["hbm_traffic_bytes"] > 0 and early["flops_loops"] > 0
    # The finished program's count has tanh and squares too.
    assert 0.98 * complete["flops"] < early["flops"] <= complete["flops"]
