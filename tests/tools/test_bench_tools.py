"""tools/bench_*.py: what they ask of the library and each other, and their one JSON."""

import json
import sys

import pytest

from gendr_jax.bench import run
from tests.helpers import tiny_stages
from tools import bench_all, bench_restore, bench_train

ROW = {
    "stage": "unet",
    "by": "gendr_jax",
    "size": [64, 64],
    "batch": 1,
    "seconds": 0.5,
    "processor_s": 0.4,
    "images_per_s": 2.0,
}


def call(monkeypatch, tool, *args):
    monkeypatch.setattr(sys, "argv", ["tool", *map(str, args)])
    tool.main()


def test_restore_asks_for_every_size(monkeypatch, tmp_path, capsys):
    asked = {}

    def restore(recipe, params, wishes):
        asked.update(recipe=recipe, params=params, wishes=wishes)
        return {"rows": [ROW]}

    monkeypatch.setattr(run, "restore", restore)
    target = tmp_path / "a" / "result.json"
    flags = ["--sizes=128,4k", "--stages=unet,pass", "--rounds=2", "--peers="]
    call(monkeypatch, bench_restore, *flags, "--json", target)
    assert [wish.size for wish in asked["wishes"]] == [(128, 128), (2160, 3840)]
    assert {wish.stages for wish in asked["wishes"]} == {("unet", "pass")}
    assert not any(wish.sweep or wish.peers for wish in asked["wishes"])  # on a CPU
    assert asked["recipe"].dtype == "float32" and asked["params"] is None
    assert "| unet | gendr_jax | 64x64 | 1 | 500 |" in capsys.readouterr().out
    assert json.loads(target.read_text()) == {"rows": [ROW]}


def test_restore_takes_the_networks_of_a_configuration(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        run, "restore", lambda recipe, *_: asked.append(recipe) or {"rows": []}
    )
    path = tmp_path / "tiny.py"
    values = tiny_stages.config("base")
    path.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict({values!r})\n"
    )
    call(monkeypatch, bench_restore, "--config", path, "--dtype=bf16")
    assert asked[0].unet.block_out_channels == (8, 16)
    assert asked[0].dtype == "bfloat16"


def test_train_changes_one_setting_at_a_time(monkeypatch, tmp_path):
    cells = []

    def cell(config, flags, devices):
        cells.append((flags[1:], devices))
        return {"rows": [ROW]} if len(cells) < 5 else {"error": "too large"}

    monkeypatch.setattr(bench_train, "measure", cell)
    target = tmp_path / "result.json"
    flags = ["--batches=4,8", "--sizes=32", "--devices=2", "--config.kind=vsd"]
    call(monkeypatch, bench_train, *flags, f"--json={target}")
    kept = ["--config.kind=vsd"]
    assert cells == [
        (kept, None),
        ([*kept, "--batch=4"], None),
        ([*kept, "--batch=8"], None),
        ([*kept, "--size=32"], None),
        ([*kept, "--config.mesh=data=2"], "2"),
    ]
    written = json.loads(target.read_text())["cells"]
    assert written[3] == {"flags": ["--size=32"], "rows": [ROW]}
    assert written[4]["error"] == "too large"


def test_a_cell_that_fails_says_why():
    found = bench_train.measure("no_such_config.py", ["--rounds=1"], "1")
    assert "configuration cannot be read" in found["error"]


@pytest.mark.parametrize("tiny", [[], ["--tiny"]])
def test_all_keeps_going_and_keeps_what_is_done(monkeypatch, tmp_path, tiny):
    def process(command, cwd):
        names.append(command[1])
        if "--config.kind=vsd" in command:
            return type("Done", (), {"returncode": 1})
        path = next(f for f in command if f.startswith("--json="))
        with open(path.removeprefix("--json="), "w") as file:
            json.dump({"rows": []}, file)
        return type("Done", (), {"returncode": 0})

    names = []
    monkeypatch.setattr(bench_all.subprocess, "run", process)
    target = tmp_path / "all.json"
    call(monkeypatch, bench_all, f"--json={target}", *tiny)
    found = json.loads(target.read_text())
    assert list(found) == list(bench_all.TINY if tiny else bench_all.BENCHMARKS)
    assert found["vsd"]["error"] == "exit status 1"
    assert found["restore"] == {"rows": []}
    assert all((bench_all.ROOT / name).exists() for name in names)
