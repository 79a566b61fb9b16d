"""Names of machines, their chips, and the devices behind them."""

import importlib.util
import subprocess
import sys

import pytest

from gendr_jax.errors import UsageError
from gendr_jax.plan import chips, topologies
from gendr_jax.plan.topologies import parse


@pytest.mark.parametrize(
    ("text", "canonical", "devices"),
    [
        ("v5e:16x16", "v5e:16x16", 256),
        ("v5e:1x1", "v5e:1x1", 1),
        ("v5e-16", "v5e:4x4", 16),
        ("v5e-256", "v5e:16x16", 256),
        ("v6e-256", "v6e:16x16", 256),
        ("v5p-64", "v5p:4x4x4", 64),
        ("v5p-512", "v5p:8x8x8", 512),
        ("v5p:16x16x16", "v5p:16x16x16", 4096),
        ("v4:2x2x1", "v4:2x2x1", 4),
        ("tpu7x:2x2x1", "tpu7x:2x2x1", 8),
        ("2*v5e:16x16", "2*v5e:16x16", 512),
        (" 4*v5p-64 ", "4*v5p:4x4x4", 256),
        ("cpu", "cpu", None),
        ("cpu:8", "cpu:8", 8),
        ("gpu", "gpu", None),
    ],
)
def test_names(text, canonical, devices):
    found = parse(text)
    assert str(found) == canonical
    assert found.num_devices == devices
    assert parse(canonical) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read"),
        ("v5e", "has no size"),
        ("v7x:2x2x1", "names the chip 'v7x', known are v4, v5e"),
        ("v5e:4x4x4", "a slice of v5e has 2 axes, at most 16x16"),
        ("v5e:32x8", "at most 16x16"),
        ("v5p:4x4", "a slice of v5p has 3 axes"),
        ("v5p-65", "none of the usual slices of v5p, which have 4, 8, 16"),
        ("v5e-4x4", "none of the usual slices"),
        ("32*v5e:16x16", "has 8192 devices, the most is 4096"),
        ("tpu7x:16x16x16", "has 8192 devices"),
        ("0*v5e:2x2", "has no size"),
        ("2*cpu:4", "cannot be read"),
        ("cpu:0", "cannot be read"),
    ],
)
def test_mistakes_are_one_line(text, words):
    with pytest.raises(UsageError, match=words) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_names_need_no_jax():
    code = "import sys, gendr_jax.plan.topologies; print('jax' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, text=True).strip() == "False"


def test_without_libtpu_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'gendr_jax\[plan\]'"):
        topologies.check_compiler(parse("v5e:2x2"))
    topologies.check_compiler(parse("cpu"))


def test_devices_that_are_present():
    assert len(topologies.devices(parse("cpu:4"))) == 4
    with pytest.raises(UsageError, match="needs 64 devices, 8 are present"):
        topologies.devices(parse("cpu:64"))


def test_environment_belongs_to_the_kind():
    tpu = topologies.environment(parse("v5e:2x2"))
    assert tpu["JAX_PLATFORMS"] == "cpu"  # a compiler alone, no TPU is looked for
    assert tpu["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"
    cpu = topologies.environment(parse("cpu:8"))
    assert cpu == {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    assert topologies.environment(parse("gpu"))["JAX_PLATFORMS"] == "cuda"


def test_figures_are_per_device():
    """A tpu7x device is half a chip, and all rates are halved with it."""
    half = chips.TPUS["tpu7x"]
    assert half.devices_per_chip == 2
    assert half.flops * 2 == 2307e12 and half.hbm_bandwidth * 2 == 7400e9
    for name, chip in chips.TPUS.items():
        assert name == chip.name and chip.source.startswith("https://")
        # no chip is bound by its memory at 4 operations a byte, or by none at 1000
        assert 4 < chip.flops / chip.hbm_bandwidth < 1000
        assert chip.hbm_bandwidth > chip.ici_bandwidth > chip.dcn_bandwidth


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU7x", "tpu7x"),
        ("cpu", None),
    ],
)
def test_chips_of_devices_that_are_here(kind, name):
    found = chips.of_device_kind(kind)
    assert (found and found.name) == name


@pytest.fixture
def libtpu(monkeypatch):
    """The TPU compiler, or the test is left out."""
    pytest.importorskip("libtpu")
    for name, value in topologies.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("v5e:1x1", "TPU v5 lite"),
        ("v6e:4x4", "TPU v6 lite"),
        ("v5p:4x4x4", "TPU v5"),
        ("v4:4x4x4", "TPU v4"),
        ("tpu7x:2x2x1", "TPU7x"),
        ("2*v5e:4x4", "TPU v5 lite"),
    ],
)
def test_the_compiler_knows_them(libtpu, text, kind):
    topology = parse(text)
    found = topologies.devices(topology)
    assert len(found) == topology.num_devices
    assert {d.device_kind for d in found} == {kind}
    assert chips.of_device_kind(kind) == chips.TPUS[topology.kind]
    assert len({getattr(d, "slice_index", 0) for d in found}) == topology.slices


def test_a_slice_that_the_compiler_refuses(libtpu):
    with pytest.raises(UsageError, match="the TPU compiler refuses topology v5e:3x5"):
        topologies.devices(parse("v5e:3x5"))
