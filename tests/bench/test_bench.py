"""bench/: clocks, the ceiling, tables; the pass of tiny networks, peer, sweep."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from gendr_jax.bench import (
    ceiling,
    machine,
    other_programs,
    peer,
    report,
    restoring,
    run,
    timing,
)
from gendr_jax.errors import UsageError
from gendr_jax.restore import memory
from gendr_jax.restore.forward import Recipe
from gendr_jax.restore.options import host_params
from gendr_jax.restore.pipeline import Restorer
from tests.helpers import tiny_restorer, tiny_stages
from tests.helpers.tiny_stages import fewer_passes

quick = pytest.fixture(scope="module", autouse=True)(fewer_passes)
WEIGHTS = tiny_restorer.weights()
RECIPE = Recipe(
    tiny_restorer.VAE_CONFIG, tiny_restorer.UNET_CONFIG, "v", 123, "float32"
)
SIZE = (64, 128)


@pytest.fixture(scope="module")
def params():
    return jax.device_put(host_params(WEIGHTS, RECIPE))


@pytest.fixture(scope="module")
def rows(params):
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    others = peer.peers(["eager", "eager+channels_last"], RECIPE, params)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more wait by spinning, for longer than they compute
    yield restoring.measure(
        RECIPE, params, SIZE, batch=2, rounds=1, ceiling=1e9, peers=others
    )
    torch.set_num_threads(threads)


def test_calls_take_turns_and_the_first_round_is_not_counted():
    seen = []

    def slow_once():
        seen.append("a")
        if len(seen) == 1:
            time.sleep(0.2)

    taken = timing.in_turn({"a": slow_once, "b": lambda: seen.append("b")}, 3)
    assert seen == ["a", "b"] * 4
    assert taken["a"].wall < 0.2
    assert taken["a"].best <= taken["a"].wall


def test_medians_go_by_clock():
    taken = [timing.Seconds(3, 1, 3), timing.Seconds(1, 2, 1), timing.Seconds(2, 9, 2)]
    assert timing.median(taken) == timing.Seconds(2, 2, 1)


def test_processor_time_leaves_out_sleep():
    taken = timing.once(lambda: time.sleep(0.2))
    assert taken.wall >= 0.2
    assert taken.processor < taken.wall


def test_the_ceiling_is_what_a_product_does(monkeypatch):
    monkeypatch.setattr(ceiling, "LONG_ENOUGH", 0.0)
    monkeypatch.setattr(ceiling, "FIRST", 64)
    clock = iter([0.5, 0.25])  # the best call counts
    monkeypatch.setattr(
        timing, "in_turn", lambda calls, n: {"": timing.Seconds(1, 1, next(clock))}
    )
    assert ceiling.matmul_ceiling("float32", jax.devices()[0]) == 2 * 64**3 / 0.5


def test_the_machine_is_described():
    said = machine.describe()
    assert said["devices"] == {"kind": "cpu", "platform": "cpu", "count": 8}
    assert said["versions"]["jax"] == jax.__version__
    assert said["machine"]["cores"] >= 1
    assert json.loads(json.dumps(said)) == said
    assert machine.peak_memory(jax.devices()[0])["host_peak_bytes"] > 2**20


@pytest.mark.slow
def test_a_row_a_stage_and_peer(rows):
    assert [(row["stage"], row["by"]) for row in rows] == [
        (stage, by)
        for stage in ("encoder", "unet", "decoder", "pass")
        for by in ("gendr_jax", "eager", "eager+channels_last")
    ]
    ours = {row["stage"]: row for row in rows if row["by"] == "gendr_jax"}
    parts = sum(ours[name]["flops"] for name in ("encoder", "unet", "decoder"))
    assert ours["pass"]["flops"] == parts > 0
    for row in ours.values():
        assert row["size"] == list(SIZE) and row["batch"] == 2
        assert row["images_per_s"] == pytest.approx(2 / row["seconds"])
        assert row["mfu"] == pytest.approx(row["flops"] / row["seconds"] / 1e9)
        assert row["argument_bytes"] > 0 and row["compile_s"] > 0


@pytest.mark.slow
def test_the_peer_computes_the_same(rows):
    errors = [row["error"] for row in rows if row["by"] != "gendr_jax"]
    assert len(errors) == 8
    assert max(errors) < 1e-4


def quiet_rows(rows):
    """As of a quiet machine, whatever this one does meanwhile."""
    return [row | {"other_cores": 0.0, "processor_spread": 0.0} for row in rows]


def test_ratios_are_theirs_over_ours(rows):
    found = report.with_ratios(quiet_rows(rows), "gendr_jax")
    for ours, theirs in zip(found[::3], found[1::3], strict=True):
        assert "ratio" not in ours
        assert theirs["ratio"] == pytest.approx(theirs["seconds"] / ours["seconds"])
    lines = report.table(found).splitlines()
    assert len(lines) == 2 + len(rows)
    assert lines[0].startswith("| stage | by | size | batch | ms |")
    assert "wait" not in lines[0]  # no row has one
    assert "| 128x64 | 2 |" in lines[2]


def test_no_ratio_beside_a_busy_neighbour_or_of_times_that_differ(rows):
    assert all(row["processor_spread"] >= 0 for row in rows)
    calm, cores = quiet_rows(rows), other_programs.cores()
    for change, why in (
        ({"other_cores": 0.9 * cores}, f"other programs used .* of {cores} cores"),
        ({"processor_spread": 0.4}, "of equal calls differ by 40 %"),
    ):
        found = report.with_ratios([row | change for row in calm], "gendr_jax")
        assert not any("ratio" in row or "processor_ratio" in row for row in found)
        (line,) = report.without_ratio(found)
        assert re.match(f"no ratio for encoder eager, .*{why}.*Measure again", line)
        assert "| ratio" not in report.table(found)
    # Our own times count as much as theirs; without /proc/stat the load is not known.
    ours = [
        row | ({"processor_spread": 0.4} if row["by"] == "gendr_jax" else {})
        for row in calm
    ]
    assert not any("ratio" in row for row in report.with_ratios(ours, "gendr_jax"))
    unknown = [row | {"other_cores": None} for row in calm]
    assert sum("ratio" in r for r in report.with_ratios(unknown, "gendr_jax")) == 8
    assert report.without_ratio(report.with_ratios(calm, "gendr_jax")) == []


def test_the_spread_is_that_of_processor_times():
    taken = [timing.Seconds(1, n, 1) for n in (1.0, 2.0, 2.0, 2.0, 9.0)]
    assert timing.median(taken).spread == 0.0  # quartiles: one outlier is none
    taken = [timing.Seconds(1, n, 1) for n in (1.0, 2.0, 3.0)]
    assert timing.median(taken).spread == pytest.approx(1.0 / 2)
    assert timing.median(taken[:1]).spread == 0.0


def test_the_work_of_others_is_that_of_the_cores_less_our_own(monkeypatch, tmp_path):
    stat, tick = tmp_path / "stat", os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(other_programs, "STAT", stat)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2})
    cpu = "cpu9 0 0 0 0 0 0 0 0 0 0"

    def moment(wall, own, *ticks):
        lines = [f"cpu{k} {n} 0 {n} 7 9 0 0 0 {n} 0" for k, n in enumerate(ticks)]
        stat.write_text("\n".join(["cpu 1 2 3", *lines, cpu, "intr 5"]))
        made = other_programs.now()
        return other_programs.Moment(wall, own, made.busy)

    begin = moment(10.0, 1.0, 0, 0, 0)
    end = moment(14.0, 3.0, tick, 99 * tick, 2 * tick)  # core 1 is not ours
    assert other_programs.cores_between(begin, end) == pytest.approx((6 - 2) / 4)
    assert other_programs.cores_between(end, begin) is None
    assert other_programs.cores() == 2
    stat.unlink()
    assert other_programs.now().busy is None
    assert other_programs.cores_between(begin, other_programs.now()) is None


def test_threads_of_the_peer_sleep_while_they_wait():
    """In a process of its own: libraries read it when they are loaded."""
    pytest.importorskip("torch")
    code = (
        "import os, sys; from gendr_jax.bench import peer\n"
        "assert 'torch' not in sys.modules\n"
        "os.environ['KMP_BLOCKTIME'] = '7'\n"
        "peer.wait_passively()\n"
        "print({name: os.environ[name] for name in peer.PASSIVE})"
    )
    env = {k: v for k, v in os.environ.items() if k not in peer.PASSIVE}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, check=True, capture_output=True, text=True, env=env)
    asked = peer.PASSIVE | {"KMP_BLOCKTIME": "7"}  # what the user says goes before
    assert done.stdout.strip() == str(asked)


def test_random_weights_fit_and_are_finite():
    drawn = restoring.random_params(RECIPE)
    found = restoring.measure(
        RECIPE, jax.device_put(drawn), (64, 64), rounds=1, stages=("decoder",)
    )
    assert [row["stage"] for row in found] == ["decoder"]
    leaves = jax.tree.leaves(drawn)
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in leaves)


def test_the_sweep_ends_where_nothing_is_gained_or_memory_ends():
    rates = {1: 1.0, 2: 1.9, 4: 1.95, 8: 9.0}
    tried = []

    def measure(batch):
        tried.append(batch)
        return [{"batch": batch, "images_per_s": rates[batch]}]

    assert restoring.sweep(measure, 1, 64)["batch"] == 4
    assert tried == [1, 2, 4]

    def small(batch):
        if batch > 1:
            raise memory.TooLarge("too large")
        return measure(batch)

    assert restoring.sweep(small, 1, 64)["batch"] == 1


@pytest.mark.slow
def test_a_whole_picture_by_tiles():
    restorer = Restorer(WEIGHTS, dtype="float32", tile=128)
    row = restoring.picture(restorer, (128, 192), 1)
    assert row["tiles"] > 1 and row["size"] == [128, 192]
    assert row["images_per_s"] == pytest.approx(1 / row["seconds"])


def test_networks_of_a_configuration():
    config = tiny_stages.config("distill")
    recipe = run.recipe_of(config, "bfloat16")
    assert recipe.unet.block_out_channels == (8, 16) and recipe.dtype == "bfloat16"
    with pytest.raises(UsageError, match="stage vae has no UNet"):
        run.recipe_of(tiny_stages.config("vae"), "float32")
    full = run.recipe_of(None, "float32")
    assert full.unet.block_out_channels == (320, 640, 1280, 1280)


@pytest.mark.parametrize("size", [(64, 100), (0, 64), (1080, 1922)])
def test_sizes_that_no_pass_has(size):
    with pytest.raises(UsageError, match="not a multiple"):
        run.restore(RECIPE, {}, [run.Measurement(size=size)])


def test_unknown_peers_are_named():
    with pytest.raises(UsageError, match="peer 'fast' is unknown. Use one of eager"):
        peer.peers(["fast"], RECIPE, {})


def test_the_file_of_figures_is_no_file_that_is_read(tmp_path, capsys):
    from gendr_jax.cli import configs
    from tests.helpers.tiny_commands import gendr

    config, weights = tmp_path / "c.py", tmp_path / "w"
    (weights / "unet").mkdir(parents=True)
    for file in (config, weights / "gendr.json", weights / "unet/data"):
        file.write_text("mine = 1")
    (tmp_path / "link.json").symlink_to("w/gendr.json")
    cases = (
        (["--weights", weights, "--json", weights / "gendr.json"], "is an input"),
        (["--weights", weights, "--json", tmp_path / "link.json"], "is an input"),
        (["--weights", weights, "--json", weights / "unet/data"], "is an input"),
        (["--weights", weights, "--json", weights], "is a folder"),
    )
    for args, said in cases:
        assert gendr("bench", *args) == 2
        assert said in capsys.readouterr().err
    assert configs.files_of(["--config=a.py:x", "--config", "b.py", "--size", "3"]) == [
        Path("a.py"),
        Path("b.py"),
    ]
    written = [config, weights / "gendr.json", weights / "unet/data"]
    assert {file.read_text() for file in written} == {"mine = 1"}
