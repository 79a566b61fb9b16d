"""Presets of compiler options: the lookup; every name against the TPU's compiler."""

import hashlib
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gendr_jax.errors import UsageError
from gendr_jax.train.run import xla_flags

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


@pytest.fixture(scope="module")
def lowered():
    """A function chip -> a small step with weights over `fsdp`, lowered for its TPU."""
    pytest.importorskip("libtpu", reason="the TPU's compiler is not installed")
    with pytest.MonkeyPatch.context() as patch:
        # Without a TPU at hand; and another process may compile at the same time.
        patch.setenv("TPU_SKIP_MDS_QUERY", "1")
        patch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
        patch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-4")
        patch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        yield _lower


def _lower(chip):
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name=TOPOLOGIES[chip]
    )
    mesh = Mesh(np.asarray(topology.devices), ("fsdp",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("fsdp"))

    def step(w_dd, x_bd):
        def loss(w_dd):
            whole_dd = jax.lax.with_sharding_constraint(
                w_dd, NamedSharding(mesh, PartitionSpec())
            )
            return jnp.sum((x_bd @ whole_dd) ** 2)

        return w_dd - jax.grad(loss)(w_dd)

    shape = jax.ShapeDtypeStruct((512, 512), jnp.bfloat16, sharding=split)
    return jax.jit(step, out_shardings=split).lower(shape, shape)


def test_no_preset_is_no_option():
    assert xla_flags.compiler_options("") == {}


def test_a_preset_is_handed_out_as_a_copy():
    found = xla_flags.compiler_options("v5e-overlap-1")
    found.clear()
    assert xla_flags.compiler_options("v5e-overlap-1")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("v5e-overlap", "did you mean v5e-overlap-1"),
        ("fast", "there are v5e-overlap-1"),
    ],
)
def test_unknown_presets(name, hint):
    with pytest.raises(UsageError, match=f"{name!r} is no preset, {hint}"):
        xla_flags.compiler_options(name)


@pytest.mark.parametrize("name", xla_flags.PRESETS)
def test_names_say_chip_and_version(name):
    assert re.fullmatch(r"(v5e|v5p|v6e)-[a-z]+-[0-9]+", name)
    for option, value in xla_flags.PRESETS[name].items():
        assert option.startswith("xla_") and type(value) in (bool, int)


# A preset that is to change gets a new name and a new line here; no line ever changes.
DIGESTS = {
    "v5e-overlap-1": "a59a8587378c2b52",
    "v5e-data-1": "c08bf3799da79032",
    "v5p-overlap-1": "a59a8587378c2b52",
    "v5p-data-1": "c08bf3799da79032",
    "v6e-overlap-1": "3666a7e57c93d72b",
    "v6e-data-1": "8d1a2c499bd3772a",
}


def test_a_version_never_changes():
    found = {
        name: hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()
        for name, options in xla_flags.PRESETS.items()
    }
    assert {name: digest[:16] for name, digest in found.items()} == DIGESTS


def test_the_compiler_refuses_names_that_it_does_not_know(lowered):
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        lowered("v5e").compile(compiler_options={"xla_tpu_no_such_option": True})


@pytest.mark.parametrize("name", xla_flags.PRESETS)
def test_the_compiler_takes_every_preset(lowered, name):
    compiled = lowered(name.partition("-")[0]).compile(
        compiler_options=xla_flags.compiler_options(name)
    )
    assert "all-gather" in compiled.as_text()
