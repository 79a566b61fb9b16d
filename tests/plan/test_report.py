"""Arithmetic on figures: rooflines, rows of the contract, advice, the cache."""

import dataclasses
import json

import pytest

from gendr_jax.errors import UsageError
from gendr_jax.plan import cache, report, roofline, suggest, sweep
from gendr_jax.plan.chips import TPUS
from gendr_jax.plan.request import Request, from_json, mesh_text
from tests.helpers.plan_rows import CONTRACT, GIB, V5E, collective, facts, phase


def request(**changes):
    asked = {"config": {"remat": "block", "accumulate": 1}, "topology": "v5e:4x4"}
    return Request(**(asked | {"mesh": "data=4,fsdp=4"} | changes))


def test_a_row_has_what_the_contract_names():
    row = report.row(request(), facts(), 20e6)
    assert set(CONTRACT) <= set(row)
    assert row["topology"] == "v5e:4x4" and row["mesh"] == "data=4,fsdp=4"
    assert row["batch_per_device"] == 2 and row["hbm_bytes"] == V5E.hbm_bytes
    assert set(row["roofline_s"]) >= {"compute", "memory", "network"}
    # programs run one after the other: 1 s of memory, then 2 s of computing
    assert row["step_s"] == pytest.approx(3.0)
    assert row["roofline_s"]["compute"] == pytest.approx(2.5)
    assert row["bound"] == "compute"
    assert row["mfu_bound"] == pytest.approx(2.5 / 3)
    assert row["mfu_model"] == pytest.approx(1.5 / 3)
    assert row["images_per_s"] == pytest.approx(32 / 3)
    assert row["days"] == pytest.approx(20e6 * 3 / 32 / 86400)
    assert row["chip_hours"] == pytest.approx(24 * 16 * row["days"])
    json.dumps(row)


def test_times_say_what_overlaps():
    """By the figures of a CiDA step on v5p: 342 ms, 432 with the network exposed."""
    v5p = TPUS["v5p"]
    sent = [collective("all-gather", 18.5e9, 8)]
    one = phase("a", 157.1e12, 588e9, sent)
    found = roofline.roofline({"phases": [one]}, v5p)
    assert found.step == pytest.approx(0.3423, rel=1e-3)
    assert found.exposed == pytest.approx(0.4322, rel=1e-3)
    assert found.serial == pytest.approx(0.6448, rel=1e-3)
    row = report.row(request(topology="v5p:4x4x1"), facts(phases=[one]), 1.0)
    steps = [row[name] for name in ("step_s", "step_exposed_s", "step_serial_s")]
    assert steps == [found.step, found.exposed, found.serial]
    assert row["mfu_bound"] > row["mfu_exposed"] > row["mfu_serial"]


def test_a_measured_efficiency_stretches_its_resource_alone():
    sent = [collective("all-gather", 8 * V5E.ici_bandwidth, 4)]
    one = {"phases": [phase("a", V5E.flops, V5E.hbm_bandwidth, sent)]}
    measured = roofline.Efficiency(compute=0.5, network=0.25)
    peak, found = roofline.roofline(one, V5E), roofline.roofline(one, V5E, measured)
    assert found.compute == pytest.approx(2 * peak.compute)
    assert found.network == pytest.approx(4 * peak.network)
    assert found.memory == peak.memory
    row = report.row(request(), facts(), 1e6, measured)
    assert row["efficiency"] == {"compute": 0.5, "hbm": 1.0, "network": 0.25}
    assert "compute 0.5" in report.table([row])
    assert "peak rates, which no program" in report.table(
        [report.row(request(), facts(), 1e6)]
    )


def test_a_program_that_dominates_is_named():
    row = report.row(request(), facts(), 1e6)
    assert [(p["name"], p["bound"]) for p in row["programs"]] == [
        ("a", "memory"),
        ("b", "compute"),
    ]
    text = report.table([row])
    assert "the program b is 67% of the step and waits for compute" in text
    assert "| b " in text
    even = [phase(name, V5E.flops, 1.0) for name in "abc"]
    assert "look at it" not in report.table(
        [report.row(request(), facts(phases=even), 1)]
    )


def test_a_model_axis_without_rules_is_said():
    axes = facts()["mesh_axes"] | {"data": 2, "model": 2}
    off = request(config={"sharding": {"rules": []}})
    row = report.row(off, facts(mesh_axes=axes), 1.0)
    assert row["mesh"] == "data=2,fsdp=4,model=2" and row["batch_per_device"] == 4
    assert "splits a weight over model" in report.table([row])
    row = report.row(request(), facts(mesh_axes=axes), 1.0)
    assert "splits a weight over" not in report.table([row])


def test_half_chips_cost_half_the_chip_hours():
    changes = {"devices": 8, "chips": 4, "device_kind": "TPU7x"}
    row = report.row(request(topology="tpu7x:2x2x1"), facts(**changes), 1e6)
    assert row["chip_hours"] == pytest.approx(24 * 4 * row["days"])


def test_a_cpu_has_counts_and_no_times():
    row = report.row(request(topology="cpu:16"), facts(device_kind="cpu"), 1e6)
    assert row["step_s"] is None and row["hbm_bytes"] is None and row["flops"] > 0
    assert "| cpu:16" in report.table([row])


