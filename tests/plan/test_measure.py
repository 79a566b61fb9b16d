"""Compiled programs measured, by the real compilers; the command from the outside."""

import io
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from gendr_jax import sharding
from gendr_jax.cli import plan
from gendr_jax.errors import UsageError
from gendr_jax.plan import chips, compile_process, measure, programs, report, topologies
from gendr_jax.plan.request import Request
from gendr_jax.train.run import compiled_step, xla_flags
from tests.helpers.plan_rows import CONTRACT
from tests.helpers.tiny_stages import config


@pytest.fixture
def libtpu(monkeypatch):
    """The TPU compiler, or the test is left out."""
    pytest.importorskip("libtpu")
    for name, value in topologies.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def product(megabytes, steps=1):
    """In the place of `programs.traced_step`: x -> x W with W split over fsdp."""

    def build(request, mesh, *, remat=None):
        rows = sharding.batch_sharding(mesh)
        split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
        width = 1024
        shape = (megabytes * 2**18 // width, width)
        x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=rows)
        w = jax.ShapeDtypeStruct((width, width), jnp.float32, sharding=split)

        def run(x, w):
            whole = sharding.gather(w, split, "bfloat16")
            return x.astype(jnp.bfloat16) @ whole

        jitted = jax.jit(run, in_shardings=(rows, split), out_shardings=rows)
        with jax.set_mesh(mesh):
            traced = jitted.trace(x, w)
        traced_steps = [
            compiled_step.StepProgram(f"program {i}", traced) for i in range(steps)
        ]
        return programs.Traced(traced_steps, {"params": w, "batch": x}, shape[0])

    return build


def test_the_preset_of_the_config_reaches_the_compiler(libtpu, monkeypatch):
    monkeypatch.setattr(programs, "traced_step", product(64))
    config = {"remat": "none", "xla_flags": "v6e-overlap-1"}
    asked = Request(config, "v6e:2x2", "data=2,fsdp=2")
    assert measure.measure(asked)["fits"]
    monkeypatch.setitem(xla_flags.PRESETS, "v6e-overlap-1", {"no_such_option": True})
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        measure.measure(asked)


def test_a_known_program_on_a_tpu(libtpu, monkeypatch):
    """Two programs of one product: work adds, memory does not."""
    monkeypatch.setattr(programs, "traced_step", product(64, steps=2))
    asked = Request({}, "v5e:2x2", "data=2,fsdp=2", program="restore")
    found = measure.measure(asked)
    rows = 64 * 2**18 // 1024
    operations = 2 * 2 * rows * 1024 * 1024 / 4
    assert found["flops_analytic"] == operations
    assert found["flops"] == pytest.approx(operations, rel=0.05)
    assert found["flops_kernels"] == found["flops_loops"] == 0
    gather = found["collectives"]["all-gather"]
    assert gather == {"count": 2, "bytes": 2 * 1024 * 1024 * 2}  # bfloat16
    assert {tuple(c["axes"]) for c in found["collectives_by_axis"]} == {("fsdp",)}
    assert found["roles"]["params"] == 1024 * 1024 * 4 // 2
    assert found["argument_bytes"] == found["roles"]["params"] + 16 * 2**20
    assert found["fits"] is True and found["devices"] == 4
    assert found["hbm_traffic_bytes"] > 2 * 1.5 * 16 * 2**20
    row = report.row(asked, found, 20e6)
    assert set(CONTRACT) <= set(row) and 0 < row["mfu_bound"] <= 1


def test_too_much_memory_is_an_answer(libtpu, monkeypatch):
    monkeypatch.setattr(programs, "traced_step", product(400 * 1024))
    found = measure.measure(Request({}, "v5e:2x2", "fsdp=4", program="restore"))
    assert found["fits"] is False and "RESOURCE_EXHAUSTED" in found["compiler_said"]
    # a device holds 100 GiB of float32 arguments and 50 of bfloat16 results
    assert found["peak_bytes"] / 2**30 == pytest.approx(150, rel=0.01)
    assert found["argument_bytes"] / 2**30 == pytest.approx(100, rel=0.01)
    assert found["available_bytes"] == chips.TPUS["v5e"].hbm_bytes
    assert found["phase"] == "program 0" and "flops" not in found
    row = report.row(Request({}, "v5e:2x2", "fsdp=4"), found, 20e6)
    assert set(CONTRACT) <= set(row) and row["step_s"] is None
    assert "NO" in report.table([row])


def test_too_much_memory_at_full_effort_is_seen_before_the_compiler_refuses(
    libtpu, monkeypatch
):
    monkeypatch.setattr(programs, "traced_step", product(400 * 1024))
    request = Request({}, "v5e:2x2", "fsdp=4", program="restore", effort="full")
    found = measure.measure(request)
    assert found["fits"] is False
    assert found["peak_bytes"] / 2**30 == pytest.approx(150, rel=0.01)
    assert found["argument_bytes"] / 2**30 == pytest.approx(100, rel=0.01)
    row = report.row(request, found, 20e6)
    assert set(CONTRACT) <= set(row) and "NO" in report.table([row | {"change": None}])


