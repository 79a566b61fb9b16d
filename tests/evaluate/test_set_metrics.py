"""evaluate/set_metrics.py: which pictures go into figures of a method as a whole.

The metric of these tests is the difference of the mean colours of two folders, which
shows what lay in them; FID itself is pyiqa's (tests/metrics/test_pyiqa_bridge.py).
"""

import json
import sys
import tempfile
import types

import numpy as np
import pytest
from PIL import Image as Pil

from gendr_jax.errors import InputError
from gendr_jax.evaluate import measuring, methods, pairing, set_metrics
from gendr_jax.evaluate.pairing import Folders
from gendr_jax.metrics.kinds import Metric, OpenedSet
from tests.helpers.tiny_commands import gendr
from tests.helpers.tiny_pictures import pixels, write

NAMES = [f"{c}.png" for c in "abcd"]


def colour(folder, names=None):
    files = sorted(folder.iterdir()) if names is None else [folder / n for n in names]
    return float(np.mean([np.asarray(Pil.open(file)).mean() for file in files]))


def between(sr, gt):
    assert sorted(p.name for p in sr.iterdir()) == sorted(p.name for p in gt.iterdir())
    return colour(sr) - colour(gt)


def opened(measure=between):
    return OpenedSet(Metric("far", "gt", "lower", 3, "none"), "none", measure)


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path, monkeypatch):
    """Temporary files are gone after every test."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield
    assert not list(place.iterdir())


def measured(folders, *sr, measure=between):
    some = [(methods.Method(path.name, str(path), {}), path) for path in sr]
    pairs = pairing.pair(folders, some)
    with set_metrics.collecting() as collection:
        measuring.run(pairs, [], on_item=collection.add)
        names = [method.name for method in pairs.methods]
        return collection.measure(names, [opened(measure)])


@pytest.fixture
def gt(tmp_path):
    return write(tmp_path / "gt", NAMES, (24, 32))


def test_each_method_and_then_what_all_have(gt, tmp_path):
    one = write(tmp_path / "one", NAMES, (24, 32), noise=60)
    two = write(tmp_path / "two", NAMES[1:], (24, 32), noise=90)
    write(two, ["b.png"], (20, 20))  # of another size: not measured
    write(gt, ["stray.png"], (24, 32))
    found = measured(Folders(gt, partial=True), one, two)
    assert not found.problems
    for name, folder, own in (("one", one, NAMES), ("two", two, NAMES[2:])):
        for figures, names in ((found.own, own), (found.common, NAMES[2:])):
            figure = figures[name]["far"]
            expected = colour(folder, names) - colour(gt, names)
            assert figure.value == pytest.approx(expected, abs=1e-9)
            assert figure.n == len(names)


def test_deep_and_grey_pictures_become_8_bit_colour(gt, tmp_path):
    deep = (pixels(24, 32).astype(np.uint16) * 257)[..., 0]
    sr = tmp_path / "sr"
    sr.mkdir()
    for name in NAMES:
        Pil.fromarray(deep).save(sr / name)

    def look(ours, truths):
        for file in ours.iterdir():
            assert Pil.open(file).mode == "RGB"
            np.testing.assert_array_equal(
                np.asarray(Pil.open(file))[..., 1], pixels(24, 32)[..., 0]
            )
        return 1.0

    assert measured(Folders(gt), sr, measure=look).own["sr"]["far"].n == 4


def test_a_file_system_without_links_will_do(gt, monkeypatch):
    def link(source, name):
        raise PermissionError("no links here")

    monkeypatch.setattr(set_metrics.os, "link", link)
    assert measured(Folders(gt), gt).own == {"gt": {"far": set_metrics.Figure(0.0, 4)}}


def test_one_picture_is_no_set(gt, tmp_path):
    many = write(tmp_path / "many", NAMES, (24, 32))
    few = write(tmp_path / "few", NAMES[:1], (24, 32))
    found = measured(Folders(gt, partial=True), many, few)
    (line,) = found.problems
    assert line.startswith("few: far needs 2 pictures or more, 1 have ")
    assert found.own["few"] == {} and found.own["many"]["far"].n == 4
    assert found.common == {"few": {}}  # and one picture for many is none either


@pytest.mark.parametrize("value", [float("nan"), InputError("singular. Add some.")])
def test_a_figure_that_cannot_be_had_is_a_line(gt, value):
    def measure(sr, truths):
        if isinstance(value, Exception):
            raise value
        return value

    found = measured(Folders(gt), gt, measure=measure)
    assert found.own == {"gt": {}} and len(found.problems) == 1
    assert found.problems[0].startswith("gt: ")


@pytest.fixture
def pyiqa(monkeypatch):
    """A stand-in whose fid is the difference of mean colours."""
    module = types.ModuleType("pyiqa")
    module.list_models = lambda: ["fid"]
    module.__version__ = "0.0"

    class Model:
        metric_mode, lower_better = "NR", True

        def __call__(self, target, ref, *, num_workers, verbose):
            assert not verbose and num_workers == 0
            from pathlib import Path

            return np.float64(between(Path(ref), Path(target)))

    module.create_metric = lambda name: Model()
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    monkeypatch.setenv("GENDR_DEBUG", "")


def test_the_command(pyiqa, gt, tmp_path, capsys):
    lr = write(tmp_path / "lr", NAMES, (6, 8))
    few = write(tmp_path / "few", NAMES[:2], (24, 32), noise=90)
    out, html, table = (tmp_path / f"r.{kind}" for kind in ("json", "html", "csv"))
    given = ["--gt", gt, "--lr", lr, "--sr", "bicubic", "--sr", few, "--partial"]
    files = ["-o", out, "--html", html, "--csv", table]
    assert gendr("evaluate", *given, "--metrics", "pyiqa:fid,psnr", *files) == 0
    captured = capsys.readouterr()
    found = json.loads(out.read_text())
    assert found["order"] == ["psnr"] and found["whole"]["order"] == ["pyiqa:fid"]
    assert found["protocol"]["pyiqa:fid"] == "pyiqa 0.0 fid, its defaults"
    mine = found["whole"]["methods"]["few"]["pyiqa:fid"]
    expected = colour(few) - colour(gt, NAMES[:2])
    assert mine == {"value": pytest.approx(expected, abs=1e-6), "n": 2}
    assert found["whole"]["common"]["few"] == {"pyiqa:fid": mine}
    assert found["whole"]["methods"]["bicubic"]["pyiqa:fid"]["n"] == 4
    assert found["whole"]["common"]["bicubic"]["pyiqa:fid"]["n"] == 2
    # No figure of a picture, and no mean of them.
    assert "pyiqa:fid" not in found["metrics"] and found["images"]["a"].keys() == {
        "psnr"
    }
    assert "fid" not in table.read_text().splitlines()[0].split(",protocol")[0]
    assert captured.out.count("pyiqa:fid ↓") == 2 and f"{expected:.3f}" in captured.out
    assert "not comparable" in captured.out.splitlines()[0]


def test_the_command_without_metrics_of_pictures(pyiqa, gt, tmp_path):
    out, html = tmp_path / "r.json", tmp_path / "r.html"
    given = ["--gt", gt, "--sr", gt, "--metrics", "pyiqa:fid"]
    assert gendr("evaluate", *given, "-o", out, "--html", html) == 0
    found = json.loads(out.read_text())
    assert found["whole"]["methods"] == {"gt": {"pyiqa:fid": {"value": 0.0, "n": 4}}}
    assert found["whole"]["common"] is None and found["metrics"] == {}
    assert html.stat().st_size > 1000


def test_what_the_command_refuses(pyiqa, gt, tmp_path, capsys, monkeypatch):
    assert gendr("evaluate", "--sr", gt, "--metrics", "pyiqa:fid") == 2
    line = capsys.readouterr().err
    assert "pyiqa:fid compares with ground truth" in line and "--gt" in line
    one = write(tmp_path / "one", ["a.png"], (24, 32))
    given = ["--sr", one, "--gt", one]
    assert gendr("evaluate", *given, "--metrics", "pyiqa:fid") == 1
    assert "one: pyiqa:fid needs 2 pictures or more" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    assert gendr("evaluate", *given, "--metrics", "pyiqa:fid") == 2
    assert "pip install pyiqa" in capsys.readouterr().err
