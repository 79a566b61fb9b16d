"""bench/: clocks, the ceiling, tables; the pass of tiny networks, peer, sweep."""

import json
import time

import jax
import numpy as np
import pytest

from gendr_jax.bench import ceiling, machine, peer, report, restoring, run, timing
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


def test_the_peer_computes_the_same(rows):
    errors = [row["error"] for row in rows if row["by"] != "gendr_jax"]
    assert len(errors) == 8
    assert max(errors) < 1e-4


def test_ratios_are_theirs_over_ours(rows):
    found = report.with_ratios(rows, "gendr_jax")
    for ours, theirs in zip(found[::3], found[1::3], strict=True):
        assert "ratio" not in ours
        assert theirs["ratio"] == pytest.approx(theirs["seconds"] / ours["seconds"])
    lines = report.table(found).splitlines()
    assert len(lines) == 2 + len(rows)
    assert lines[0].startswith("| stage | by | size | batch | ms |")
    assert "wait" not in lines[0]  # no row has one
    assert "| 128x64 | 2 |" in lines[2]


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
    with pytest.raises(UsageError, match="no multiple"):
        run.restore(RECIPE, {}, [run.Wish(size=size)])


def test_unknown_peers_are_named():
    with pytest.raises(UsageError, match="'fast' is no peer, known are eager"):
        peer.peers(["fast"], RECIPE, {})