def test_slices_send_through_the_hosts(libtpu, monkeypatch):
    """A gradient of weights that both slices hold goes from one to the other."""

    def build(request, mesh, *, remat=None):
        rows = sharding.batch_sharding(mesh)
        whole = sharding.replicated(mesh)
        x = jax.ShapeDtypeStruct((64, 512), jnp.float32, sharding=rows)
        w = jax.ShapeDtypeStruct((512, 512), jnp.float32, sharding=whole)
        grad = jax.grad(lambda w, x: jnp.sum(jnp.square(x @ w)))
        jitted = jax.jit(grad, in_shardings=(whole, rows), out_shardings=whole)
        with jax.set_mesh(mesh):
            program = compiled_step.StepProgram("grad", jitted.trace(w, x))
        return programs.Traced([program], {"params": w}, 64)

    monkeypatch.setattr(programs, "traced_step", build)
    asked = Request({}, "2*v5e:2x2", "", program="restore")
    found = measure.measure(asked)
    assert found["mesh_axes"]["dcn"] == 2
    between = found["collectives"]["dcn-all-reduce"]
    assert between == {"count": 1, "bytes": 512 * 512 * 4 / 4}  # a share of 4 devices
    row = report.row(asked, found, 20e6)
    assert row["bound"] == "dcn" and row["roofline_s"]["dcn"] > 0


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict({config('base')!r})\n"
    )
    return f"--config={path}"


@pytest.fixture
def in_this_process(monkeypatch):
    """A cell without its process, whose imports alone take seconds."""

    def run(command, *, env, input, **_):
        assert env["JAX_PLATFORMS"] == "cpu" and command[:2] == [sys.executable, "-m"]
        monkeypatch.setattr(sys, "stdin", io.StringIO(input))
        compile_process.main(Path(command[-1]))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)


def test_the_command(config_file, tmp_path, monkeypatch, capsys, in_this_process):
    """A true program; the second time it is not compiled."""
    monkeypatch.setenv("GENDR_CACHE", "1")
    monkeypatch.setenv("GENDR_CACHE_DIR", str(tmp_path / "cache"))
    out = tmp_path / "deep" / "plan.json"
    args = [config_file, "--topology", "cpu:4", "--mesh", "data=2,fsdp=2"]
    args += ["--program", "restore", "--size", "128x64"]
    args += ["--batch-per-device", "2", "--json", str(out)]
    assert plan.main(args) == 0
    (row,) = json.loads(out.read_text())
    assert set(CONTRACT) <= set(row)
    assert (row["topology"], row["devices"], row["fits"]) == ("cpu:4", 4, True)
    assert (row["batch_per_device"], row["batch_size"]) == (2, 8)
    assert row["flops"] >= row["flops_analytic"] > 0
    assert row["collectives"] == {} and row["roles"]["params"] > 0
    first = capsys.readouterr()
    assert "compiling" in first.err and "| cpu:4" in first.out

    monkeypatch.setattr(subprocess, "run", None)
    assert plan.main([*args, "--pairs", "5"]) == 0
    again = capsys.readouterr()
    assert "from the cache" in again.err and again.out == first.out


@pytest.mark.slow
def test_a_true_step_on_this_machine(config_file, tmp_path, monkeypatch):
    monkeypatch.setenv("GENDR_CACHE", "1")
    monkeypatch.setenv("GENDR_CACHE_DIR", str(tmp_path / "cache"))
    out = tmp_path / "plan.json"
    args = [config_file, "--topology", "cpu:4", "--mesh", "data=2,fsdp=2"]
    assert plan.main([*args, "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())
    assert row["batch_size"] == config("base")["batch_size"]
    assert row["roles"]["optimizer"] > row["roles"]["params"] > 0
    assert row["collectives"]["all-gather"]["bytes"] > 0
    assert row["flops"] >= row["flops_analytic"] > 0


@pytest.mark.slow
def test_a_true_step_on_a_tpu(config_file, tmp_path, monkeypatch):
    pytest.importorskip("libtpu")
    monkeypatch.setenv("GENDR_CACHE", "1")
    monkeypatch.setenv("GENDR_CACHE_DIR", str(tmp_path / "cache"))
    out = tmp_path / "plan.json"
    args = ["--config=configs/tiny_distill.py", "--topology", "v5e:2x2"]
    args += ["--mesh", "data=2,fsdp=2", "--batch-per-device", "1"]
    assert plan.main([*args, "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())
    assert row["fits"] and 0 < row["mfu_bound"] <= 1
    assert row["flops"] == pytest.approx(row["flops_analytic"], rel=0.4)


def test_a_process_that_dies_is_one_broken_cell(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    found = compile_process.measure_in_subprocess(Request({}, "cpu", ""))
    assert found == {"error": "exit status 1: no output"}
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    assert (
        "memory is too small"
        in compile_process.measure_in_subprocess(Request({}, "cpu", ""))["error"]
    )
    killed.write_text("#!/bin/sh\nexec sleep 60\n")
    found = compile_process.measure_in_subprocess(Request({}, "cpu", ""), timeout=0.2)
    assert found == {"error": "not compiled within 0.2 s (--timeout)"}


def test_a_mistake_in_the_request_comes_back_as_one(config_file):
    with pytest.raises(UsageError, match="config has 1 problem: config.stepz"):
        compile_process.measure_in_subprocess(
            Request(config("base") | {"stepz": 3}, "cpu:2", "")
        )


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "--topology is missing"),
        (["--topology=v9"], "names the chip 'v9'"),
        (["--topology=cpu", "--batch-per-device=0"], "Give positive numbers"),
        (["--topology=cpu", "--batch-per-device=1,x"], "Give positive numbers"),
        (["--topology=cpu", "--effort=some"], "effort"),
        (["--topology=cpu", "--plot=plan"], "is not an image"),
        (["--topology=cpu", "--config.stepz=1"], "no --config.stepz"),
    ],
)
def test_mistakes_in_flags_are_one_line(config_file, args, words):
    with pytest.raises(UsageError, match=words) as caught:
        plan.main([config_file, *args])
    assert "\n" not in str(caught.value)


def test_help_is_there(capsys):
    assert plan.main(["--help"]) == 0
    assert "--batch-per-device" in capsys.readouterr().out
