"""bench/training.py, `gendr bench`: programs of a step, waits, flags, the file."""

import json

import jax
import pytest

from gendr_jax import sharding
from gendr_jax.bench import run, training
from gendr_jax.cli import bench
from gendr_jax.cli import main as main_lib
from gendr_jax.errors import UsageError
from gendr_jax.train.run import compiled_step
from tests.helpers import tiny_stages
from tests.helpers.tiny_stages import fewer_passes

quick = pytest.fixture(scope="module", autouse=True)(fewer_passes)
CONFIG = """from ml_collections import ConfigDict


def get_config():
    return ConfigDict({values!r})
"""


class Noise:
    """The interface of Feed."""

    waited = 0.0

    def next(self):
        self.waited += 0.5
        return "batch"


@pytest.fixture(scope="module")
def rows():
    """The stage with the smallest step, on two devices and on noise."""
    config = tiny_stages.config("vae", batch_size=2, remat="block")
    mesh = sharding.make_mesh("data=2", jax.devices()[:2])
    return training.measure(config, mesh, rounds=1, ceiling=1e9)


@pytest.mark.slow
def test_a_step_of_one_program_is_one_row(rows):
    (row,) = rows
    assert (row["config"], row["program"], row["batch"]) == ("vae", "step", 2)
    assert row["devices"] == 2 and row["size"] == [16, 16]
    assert row["total_bytes"] > row["argument_bytes"] > 0
    assert row["mfu"] == pytest.approx(row["flops_model"] / row["seconds"] / 2e9)


@pytest.mark.slow
def test_recomputing_is_not_useful_work(rows):
    assert rows[0]["flops"] > rows[0]["flops_model"] > 0


@pytest.mark.slow
def test_noise_waits_for_no_data(rows):
    assert rows[-1]["data_wait"] is None


def test_programs_hand_on_what_they_leave():
    seen = []

    def first(state, left, frozen, batch, key):
        seen.append((state, left))
        return state + 1, "left", {}

    def second(state, left, frozen, batch, key):
        seen.append((state, left, frozen, batch, key))
        return state, None, {}

    args = compiled_step.Arguments(0, "frozen", "batch", "key")
    waited, taken = training._steps([first, second], args, Noise(), 3)
    assert seen[:3] == [(0, None), (1, "left", "frozen", "batch", "key"), (1, None)]
    assert len(seen) == 8  # the first step is not counted
    assert waited == 0.5 and len(taken) == 2


def test_a_step_is_the_sum_of_its_programs():
    same = {"batch": 4, "devices": 2, "compile_s": 1.0, "processor_s": 2.0}
    one = same | {"flops": 6.0, "flops_model": 4.0, "seconds": 0.5, "temp_bytes": 7}
    two = one | {"temp_bytes": 9, "seconds": 1.5}
    found = [row | {"total_bytes": row["temp_bytes"] + 1} for row in (one, two)]
    step = training._step(found, 2.0)
    assert (step["seconds"], step["flops"], step["compile_s"]) == (2.0, 12.0, 2.0)
    assert (step["temp_bytes"], step["total_bytes"]) == (9, 10)
    assert step["mfu"] == 8.0 / 2.0 / (2.0 * 2)
    assert step["images_per_s"] == 2.0


def test_fake_devices_share_the_ceiling(monkeypatch):
    monkeypatch.setattr(run.ceiling, "matmul_ceiling", lambda dtype, device: 8e9)
    monkeypatch.setattr(
        training, "measure", lambda config, mesh, rounds, ceiling: [ceiling]
    )
    mesh = sharding.make_mesh("data=2", jax.devices()[:2])
    result = run.train(tiny_stages.config("vae"), mesh, 1)
    assert result["rows"] == [4e9]
    assert result["ceiling"] == {"flops_per_s": 4e9, "dtype": "float32"}


def test_the_command_measures_a_pass(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run.ceiling, "matmul_ceiling", lambda dtype, device: 1e9)
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG.format(values=tiny_stages.config("base")))
    flags = ["--program=restore", "--size=64", "--rounds=1", "--stages=unet"]
    target = tmp_path / "made" / "result.json"
    args = ["bench", "--config", str(path), *flags, f"--json={target}"]
    assert main_lib.main(args) == 0
    told = capsys.readouterr().out
    assert "| unet | gendr_jax | 64x64 | 1 |" in told
    assert "peak memory" in told
    result = json.loads(target.read_text())
    assert [row["stage"] for row in result["rows"]] == ["unet"]
    for name in ("date", "machine", "versions", "command", "ceiling", "memory"):
        assert result[name]


def test_the_command_changes_the_step(monkeypatch, tmp_path, capsys):
    given = {}

    def train(config, mesh, rounds):
        given.update(config=config, rounds=rounds, devices=mesh.size)
        return {"rows": [], "machine": MACHINE, "devices": MACHINE} | REST

    monkeypatch.setattr(run, "train", train)
    path = tmp_path / "tiny.py"
    values = tiny_stages.config("vae", mesh="data=2,fsdp=4", seed=0)
    path.write_text(CONFIG.format(values=values))
    flags = ["--batch=16", "--size=32", "--dtype=bf16", "--config.seed=3"]
    assert main_lib.main(["bench", "--config", str(path), *flags]) == 0
    config = given["config"]
    assert (config["batch_size"], config["data"]["crop"]) == (16, 32)
    assert (config["dtype"], config["seed"]) == ("bfloat16", 3)
    assert (given["rounds"], given["devices"]) == (5, 8)


MACHINE = {"count": 1, "kind": "cpu", "cores": 2, "processor": "", "memory_gib": 1}
REST = {
    "load": 0.0,
    "ceiling": {"flops_per_s": 1e9, "dtype": "float32"},
    "memory": {"host_peak_bytes": 1},
}


@pytest.mark.parametrize(
    "args, said",
    [
        (["--program=train"], "needs --config"),
        (["--size=big"], "'big' is not a size"),
        (["--stages=vae"], "known are encoder, unet"),
        (["--peer=fast", "--size=65"], "not a multiple of 64"),
        (["surplus"], "is not a flag"),
        (["--batch=0"], "is not a positive integer"),
        (["--rouns=3"], "Unknown command line flag 'rouns'"),
    ],
)
def test_mistakes_are_one_line(args, said):
    with pytest.raises(UsageError, match=said):
        bench.main(args)


def test_sizes_are_width_by_height():
    assert bench.size_of("512") == (512, 512)
    assert bench.size_of("768x512") == (512, 768)
    assert bench.size_of("4k") == bench.size_of("4K") == (2160, 3840)