@pytest.mark.parametrize(
    ("one", "ici", "dcn"),
    [
        (collective("all-gather", 800, 8), 700, 0),
        (collective("all-reduce", 800, 8), 1400, 0),
        (collective("all-reduce-scatter", 800, 8), 700, 0),
        (collective("reduce-scatter", 100, 8), 700, 0),
        (collective("collective-permute", 100, 2), 200, 0),
        (collective("all-to-all", 100, 8), 200, 0),
        (collective("dcn-all-reduce", 100, 2, axes=("dcn",), slices=2), 0, 100),
        (collective("dcn-all-gather", 100, 2, axes=("dcn",), slices=2), 0, 100),
        # 2 slices of 4: inside a slice, then a quarter of it to the other one
        (collective("all-reduce", 800, 8, slices=2), 1200, 200),
        (collective("all-gather", 800, 2, slices=2), 0, 400),
    ],
)
def test_what_a_device_sends(one, ici, dcn):
    assert roofline.sent(one) == pytest.approx((ici, dcn))


def test_the_network_can_be_the_bound():
    sent = [collective("all-gather", 8 * V5E.ici_bandwidth, 4)]
    found = roofline.roofline({"phases": [phase("a", 1.0, 1.0, sent)]}, V5E)
    assert found.bound == "ici" and found.step == pytest.approx(6.0)
    assert found.network == pytest.approx(6.0)


def test_mesh_text_is_that_of_the_configuration():
    axes = {"dcn": 1, "data": 2, "fsdp_outer": 4, "fsdp": 64, "space": 1}
    assert mesh_text(axes) == "data=2,fsdp=256"
    assert mesh_text({"data": 1}) == "data=1"


def too_large(**changes):
    return facts(fits=False, temp_bytes=8 * GIB, peak_bytes=17 * GIB) | changes


def test_the_least_change_first():
    found = suggest.changes(request(), too_large(), V5E.hbm_bytes)
    words = [c.words for c in found]
    assert words[0] == "--mesh data=2,fsdp=8"
    assert found[0].estimate == pytest.approx((9 / 2 + 8) * GIB, rel=1e-3)
    assert found[0].request.mesh == "data=2,fsdp=8"
    assert words[-1] == "--batch-per-device 1"
    # half of what grows with the batch, all of the gradients
    assert found[-1].estimate == pytest.approx((9 + 2 + 6 / 2) * GIB, rel=1e-3)
    parts = next(c for c in found if "accumulate" in c.words)
    assert parts.request.config["accumulate"] == 2
    assert parts.request.batch_per_device is None


def test_what_cannot_fit_is_not_advised():
    everything = too_large(argument_bytes=90 * GIB, peak_bytes=98 * GIB)
    everything["roles"] = everything["roles"] | {"replicated": 9 * GIB}
    assert suggest.changes(request(), everything, V5E.hbm_bytes) == []
    # nothing is said of recomputation, which only the compiler can judge
    asked = request(config={"remat": "none", "accumulate": 1})
    found = suggest.changes(asked, everything, V5E.hbm_bytes)
    assert [(c.words, c.estimate) for c in found] == [("--config.remat=block", None)]


@pytest.fixture
def answers(monkeypatch):
    """Answers in the place of compilations; the list of what was asked."""
    asked = []

    def answer(request, *, timeout):
        asked.append(request)
        if request.mesh == "data=16":
            return {"error": "exit status -11"}
        if request.mesh == "bad":
            raise UsageError("mesh 'bad' is none. Mend it.")
        if request.mesh == "data=4,fsdp=4":
            return too_large()
        return facts()

    monkeypatch.setattr(sweep.compile_process, "measure_in_subprocess", answer)
    return asked


def run(tmp_path, asked, **options):
    lines = []
    made = sweep.Options(folder=tmp_path, log=lines.append, **options)
    return list(sweep.run(asked, 1e6, made)), lines


def test_a_product_in_order():
    found = sweep.requests(request(), ["v5e-16", "v6e:4x4"], ["fsdp=16", ""], [1, 2])
    assert [(r.topology, r.mesh, r.batch_per_device) for r in found][:3] == [
        ("v5e:4x4", "fsdp=16", 1),
        ("v5e:4x4", "fsdp=16", 2),
        ("v5e:4x4", "", 1),
    ]
    assert len(found) == 8 and found[-1].topology == "v6e:4x4"


def test_one_that_breaks_does_not_lose_the_others(answers, tmp_path):
    asked = [request(mesh=m) for m in ("fsdp=16", "data=16", "bad", "data=8,fsdp=2")]
    rows, _ = run(tmp_path, asked)
    assert ["error" in row for row in rows] == [False, True, True, False]
    assert rows[1]["error"] == "exit status -11"
    assert "Mend it" in report.table(rows)
    with pytest.raises(UsageError, match="mesh 'bad'"):  # alone, it is a mistake
        run(tmp_path, [request(mesh="bad")])


