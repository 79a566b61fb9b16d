"""gendr evaluate: files of results, errors, exit status, methods that are made."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gendr_jax.evaluate import methods
from tests.helpers.tiny_commands import gendr, save_weights
from tests.helpers.tiny_pictures import write

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["a.png", "b.png", "c.png"]


@pytest.fixture(autouse=True)
def no_tracebacks(monkeypatch):
    """Errors are told in one line, whatever the shell of the tests asks for."""
    monkeypatch.setenv("GENDR_DEBUG", "")


@pytest.fixture
def folders(tmp_path):
    """(gt, lr, sr) of three pictures, x4."""
    gt = write(tmp_path / "gt", NAMES, (32, 40))
    lr = write(tmp_path / "lr", NAMES, (8, 10))
    sr = write(tmp_path / "sr", NAMES, (32, 40), noise=9)
    return gt, lr, sr


def errors(capsys):
    """What is on stderr, which must be our lines alone."""
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("gendr: error: ") for line in lines), lines
    return [line.removeprefix("gendr: error: ") for line in lines]


def test_everything_at_once(folders, tmp_path, capsys):
    gt, lr, sr = folders
    out = tmp_path / "out"

    def run(*more):
        given = ["--gt", gt, "--lr", lr, "--sr", sr, "--sr", "bicubic"]
        return gendr("evaluate", *given, "-o", out / "r.json", *more)

    assert run("--csv", out / "r.csv", "--html", out / "r.html") == 0
    captured = capsys.readouterr()
    assert not captured.err
    assert captured.out.splitlines()[1].split()[:2] == ["sr", "3"]
    first = (out / "r.json").read_bytes()
    found = json.loads(first)
    assert list(found["methods"]) == ["sr", "bicubic"]
    # What the folders allow and needs no weights; seam is for those who ask.
    assert {"psnr", "ssim", "sharpness", "residual"} <= set(found["metrics"])
    assert not {"niqe", "lpips", "dists", "dino", "seam"} & set(found["metrics"])
    assert set(found["images"]) == {"a", "b", "c"}
    assert {"mean", "ci95", "n"} == set(found["metrics"]["psnr"])
    assert "BT.601" in found["protocol"]["psnr"]
    with open(out / "r.csv", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and {row["method"] for row in rows} == {"sr", "bicubic"}
    text = (out / "r.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and "BT.601" in text
    assert sorted(p.name for p in out.iterdir()) == ["r.csv", "r.html", "r.json"]
    assert run() == 0
    assert (out / "r.json").read_bytes() == first


def test_pairs_by_template_and_by_order_say_so(folders, tmp_path, capsys):
    gt, _, _ = folders
    one = write(tmp_path / "one", [f"SR_{n}" for n in NAMES], (32, 40))
    two = write(tmp_path / "two", ["p9.png", "p10.png", "p11.png"], (30, 39))
    out = tmp_path / "r.json"
    run = ["evaluate", "--gt", gt, "-o", out, "--metrics", "psnr"]
    assert gendr(*run, "--sr", one, "--sr-template", "SR_{}") == 0
    found = json.loads(out.read_text())
    assert found["protocol"]["pictures"] == "paired by name; no truth cut"
    capsys.readouterr()
    assert gendr(*run, "--sr", two) == 2
    assert "with --by-order" in errors(capsys)[0]
    assert gendr(*run, "--sr", two, "--by-order") == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == json.loads(out.read_text())["protocol"]["pictures"]
    assert "two paired by the order of names (p9.png with a to p11.png with c)" in line
    assert "3 of 3 truths cut at the right or at the bottom, by 2 pixels" in line


def test_metrics_by_what_is_given(folders, tmp_path):
    _, lr, sr = folders
    out = tmp_path / "r.json"
    assert gendr("evaluate", "--sr", sr, "-o", out) == 0
    alone = json.loads(out.read_text())["order"]
    assert "sharpness" in alone and not {"psnr", "residual"} & set(alone)
    assert gendr("evaluate", "--sr", sr, "--lr", lr, "-o", out) == 0
    assert set(json.loads(out.read_text())["order"]) == {*alone, "residual"}


def test_flags_reach_the_formulas(folders, tmp_path):
    gt, _, sr = folders
    out, given = tmp_path / "r.json", ["--sr", sr, "--gt", gt, "--metrics", "psnr"]
    assert gendr("evaluate", *given, "--channel=rgb", "--crop=4", "-o", out) == 0
    found = json.loads(out.read_text())
    one, two = (methods.read(folder / "a.png") / 255 for folder in (sr, gt))
    error = np.mean((one - two)[4:-4, 4:-4] ** 2) + 1e-8
    assert found["images"]["a"]["psnr"] == pytest.approx(
        -10 * np.log10(error), abs=1e-5
    )
    assert "RGB" in found["protocol"]["psnr"] and "crop 4" in found["protocol"]["psnr"]


def test_each_bad_picture_is_a_line_and_the_rest_is_done(folders, tmp_path, capsys):
    gt, _, sr = folders
    (sr / "a.png").unlink()
    write(sr, ["b.png"], (28, 40))
    write(sr, ["stray.png"], (32, 40))
    (gt / "d.png").write_bytes(b"hello")
    write(sr, ["d.png"], (32, 40))
    out = tmp_path / "r.json"
    assert gendr("evaluate", "--sr", sr, "--gt", gt, "-o", out) == 1
    told = errors(capsys)
    assert len(told) == 4
    for name in ("no picture a", "b.png is 40x28", "stray.png has no", "d.png is not"):
        assert sum(name in line for line in told) == 1, name
    found = json.loads(out.read_text())
    assert set(found["images"]) == {"c"} and found["problems"] == told


def test_methods_may_lack_pictures_where_that_is_meant(folders, tmp_path, capsys):
    gt, lr, sr = folders
    (sr / "a.png").unlink()
    given = ["--sr", "bicubic", "--sr", f"few={sr}", "--gt", gt, "--lr", lr]
    out = tmp_path / "r.json"
    assert gendr("evaluate", *given) == 1
    assert "allow methods to lack pictures with --partial" in errors(capsys)[0]
    assert gendr("evaluate", *given, "--partial", "-o", out) == 0
    assert "on the 2 pictures that all methods have" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["methods"]["few"]["metrics"]["psnr"]["n"] == 2
    assert found["methods"]["bicubic"]["metrics"]["psnr"]["n"] == 3
    assert found["common"]["methods"]["bicubic"]["psnr"]["n"] == 2


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "no method is given"),
        (["--sr", "absent"], "absent does not exist"),
        (["--sr", "sr", "--metrics", "psnr"], "psnr compares with ground truth"),
        (["--sr", "sr", "--metrics", "residual"], "residual compares with inputs"),
        (["--sr", "sr", "--metrics", "beauty"], "'beauty' is unknown"),
        (["--sr", "sr", "--metrics", "niqe"], "--niqe"),
        (["--sr", "sr", "--metrics", ","], "--metrics is empty"),
        (["--sr", "bicubic", "--gt", "gt"], "folder with --lr"),
        (["--sr", "sr", "--sr", "x=sr", "--sr", "sr"], "two methods have the name sr"),
        (["--sr", "truth=sr"], "truth is reserved"),
        (["--sr", "=sr"], "Write it as NAME=DIR"),
        (["--sr", "sr", "--set", "RealSR"], "--set and --root need each other"),
        (["--sr", "sr", "--set", "X", "--root", "."], "--set X is unknown"),
        (["--sr", "sr", "--set", "RealSR", "--root", ".", "--gt", "gt"], "determines"),
        (["--sr", "sr", "--crop", "-1"], "--crop is -1"),
        (["--sr", "sr", "-s", "0"], "--scale is 0"),
        (["--sr", "sr", "-o", "x", "--csv", "x"], "folder or is named twice"),
        (["--sr", "sr", "--html", "gt"], "folder or is named twice"),
        (["--sr", "sr", "-o", "x", "--csv", "lr/../x"], "folder or is named twice"),
        (["--sr", "sr", "-o", "gt/a.png"], "a.png has the suffix of an image"),
        (["--sr", "sr", "--html", "sr/a.png/x.html"], "x.html cannot be written"),
        (["--sr", "\udcff=sr"], "the name ? is not UTF-8"),
        (["--sr", "sr", "--metric", "psnr"], "unrecognized arguments"),
        (["--sr", "sr", "--gt", "gt", "--sr-template", "SR_"], "has 0 times {}"),
        (
            ["--sr", "sr", "--gt", "gt", "--lr-suffix", "x", "--lr-template", "{}x"],
            "exclude each other",
        ),
    ],
)
def test_what_cannot_be_run(folders, tmp_path, monkeypatch, capsys, args, said):
    monkeypatch.chdir(tmp_path)
    assert gendr("evaluate", *args) == 2
    (line,) = errors(capsys)
    assert said in line


@pytest.mark.slow
def test_restored_within_the_command_is_what_gendr_restore_writes(folders, tmp_path):
    gt, lr, _ = folders
    weights = save_weights(tmp_path / "w")
    out = tmp_path / "restored"
    assert gendr("restore", "-i", lr, "-o", out, "--weights", weights) == 0
    given = ["--gt", gt, "--lr", lr, "--restore", f"now={weights}", "--sr", out]
    assert gendr("evaluate", *given, "-o", tmp_path / "r.json") == 0
    found = json.loads((tmp_path / "r.json").read_text())["methods"]
    assert found["now"]["images"] == found["restored"]["images"]
    assert str(weights) in found["now"]["source"]


ENDLESS = """
import sys, time, types
class Fid:
    metric_mode, lower_better = "NR", True
    def __call__(self, *args, **options):
        print("now", flush=True)
        time.sleep(100)
