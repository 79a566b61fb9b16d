"""evaluate/results.py: the shape of the JSON, means on common pictures, CSV."""

import csv
import io
import json

import pytest

from gendr_jax.evaluate import results
from gendr_jax.evaluate.measuring import Figures
from gendr_jax.evaluate.methods import Method
from gendr_jax.metrics.kinds import Settings
from gendr_jax.metrics.table import open_metrics

METRICS = open_metrics(["psnr", "sharpness"], Settings(crop=2))
ONE, TWO = Method("one", "ONE", {}), Method("two", "TWO", {})
ABOUT = results.About("GT", "LR")


def collect(*values, problems=()):
    methods = [ONE, TWO][: len(values)]
    named = {m.name: v for m, v in zip(methods, values, strict=True)}
    return results.collect(ABOUT, methods, METRICS, Figures(named), list(problems))


def figures(**values):
    return {name: {"psnr": v, "sharpness": 2 * v} for name, v in values.items()}


def test_the_form_that_scripts_rely_on():
    found = collect(figures(b=21.0, a=20.0))
    assert found["metrics"]["psnr"]["mean"] == 20.5
    assert found["metrics"]["psnr"]["n"] == 2
    low, high = found["metrics"]["psnr"]["ci95"]
    assert 20.0 <= low <= 20.5 <= high <= 21.0
    assert found["images"] == {
        "a": {"psnr": 20.0, "sharpness": 40.0},
        "b": {"psnr": 21.0, "sharpness": 42.0},
    }
    assert list(found["images"]) == ["a", "b"]
    assert "crop 2" in found["protocol"]["psnr"]
    assert "bootstrap" in found["protocol"]["ci95"]
    assert found["methods"]["one"]["images"] == found["images"]
    assert found["common"] is None and found["differences"] == []
    assert json.loads(results.dumps(found)) == found


def test_methods_that_lack_pictures_are_compared_on_common_ones():
    found = collect(figures(a=20.0, b=30.0, c=10.0), figures(a=21.0, b=29.5))
    assert found["method"] == "one" and found["metrics"]["psnr"]["mean"] == 20.0
    assert found["methods"]["two"]["pictures"] == 2
    common = found["common"]
    assert common["pictures"] == 2
    means = {m: own["psnr"]["mean"] for m, own in common["methods"].items()}
    assert means == {"one": 25.0, "two": 25.25}
    psnr = found["differences"][0]
    assert (psnr["a"], psnr["b"], psnr["metric"]) == ("one", "two", "psnr")
    assert (psnr["mean"], psnr["n"]) == (-0.25, 2)
    assert (psnr["above"], psnr["below"]) == (1, 1)


def test_what_was_not_measured_is_absent_not_zero():
    first = figures(a=20.0, b=30.0)
    del first["b"]["psnr"]
    found = collect(first, problems=["one: psnr of b: no."])
    assert found["metrics"]["psnr"] == {"mean": 20.0, "ci95": None, "n": 1}
    assert found["metrics"]["sharpness"]["n"] == 2
    assert found["images"]["b"] == {"sharpness": 60.0}
    assert found["problems"] == ["one: psnr of b: no."]
    nothing = collect({})
    assert nothing["metrics"] == {} and nothing["images"] == {}
    assert "-" in results.table(nothing, METRICS).splitlines()[1]


def test_every_line_of_the_csv_has_the_protocol():
    first = figures(a=20.0)
    del first["a"]["sharpness"]
    text = results.to_csv(collect(first, figures(a=1.0)))
    assert text.startswith("\ufeffmethod,image,")
    rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
    assert [(r["method"], r["image"], r["psnr"], r["sharpness"]) for r in rows] == [
        ("one", "a", "20.0", ""),
        ("two", "a", "1.0", "2.0"),
    ]
    assert all("BT.601" in r["protocol"] and "gendr_jax" in r["protocol"] for r in rows)


@pytest.mark.parametrize("mark", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_the_csv_is_a_formula(mark):
    evil = mark + 'HYPERLINK("x")'
    methods = [Method(evil, "ONE", {}), TWO]
    named = Figures({evil: {evil: {"psnr": -1.5}}, "two": {"b": {"psnr": 2.0}}})
    found = results.collect(ABOUT, methods, METRICS, named, [])
    text = results.to_csv(found).removeprefix("\ufeff")
    first, second = csv.DictReader(io.StringIO(text, newline=""))
    assert first["method"] == first["image"] == "'" + evil
    assert first["psnr"] == "-1.5"  # a number stays one
    assert (second["method"], second["image"]) == ("two", "b")


def test_the_file_on_disk_begins_with_the_mark_of_utf8(tmp_path):
    path = tmp_path / "r.csv"
    results.write(path, results.to_csv(collect(figures(ä=20.0))))
    assert path.read_bytes().startswith(b"\xef\xbb\xbfmethod,image,")
    assert "ä" in path.read_text(encoding="utf-8-sig")


def test_the_protocol_says_how_pictures_were_paired_and_cut():
    about = results.About("GT", "LR", pairing="paired by name; 1 of 1 truths cut")
    found = results.collect(about, [ONE], METRICS, Figures({"one": figures(a=1.0)}), [])
    assert found["protocol"]["pictures"] == about.pairing
    assert about.pairing in results.to_csv(found)
    assert results.table(found, METRICS).endswith("\n\n" + about.pairing)
    plain = results.table(collect(figures(a=1.0)), METRICS)
    assert "paired" not in plain


def test_the_best_method_is_none_of_few_pictures():
    found = collect(figures(a=1.0, b=2.0), figures(a=5.0, b=6.5))
    assert found["best"] == {"psnr": None, "sharpness": None}
    names = "abcde"
    one = figures(**{n: float(k) for k, n in enumerate(names)})
    two = figures(**{n: k + 3 + 0.1 * (k % 2) for k, n in enumerate(names)})
    assert collect(one, two)["best"] == {"psnr": "two", "sharpness": None}


def test_the_table_has_both_means():
    found = collect(figures(a=20.0, b=30.0), figures(a=21.0))
    text = results.table(found, METRICS)
    first, second = text.split("\n\n")
    assert "psnr ↑" in first and "25.000 [" in first
    assert "on the picture that" in second and "20.000" in second
    assert "not comparable" in first.splitlines()[0]
    assert len({len(line) for line in first.splitlines()[1:3]}) == 1


def test_a_mean_of_fewer_pictures_says_so():
    first = figures(a=20.0, b=30.0)
    del first["b"]["psnr"]
    text = results.table(collect(first, figures(a=20.0, b=30.0)), METRICS)
    assert text.splitlines()[1].split()[:5] == ["one", "2", "20.000", "of", "1"]
    assert text.count(" of ") == 1


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "below" / "r.json"
    results.write(path, "old")
    monkeypatch.setattr(
        results.os, "replace", lambda *a: (_ for _ in ()).throw(OSError)
    )
    with pytest.raises(OSError):
        results.write(path, "new")
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