def test_all_are_refused_before_the_first_is_compiled(answers, tmp_path):
    def refuse(one):
        if one.mesh == "data=3":
            assert not answers, "something was compiled first"
            raise UsageError("mesh 'data=3' needs 3 devices. Mend it.")

    asked = [request(mesh="fsdp=16"), request(mesh="data=3")]
    rows, _ = run(tmp_path, asked, refuse=refuse)
    assert ["error" in row for row in rows] == [False, True]
    answers.clear()
    with pytest.raises(UsageError, match="data=3"):
        run(tmp_path, asked[1:], refuse=refuse)
    assert not answers


def test_answers_are_kept_but_not_broken_ones(answers, tmp_path):
    asked = [request(mesh="fsdp=16"), request(mesh="data=16")]
    first, _ = run(tmp_path, asked)
    again, lines = run(tmp_path, asked)
    assert first == again and len(answers) == 3  # the broken one is tried again
    assert "from the cache" in lines[0]
    run(tmp_path, asked[:1], reread=False)
    assert len(answers) == 4
    name = cache.key(dataclasses.replace(asked[0], phase=0))
    (tmp_path / f"{name}.json").write_text("{")
    run(tmp_path, asked[:1])
    assert len(answers) == 5  # a damaged file is no answer
    assert not list(tmp_path.glob("*.partial"))


def test_not_to_fit_is_an_answer_with_advice(answers, tmp_path):
    (row,), _ = run(tmp_path, [request()])
    assert row["fits"] is False and "error" not in row
    assert row["change"]["words"] == "--mesh data=2,fsdp=8"
    assert row["change"]["compiled"] is False
    text = report.table([row])
    assert "NO" in text and "1.25 GiB too much. Fits with --mesh data=2,fsdp=8" in text
    assert "(estimated: 12.50 GiB)" in text
    (row,), _ = run(tmp_path, [request()], suggest="compile")
    assert row["change"] == {
        "words": "--mesh data=2,fsdp=8",
        "peak_bytes": 12 * GIB,
        "compiled": True,
    }
    assert answers[-1].mesh == "data=2,fsdp=8"


def test_the_key_is_the_whole_question(monkeypatch):
    one = request()
    assert from_json(one.to_json()) == one
    keys = {cache.key(one), cache.key(request(mesh="fsdp=16"))}
    keys |= {cache.key(request(config={"lr": 1.0})), cache.key(request(effort="full"))}
    monkeypatch.setattr(cache, "_version", lambda package: "another")
    assert len(keys | {cache.key(one)}) == 5


def test_every_part_of_the_source_is_there():
    """A part that was renamed would leave the key without notice."""
    for part in cache.SOURCE_PATHS:
        assert (cache.SOURCE / part).exists(), part


def test_columns_line_up():
    rows = [report.row(request(), facts(), 1e6), report.row(request(), too_large(), 1)]
    lines = report.table(rows).splitlines()[:4]
    assert len({len(line) for line in lines}) == 1
    bars = [[i for i, c in enumerate(line) if c == "|"] for line in lines]
    assert all(bar == bars[0] for bar in bars)


def test_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    from gendr_jax.plan import plot

    rows = [
        report.row(request(), facts(), 1e6),
        report.row(request(topology="cpu:16"), facts(device_kind="cpu"), 1e6),
        report.row(request(), too_large(), 1e6),
        report.row(request(), {"error": "broken"}, 1e6),
    ]
    plot.draw(rows, tmp_path / "deep" / "plan.png")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["plan.png"]
    with Image.open(tmp_path / "deep" / "plan.png") as picture:
        assert picture.width > 1000 and len(set(picture.convert("L").tobytes())) > 20


def test_the_programs_of_a_step_are_asked_one_by_one(monkeypatch, tmp_path):
    """And put together: work adds, memory is the most, one refusal refuses all."""

    def answer(request, timeout=None):
        number = request.phase
        part = phase("abc"[number], 1e12 * (number + 1), 1e9)
        work = ("flops_compiler", "flops_kernels", "flops_loops")
        work += ("traffic_loops_bytes", "loops_of_unknown_length")
        part |= dict.fromkeys(work, 0)
        part |= {"peak_bytes": 2**30 * (number + 1), "collectives": {}}
        facts = fits_facts() | {"phase_count": 3, "fits": number < refused}
        facts |= {"flops_analytic": 1.0, "flops_model": 1.0, "trace_s": 1.0}
        facts |= {"compile_s": 2.0, "phases": [part]}
        said = {"compiler_said": "no", "peak_bytes": 2**40}
        return facts if number < refused else facts | said

    def fits_facts():
        return {"devices": 16, "chips": 16, "roles": {}}

    monkeypatch.setattr(sweep.compile_process, "measure_in_subprocess", answer)
    refused = 3
    found = sweep.facts_of(request(), sweep.Options(jobs=2), "")
    assert [one["name"] for one in found["phases"]] == ["a", "b", "c"]
    assert found["flops"] == 6e12 and found["compile_s"] == 6.0
    assert found["peak_bytes"] == 3 * 2**30 and found["largest_phase"] == "c"
    refused = 1
    assert sweep.facts_of(request(), sweep.Options(), "")["fits"] is False