pyiqa = types.ModuleType("pyiqa")
pyiqa.list_models, pyiqa.create_metric = lambda: ["fid"], lambda name: Fid()
sys.modules["pyiqa"] = pyiqa
signal = __import__("signal")
signal.signal(signal.SIGINT, signal.default_int_handler)
from gendr_jax.cli import main
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_leaves_nothing(folders, tmp_path, number):
    gt, _, sr = folders
    out, temporary = tmp_path / "out", tmp_path / "tmp"
    temporary.mkdir()
    given = ["--sr", sr, "--gt", gt, "--metrics", "psnr,pyiqa:fid"]
    files = ["-o", out / "r.json", "--csv", out / "r.csv", "--html", out / "r.html"]
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, "evaluate", *map(str, [*given, *files])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
    )
    assert process.stdout.readline() == "now\n" and list(temporary.iterdir())
    process.send_signal(number)
    _, told = process.communicate(timeout=100)
    assert process.returncode == 128 + number
    assert (
        told.splitlines()
        == {
            signal.SIGINT: [
                "gendr: error: stopped by Ctrl-C. Start the same command again."
            ],
            signal.SIGTERM: [],
        }[number]
    )
    assert not list(out.iterdir()) and not list(temporary.iterdir())


def test_the_peer_has_its_published_figures(shared_data, tmp_path):
    folder, out = shared_data / "realsr", tmp_path / "r.json"
    given = ["--gt", folder / "HR", "--sr", f"peer={folder / 'osediff'}", "--partial"]
    assert gendr("evaluate", *given, "--metrics", "psnr,ssim", "-o", out) == 0
    found = json.loads(out.read_text())
    published = json.loads((folder / "osediff_metrics.json").read_text())
    assert len(found["images"]) == len(published) == 10
    for name, own in published.items():
        ours = found["images"][name.removesuffix(".png")]
        assert ours["psnr"] == pytest.approx(own["psnr"], abs=1e-4)
        assert ours["ssim"] == pytest.approx(own["ssim"], abs=1e-5)


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom gendr_jax.cli import main\n"
        "try: main.main(['evaluate', '--help'])\nexcept SystemExit: pass\n"
        "assert not {'jax', 'numpy', 'PIL', 'pyvips'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "--html FILE.html" in done.stdout


def test_the_documentation_names_flags_that_exist(capsys):
    with pytest.raises(SystemExit):
        gendr("evaluate", "--help")
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    text = (ROOT / "docs" / "evaluate.md").read_text(encoding="utf-8")
    named = set(re.findall(r"--[a-z-]+[a-z]", text))
    assert named <= known
    assert known - named <= {"--help", "--dtype", "--output", "--scale"}
