"""cli/: dispatch, errors and exit status; gendr restore and inspect on files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image as Pil

from gendr_jax import nets
from gendr_jax.cli import common
from gendr_jax.cli import main as main_lib
from gendr_jax.errors import InputError, UsageError
from gendr_jax.models.unet import UNet
from gendr_jax.models.vae import VAE
from gendr_jax.restore.folders import naming
from gendr_jax.restore.folders.naming import InputPicture
from tests.helpers.tiny_commands import UNET_CONFIG, VAE_CONFIG, gendr, save_weights

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_weights(tmp_path_factory.mktemp("weights") / "w")


@pytest.fixture(autouse=True)
def no_tracebacks(monkeypatch):
    """Errors are told in one line, whatever the shell of the tests asks for."""
    monkeypatch.setenv("GENDR_DEBUG", "")


def shell(*args, **env):
    env = {**os.environ, **env}
    if "GENDR_CACHE_DIR" in env:  # JAX's own folder would go before it
        del env["JAX_COMPILATION_CACHE_DIR"]
    return subprocess.run(
        [sys.executable, "-m", "gendr_jax.cli.main", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=ROOT,
        env=env,
    )


def one_error(text):
    """The only line on stderr, which must be ours."""
    lines = text.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("gendr: error: "), text
    return lines[0].removeprefix("gendr: error: ")


def save(path, height=6, width=7, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 4))
    Pil.fromarray(pixels.astype(np.uint8)).convert(mode).save(path)
    return path


# ---- the entry point


def test_help_lists_the_commands_that_exist():
    done = shell("--help")
    assert done.returncode == 0 and not done.stderr
    listed = [line.split()[0] for line in done.stdout.splitlines() if line[:2] == "  "]
    assert [name for name in listed if name[0] != "-"] == list(main_lib.COMMANDS)
    for name in main_lib.COMMANDS:
        assert (ROOT / "gendr_jax" / "cli" / f"{name}.py").exists()


@pytest.mark.parametrize("args", [[], ["restore"], ["inspect"]])
def test_help_imports_nothing_heavy(args):
    code = (
        "import sys; from gendr_jax.cli.main import main\n"
        f"try: main([*{args!r}, '--help'])\n"
        "except SystemExit as done: assert not done.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0 and "usage: gendr" in done.stdout
    heavy = {"jax", "numpy", "flax", "PIL", "orbax", "optax", "absl", "tqdm"}
    assert not heavy & set(done.stderr.split())


def test_version(capsys):
    assert gendr("--version") == 0
    assert capsys.readouterr().out.startswith("gendr 0.")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "no command"),
        (["restor"], "did you mean restore"),
        (["fly"], "there are quickstart, restore"),
        (["restore"], "-i/--input"),
        (["restore", "-i", "a.png", "-o", "b", "--weights", ""], "--weights is empty"),
        (["restore", "--tile", "4"], "required"),
        (["restore", "-i", "a", "-o", "b", "--dtype", "int8"], "int8"),
        (["restore", "-i", "a", "-o", "b", "-s", "four"], "four"),
        (["inspect", "--fast", "x"], "--fast"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(args, message, capsys):
    assert gendr(*args) == 2
    captured = capsys.readouterr()
    assert message in one_error(captured.err) and not captured.out


def test_errors_by_kind(capsys, monkeypatch):
    def run(error):
        def command(args):
            raise error

        monkeypatch.setitem(main_lib.COMMANDS, "restore", (command, ""))
        return gendr("restore"), capsys.readouterr().err

    assert run(UsageError("A. B.")) == (2, "gendr: error: A. B.\n")
    assert run(InputError("A.\n  B.")) == (1, "gendr: error: A. B.\n")
    status, text = run(PermissionError(13, "Permission denied", "/x"))
    assert status == 1 and "'/x'" in one_error(text)
    assert run(KeyboardInterrupt())[0] == 130
    # Mistakes of ours are not dressed up as the user's.
    with pytest.raises(ZeroDivisionError):
        run(ZeroDivisionError())


def test_debug_shows_the_traceback():
    done = shell("restore", "-i", "a", "-o", "b", "--weights", "", "--debug")
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert "UsageError: --weights is empty" in done.stderr


# ---- names of files


def names(found, **options):
    options = {"ext": "auto", "suffix": ""} | options
    out = naming.assign(
        [InputPicture(Path(f), Path(f)) for f in found], Path("out"), **options
    )
    return [paths.target.relative_to("out").as_posix() for paths in out]


def test_results_keep_the_format_where_it_is_written():
    found = ["a.png", "b.JPG", "c.bmp", "d/e.webp", "f.gif"]
    assert names(found) == ["a.png", "b.JPG", "c.png", "d/e.webp", "f.png"]
    assert names(found[:2], ext="webp", suffix="_x4") == ["a_x4.webp", "b_x4.webp"]


def test_equal_stems_do_not_overwrite_each_other():
    assert names(["a.jpg", "a.png"]) == ["a.jpg", "a.png"]
    assert names(["a.jpg", "a.png", "b.png"], ext="png") == [
        "a_jpg.png",
        "a_png.png",
        "b.png",
    ]
    assert names(["a.bmp", "A.png"]) == ["a_bmp.png", "A_png.png"]
    assert names(["x/a.jpg", "a.png"], ext="png") == ["x/a.png", "a.png"]


def test_names_that_would_clash_or_replace_an_input_are_refused(tmp_path):
    pairs = [InputPicture(tmp_path / d / "a.png", Path("a.png")) for d in "xy"]
    with pytest.raises(UsageError, match="both be written"):
        naming.assign(pairs, tmp_path / "out", ext="auto", suffix="")
    found = [InputPicture(save(tmp_path / "a.png"), Path("a.png"))]
    with pytest.raises(UsageError, match="replace an input"):
        naming.assign(found, tmp_path, ext="auto", suffix="")
    assert naming.assign(found, tmp_path, ext="auto", suffix="_x4")
    with pytest.raises(UsageError, match="is a file"):
        naming.assign(found * 2, tmp_path / "a.png", ext="auto", suffix="")


def test_a_single_picture_may_name_its_result(tmp_path):
    found = [InputPicture(tmp_path / "a.png", Path("a.png"))]
    (paths,) = naming.assign(found, tmp_path / "b.jpg", ext="auto", suffix="")
    assert paths.target == tmp_path / "b.jpg"
    (tmp_path / "c.jpg").mkdir()
    (paths,) = naming.assign(found, tmp_path / "c.jpg", ext="auto", suffix="")
    assert paths.target == tmp_path / "c.jpg" / "a.png"


def test_pictures_are_found_in_order_and_others_left(tmp_path):
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt", "d/c.png", "out/o.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    out = tmp_path / "out"

    def relative(recursive):
        found, problems, _ = naming.find(
            [str(tmp_path)], recursive=recursive, outs=[out]
        )
        assert not problems
        return [f.relative.as_posix() for f in found]

    assert relative(False) == ["a.JPG", "b.png"]
    assert relative(True) == ["a.JPG", "b.png", "d/c.png"]
    # Named twice, found once.
    twice, *_ = naming.find([str(tmp_path)] * 2, recursive=False, outs=[out])
    assert len(twice) == 2


# ---- gendr restore


@pytest.fixture(scope="module")
def mixed(weights, tmp_path_factory):
    """One run over good and bad pictures: its status, streams, folder and report."""
    base = tmp_path_factory.mktemp("mixed")
    save(base / "in" / "rgb.png", 5, 9)
    save(base / "in" / "rgb.jpg", 7, 6)
    save(base / "in" / "sub" / "clear.png", 4, 5, "RGBA")
    save(base / "in" / "grey.bmp", 3, 8, "L")
    (base / "in" / "text.png").write_text("hello")
    whole = save(base / "in" / "cut.png", 15, 15).read_bytes()
    (base / "in" / "cut.png").write_bytes(whole[: len(whole) // 2])
    done = shell(
        "restore",
        *("-i", base / "in", base / "absent.png", "-o", base / "out"),
        *("--weights", weights, "--recursive", "--report", base / "r.jsonl"),
        GENDR_CACHE="1",
        GENDR_CACHE_DIR=str(base / "cache"),
    )
    lines = (base / "r.jsonl").read_text().splitlines()
    return base, done, [json.loads(line) for line in lines]


def test_good_pictures_are_restored_and_the_tree_is_kept(mixed):
    base, done, _ = mixed
    out = {p.relative_to(base / "out").as_posix() for p in (base / "out").rglob("*.*")}
    assert out == {"rgb.png", "rgb.jpg", "sub/clear.png", "grey.png"}, done.stderr
    for name, size, mode in (
        ("rgb.png", (36, 20), "RGB"),
        ("rgb.jpg", (24, 28), "RGB"),
        ("sub/clear.png", (20, 16), "RGBA"),
        ("grey.png", (32, 12), "L"),
    ):
        with Pil.open(base / "out" / name) as image:
            assert (image.size, image.mode) == (size, mode)


def test_bad_pictures_are_one_line_each_and_status_1(mixed):
    _, done, _ = mixed
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 3, done.stderr
    for name, line in zip(("absent.png", "cut.png", "text.png"), lines, strict=True):
        assert line.startswith("gendr: error: ") and name in line
    assert "4 of 7 done" in done.stdout


def test_the_report_has_a_line_a_picture(mixed):
    _, _, report = mixed
    keys = "input output width height seconds tiles compiled status error".split()
    assert all(list(entry)[: len(keys)] == keys for entry in report)
    by_name = {Path(entry["input"]).name: entry for entry in report}
    assert len(by_name) == 7
    assert [e["status"] for e in report].count("done") == 4
    good, bad = by_name["rgb.png"], by_name["text.png"]
    assert (good["width"], good["height"], good["tiles"]) == (36, 20, 1)
    assert good["seconds"] > 0 and good["error"] is None
    assert bad["status"] == "failed" and "not a supported image file" in bad["error"]
    assert good["stages"].keys() == {"read", "restore", "write"}
    assert 0 < good["residual"] <= good["residual_peak"] and bad["residual"] is None
    # All fit the same 64 x 64 program.
    assert [e["compiled"] for e in report if e["status"] == "done"].count(True) == 1


def test_compiled_programs_are_kept_on_disk(mixed):
    base, _, _ = mixed
    assert (base / "cache" / "programs").is_dir()


def test_existing_results_are_skipped_without_reading_weights(mixed, capsys):
    base, _, _ = mixed
    before = (base / "out" / "rgb.png").stat().st_mtime_ns
    args = ("restore", "-i", base / "in" / "rgb.png", "-o", base / "out")
    report = base / "again.jsonl"
    assert (
        gendr(*args, "--weights", "nowhere", "--skip-existing", "--report", report) == 0
    )
    assert (base / "out" / "rgb.png").stat().st_mtime_ns == before
    assert json.loads(report.read_text())["status"] == "skipped"


def test_options_reach_the_pass(weights, tmp_path, capsys):
    source = save(tmp_path / "a.png", 4, 4)
    common = ("restore", "-i", source, "--weights", weights, "--dtype", "fp32")
    assert gendr(*common, "-o", tmp_path / "b.webp", "-s", "2.5") == 0
    with Pil.open(tmp_path / "b.webp") as image:
        assert image.size == (10, 10) and image.format == "WEBP"
    small = ("-o", tmp_path / "c", "--max-pixels", "100", "--tile", "0")
    assert gendr(*common, *small) == 1
    assert "--max-pixels" in one_error(capsys.readouterr().err)
    assert gendr(*common, "-o", tmp_path / "c", "-s", "99") == 2


def test_empty_folder_and_bad_weights(weights, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    args = ("-i", tmp_path / "empty", "-o", tmp_path / "o", "--weights", weights)
    assert gendr("restore", *args) == 1
    assert "has no pictures" in one_error(capsys.readouterr().err)
    source = save(tmp_path / "a.png")
    for bad, message in (
        (tmp_path / "empty", "gendr.json"),
        (tmp_path / "absent", "no weights folder"),
    ):
        args = ("-i", source, "-o", tmp_path / "o", "--weights", bad)
        for flags in ([], ["--dry-run"]):
            assert gendr("restore", *args, *flags) == 2
            assert message in one_error(capsys.readouterr().err)
    assert not (tmp_path / "o").exists()


def test_a_report_that_cannot_be_written_is_refused(weights, tmp_path, capsys):
    source = save(tmp_path / "a.png")
    args = ("restore", "-i", source, "-o", tmp_path / "o", "--weights", weights)
    assert gendr(*args, "--report", tmp_path / "no" / "r.jsonl") == 2
    assert "--report" in one_error(capsys.readouterr().err)


def test_the_cache_has_a_place_and_a_switch(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    try:
        assert common.cache_programs() is None
        monkeypatch.delenv("GENDR_CACHE")
        monkeypatch.delenv("GENDR_CACHE_DIR", raising=False)
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert common.cache_programs() == tmp_path / "gendr_jax" / "programs"
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("GENDR_CACHE_DIR", str(tmp_path / "file"))
        assert common.cache_programs() is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


# ---- gendr inspect


def test_inspect_a_weights_folder(weights, capsys):
    assert gendr("inspect", weights, "--json", "--verify") == 0
    answer = json.loads(capsys.readouterr().out)
    for key in ("kind", "format", "parameters", "dtypes", "config", "sha256"):
        assert key in answer
    count = sum(
        nets.count(nets.build(*network).abstract)
        for network in ((UNet, UNET_CONFIG), (VAE, VAE_CONFIG))
    )
    assert (answer["kind"], answer["format"]) == ("restorer", "gendr")
    assert answer["parameters"] == count and answer["dtypes"] == {"float32": count}
    assert answer["config"]["vae"]["latent_channels"] == 4
    assert answer["sha256"].keys() == {"unet", "vae", "prompt"}
    assert gendr("inspect", weights) == 0
    text = capsys.readouterr().out
    assert f"{count:,}" in text and "config.vae.latent_channels" in text


def test_inspect_notices_damage_with_verify_alone(weights, tmp_path, capsys):
    import shutil

    copy = Path(shutil.copytree(weights, tmp_path / "w"))
    np.savez(copy / "prompt.npz", positive=np.ones((3, 6), np.float32))
    assert gendr("inspect", copy) == 0
    capsys.readouterr()
    assert gendr("inspect", copy, "--verify") == 1
    assert "sha256" in one_error(capsys.readouterr().err)


def test_inspect_a_training_workdir(weights, tmp_path, capsys):
    from gendr_jax.checkpoints import manager

    manager = manager.Manager(tmp_path / manager.FOLDER)
    state = {"step": np.int32(3), "generator": {"kernel": np.ones((2, 5), np.float32)}}
    state = jax.tree.map(jax.numpy.asarray, state)
    manager.save(3, state, clock={"seed": 0}, meta={"config": {"stage": "vae"}})
    manager.close()
    assert gendr("inspect", tmp_path, "--json", "--verify") == 0
    answer = json.loads(capsys.readouterr().out)
    for key in ("kind", "format", "parameters", "dtypes", "config", "sha256"):
        assert key in answer
    assert answer["kind"] == "training" and answer["step"] == 3
    assert "generator" in answer["roles"]
    assert answer["fingerprint"]


@pytest.mark.parametrize("what", ["absent", "file", "empty"])
def test_inspect_refuses_what_is_not_ours(what, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert gendr("inspect", tmp_path / what) == 1
    assert str(tmp_path / what) in one_error(capsys.readouterr().err)
