"""`gendr plan` as a command, on answers that no compiler gave."""

import json
from pathlib import Path

import pytest

from gendr_jax.cli import plan
from gendr_jax.errors import UsageError
from gendr_jax.plan import sweep, topologies
from tests.helpers.plan_rows import V5E, collective, facts, phase

CONFIG = Path(__file__).resolve().parents[2] / "configs/tiny_distill.py"
SENT = collective("all-gather", 8 * V5E.ici_bandwidth, 4)  # 6 s on a ring of four
PHASES = [
    phase("a", 0.5 * V5E.flops, 1.0 * V5E.hbm_bandwidth, [SENT]),
    phase("b", 2.0 * V5E.flops, 0.1 * V5E.hbm_bandwidth),
]
TIMES = ("compute ms", "HBM ms", "net ms", "step ms >=", "net exposed", "no overlap")
BOUNDS = ("MFU <=", "net exposed", "no overlap", "model <=")
BOUNDS += ("images/s <=", "days >=", "chip-h >=")


@pytest.fixture(autouse=True)
def asked(monkeypatch, tmp_path):
    """What the compiler was asked; nothing is compiled, and no compiler is needed."""
    requests = []

    def answer(request, *, timeout):
        requests.append(request)
        return facts(phases=PHASES)

    monkeypatch.setattr(sweep.compile_process, "measure_in_subprocess", answer)
    monkeypatch.setattr(topologies, "check_compiler", lambda topology: None)
    monkeypatch.setenv("GENDR_CACHE_DIR", str(tmp_path / "cache"))
    return requests


def planned(*more, mesh="data=4,fsdp=4"):
    args = [f"--config={CONFIG}", "--topology=v5e:4x4", f"--mesh={mesh}"]
    return plan.main([*args, "--config.batch_size=16", *more])


def columns(text, first, names):
    """The cells of the first row from column `first` on; the heads are checked."""
    lines = [[c.strip() for c in line.split("|")] for line in text.splitlines()]
    at = lines[0].index(first)
    assert lines[0][at : at + len(names)] == list(names)
    return lines[2][at : at + len(names)]


def test_times_are_bounds_and_say_what_overlaps(capsys, tmp_path):
    assert planned("--json", str(tmp_path / "plan.json")) == 0
    text = capsys.readouterr().out
    # a: 1 s of memory under 6 s of network, then b: 2 s of computing
    times = columns(text, "compute ms", TIMES)
    assert times == ["2500.0", "1100.0", "6000.0", "8000.0", "9000.0", "9600.0"]
    # 32 samples in 8 s; 20 million of them on 16 chips
    bounds = columns(text, "MFU <=", BOUNDS)
    assert bounds == ["31%", "28%", "26%", "19%", "4", "57.87", "22222"]
    assert "a lower bound, and images/s, days and chip-h with it" in text
    assert "the program a is 75% of the step and waits for ici" in text
    (row,) = json.loads((tmp_path / "plan.json").read_text())
    steps = [row[name] for name in ("step_s", "step_exposed_s", "step_serial_s")]
    assert steps == pytest.approx([8.0, 9.0, 9.6])


def test_measured_efficiencies_stretch_the_times(capsys):
    assert planned("--efficiency", "compute=.5,network=.75") == 0
    text = capsys.readouterr().out
    times = columns(text, "compute ms", TIMES)
    assert times == ["5000.0", "1100.0", "8000.0", "12000.0", "13000.0", "14100.0"]
    assert "shares of their peak rates as given (compute 0.5, hbm 1, network 0.75)" in (
        text
    )


@pytest.mark.parametrize(
    "text", ["compute=2", "hbm=0", "speed=.5", "hbm=x", "hbm=.5,hbm=.6", "compute"]
)
def test_efficiencies_that_are_none(text, asked):
    with pytest.raises(UsageError, match="with a fraction in"):
        planned("--efficiency", text)
    assert not asked


def test_an_impossible_mesh_is_refused_before_anything_is_compiled(asked, capsys):
    with pytest.raises(UsageError, match="needs 3 devices, 16 are"):
        planned(mesh="data=3")
    assert not asked
    assert planned(mesh="data=3;data=16") == 1  # of several, the others are answered
    text = capsys.readouterr().out
    assert {one.mesh for one in asked} == {"data=16"}
    assert "v5e:4x4 data=3: mesh 'data=3' needs 3 devices" in text
