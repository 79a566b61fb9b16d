"""`gendr degrade`: files in, pairs and a manifest out."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import gendr_jax
from gendr_jax import files, picture_walk
from gendr_jax.cli import degrade
from gendr_jax.data import degrade_folder, pairs_manifest, retry
from gendr_jax.data.degrade import PRESETS, chain, draws, recipe
from gendr_jax.data.degrade import degrade as run_chain
from gendr_jax.errors import TryAgainError, UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def photos(tmp_path):
    """Three sizes on one canvas, one name twice but for its extension."""
    root = tmp_path / "hq"
    (root / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, (height, width) in {
        "a.png": (61, 50),
        "a.bmp": (64, 64),
        "more/b.png": (40, 63),
    }.items():
        x = ndimage.gaussian_filter(rng.random((height, width, 3)), (2, 2, 0))
        x = (x - x.min()) / np.ptp(x) * 255
        Image.fromarray(x.astype(np.uint8)).save(root / name)
    return root


def read(folder):
    return {
        str(p.relative_to(folder)): np.asarray(Image.open(p))
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_pairs(photos, tmp_path):
    out = tmp_path / "out"
    assert degrade.main(["-i", str(photos), "-o", str(out), "--seed", "5"]) == 0
    lq, hq = read(out / "LR"), read(out / "HR")
    assert list(lq) == list(hq) == ["a.bmp.png", "a.png.png", "more/b.png"]
    assert lq["a.png.png"].shape == (15, 12, 3) and hq["a.png.png"].shape == (60, 48, 3)
    source = np.asarray(Image.open(photos / "a.png"))
    np.testing.assert_array_equal(hq["a.png.png"], source[:60, :48])
    assert lq["more/b.png"].std() > 2

    # the same again from fewer files: a picture's draws are its own
    (photos / "a.bmp").unlink()
    (photos / "a.png").unlink()
    again = tmp_path / "again"
    assert degrade.main(["-i", str(photos), "-o", str(again), "--seed", "5"]) == 0
    np.testing.assert_array_equal(read(again / "LR")["more/b.png"], lq["more/b.png"])
    other = tmp_path / "other"
    assert degrade.main(["-i", str(photos), "-o", str(other), "--seed", "6"]) == 0
    assert (read(other / "LR")["more/b.png"] != lq["more/b.png"]).any()


def test_bad_files_are_named_and_the_rest_is_done(photos, tmp_path, capsys):
    (photos / "broken.png").write_bytes((photos / "a.png").read_bytes()[:500])
    Image.new("RGB", (20, 90)).save(photos / "tiny.png")
    out = tmp_path / "out"
    flags = ["-i", str(photos), "-o", str(out), "--preset", "bicubic", "-s", "3"]
    assert degrade.main(flags) == 1
    error = capsys.readouterr().err
    assert "broken.png" in error and "tiny.png has 20x90 pixels" in error
    lq = read(out / "LR")
    assert len(lq) == 3 and lq["a.png.png"].shape == (20, 16, 3)
    pillow = Image.open(photos / "a.png").crop((0, 0, 48, 60))
    pillow = np.asarray(pillow.resize((16, 20), Image.BICUBIC)).astype(int)
    assert np.abs(pillow - lq["a.png.png"]).max() <= 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preset", "nope"], "no degradation preset named 'nope'"),
        (["-s", "0"], "scale 0"),
        (["-o", "{hq}/out"], "is inside the input"),
        (["-i", "{hq}/nowhere"], "there is no folder"),
    ],
)
def test_usage_errors(photos, tmp_path, flags, message):
    given = ["-i", str(photos), "-o", str(tmp_path / "out")]
    given += [flag.format(hq=photos) for flag in flags]
    with pytest.raises(UsageError, match=message):
        degrade.main(given)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def lines(folder):
    text = (folder / "manifest.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_twice_the_same_bytes_and_neighbours_do_not_matter(photos, tmp_path):
    once, twice, alone = (tmp_path / name for name in ("once", "twice", "alone"))
    for out in (once, twice, twice):  # the last one over its own result
        assert degrade.main(["-i", str(photos), "-o", str(out)]) == 0
    assert contents(once) == contents(twice)
    assert len(contents(once)) == 7

    single = tmp_path / "single"
    (single / "more").mkdir(parents=True)
    (single / "more" / "b.png").write_bytes((photos / "more/b.png").read_bytes())
    assert degrade.main(["-i", str(single), "-o", str(alone)]) == 0
    few, many = contents(alone), contents(once)
    for name in ("LR/more/b.png", "HR/more/b.png"):
        assert few[name] == many[name]
    assert lines(alone)[0] == lines(once)[0]
    assert lines(alone)[1] == lines(once)[3]


@pytest.mark.slow
def test_manifest(photos, tmp_path):
    out = tmp_path / "out"
    assert degrade.main(["-i", str(photos), "-o", str(out), "--seed", "7"]) == 0
    head, *pictures = lines(out)
    assert head["gendr_jax"] == gendr_jax.__version__
    assert (head["preset"], head["scale"], head["seed"]) == ("osediff", 4, 7)
    assert [p["input"] for p in pictures] == ["a.bmp", "a.png", "more/b.png"]
    for p in pictures:
        assert (p["preset"], p["scale"], p["key"]["seed"]) == ("osediff", 4, 7)
        for name, file in (
            ("input", photos / p["input"]),
            ("LR", out / p["LR"]),
            ("HR", out / p["HR"]),
        ):
            assert p["sha256"][name] == hashlib.sha256(file.read_bytes()).hexdigest()
    # the key alone makes the picture again
    last = pictures[0]
    hq = np.asarray(Image.open(out / last["HR"]))[None].astype(np.float32) / 255
    key = pairs_manifest.key(last["key"]["seed"], last["key"]["index"])
    sizes = jnp.asarray([hq.shape[1:3]], jnp.int32)
    again = run_chain(key[None], jnp.asarray(hq), recipe(), 4, sizes)
    want = np.asarray(Image.open(out / last["LR"]))
    np.testing.assert_array_equal(np.round(np.asarray(again[0]) * 255), want)
    assert len({p["key"]["index"] for p in pictures}) == 3


def test_parameters_are_those_of_the_chain(monkeypatch):
    class Seen(Exception):
        pass

    def sample(key, preset):
        raise Seen(key)

    key = pairs_manifest.key(3, 4)
    monkeypatch.setattr(chain.laws, "sample", sample)
    x, size = jnp.zeros((32, 32, 3)), jnp.asarray([32, 32])
    with pytest.raises(Seen) as seen:
        chain._degrade_one(key, x, size, recipe=recipe(), scale=4)
    used = jax.random.key_data(seen.value.args[0])
    told = jax.random.key_data(jax.random.fold_in(key, 0))
    np.testing.assert_array_equal(used, told)


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_read_as_they_were_drawn(name):
    preset = recipe(name)
    for index in range(8):
        key = pairs_manifest.key(0, index)
        found = pairs_manifest.parameters(key, preset)
        json.dumps(found)
        if name == "bicubic":
            assert found == {}
            continue
        drawn = pairs_manifest._sample(jax.random.fold_in(key, 0), preset)
        first = found["first"]
        assert first["factor"] == pytest.approx(float(drawn.first.factor), rel=1e-5)
        low, high = preset.first.jpeg
        assert low <= found["jpeg_qualities"][0] <= high
        assert ("second" in found) == bool(drawn.has_second)
        bounds = {"gaussian": preset.first.gaussian, "poisson": preset.first.poisson}
        low, high = bounds[first["noise"]]
        assert low - 1e-3 <= first["noise_strength"] <= high + 1e-3


def test_kernels_are_described():
    kernels = draws.kernels
    bell = kernels.blur_kernel(
        kernels.GAUSSIAN, jnp.int32(21), 2.0, 1.0, jnp.deg2rad(30.0), 1.0
    )
    found = pairs_manifest._kernel(np.asarray(bell))
    assert found["kind"] == "bell" and found["size"] == 21
    np.testing.assert_allclose(found["sigma"], [2.0, 1.0], rtol=0.01)
    assert found["angle"] == pytest.approx(30, abs=0.5)
    sinc = kernels.sinc_kernel(jnp.int32(9), jnp.float32(1.5))
    want = {"kind": "sinc", "size": 9}
    assert pairs_manifest._kernel(np.asarray(sinc)) == want
    none = pairs_manifest._kernel(np.asarray(kernels.identity_kernel()))
    assert none == {"kind": "none"}


def test_a_killed_run_leaves_whole_files_and_no_manifest(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    flags = ["-i", str(photos), "-o", str(out)]
    assert degrade.main(flags) == 0
    want, calls, rename = contents(out), [], os.replace

    def replace(source, target):
        calls.append(target)
        if len(calls) == 4:  # the log, then HR and LR of the first picture
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            degrade.main(flags)
    left = contents(out)
    assert left.pop("manifest.unfinished.jsonl")
    assert "manifest.jsonl" not in left and left.items() < want.items()
    assert degrade.main(flags) == 0
    assert contents(out) == want


def test_resume_goes_on_and_makes_anew_what_has_changed(photos, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["-i", str(photos), "-o", str(out), "--preset", "bicubic"]
    assert degrade.main(flags) == 0
    want = contents(out)
    text = (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    (out / "manifest.jsonl").unlink()
    # as a kill leaves it: two pictures are done, the line of a third is cut off
    cut = "\n".join([*text[:3], text[3][:40]])
    (out / "manifest.unfinished.jsonl").write_text(cut, encoding="utf-8")
    (out / "HR/more/b.png").unlink(), (out / "LR/more/b.png").unlink()
    (out / "LR/a.png.png").write_bytes(b"spoilt")
    capsys.readouterr()
    assert degrade.main([*flags, "--resume"]) == 0
    assert "3 of 3" in (said := capsys.readouterr().out) and "1 existed already" in said
    assert contents(out) == want
    # pairs of other settings are ours, but are not kept
    assert degrade.main([*flags, "--resume", "-s", "2"]) == 0
    assert "existed already" not in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["D/HR", "D/LR", "link"])
def test_the_input_is_never_replaced(photos, tmp_path, layout):
    out = tmp_path / "D"
    out.mkdir()
    if layout == "link":
        (out / "HR").symlink_to(photos)
        given = photos
    else:
        given = out / layout.removeprefix("D/")
        photos.rename(given)
    before = contents(given)
    with pytest.raises(UsageError, match="the input .* Choose an empty folder"):
        degrade.main(["-i", str(given), "-o", str(out), "--preset", "bicubic"])
    assert contents(given) == before and not (out / "manifest.jsonl").exists()


def test_pictures_of_another_program_are_not_replaced(photos, tmp_path):
    out = tmp_path / "D"
    (out / "HR/more").mkdir(parents=True)
    (out / "HR/more/b.png").write_bytes(b"the only copy")
    with pytest.raises(UsageError, match="b.png is not in manifest.jsonl"):
        degrade.main(["-i", str(photos), "-o", str(out), "--preset", "bicubic"])
    assert (out / "HR/more/b.png").read_bytes() == b"the only copy"


def test_a_store_that_is_away_stops_the_run(photos, tmp_path, monkeypatch):
    flags = ["-i", str(photos), "-o", str(tmp_path / "out"), "--preset", "bicubic"]
    real = degrade_folder.Path.read_bytes

    def read_bytes(path):
        if path.name == "b.png":
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    monkeypatch.setattr(degrade_folder.Path, "read_bytes", read_bytes)
    monkeypatch.setattr(retry, "WAITS", (0.0, 0.0))
    with pytest.raises(
        TryAgainError, match=r"b\.png cannot be read after 3 attempts \(Input/output"
    ):
        degrade.main(flags)
    monkeypatch.undo()
    assert degrade.main([*flags, "--resume"]) == 0


def test_pictures_of_another_run_are_not_mixed_in(photos, tmp_path):
    out = tmp_path / "out"
    (out / "LR").mkdir(parents=True)
    (out / "LR" / "old.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="old.png is not made from this input"):
        degrade.main(["-i", str(photos), "-o", str(out)])


def test_few_canvases_serve_many_sizes():
    """A program is compiled for each: two for test sets, a few more for photographs."""
    sides = [*range(32, 513, 40), 512]
    small = {degrade_folder.canvas(a, b) for a in sides for b in sides}
    assert small == {(128, 128), (512, 512)}
    urban = {degrade_folder.canvas(n, 1024) for n in range(512, 1024, 4)}
    assert urban == {(512, 1024), (1024, 1024)}
    div2k = {degrade_folder.canvas(n, 2040) for n in range(648, 2041, 12)}
    assert div2k == {(1024, 2048), (1536, 2048), (2048, 2048)}
    for height, width in ((33, 512), (513, 40), (4000, 6000), (16384, 16384)):
        rows, columns = degrade_folder.canvas(height, width)
        assert rows >= height and columns >= width and rows % 16 == columns % 16 == 0


@pytest.mark.slow
def test_24_megapixels(tmp_path):
    """An ordinary photograph; as large as training takes."""
    (tmp_path / "in").mkdir()
    small = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(small).resize((6000, 4000)).save(tmp_path / "in/a.jpg")
    out = tmp_path / "out"
    flags = ["-i", str(tmp_path / "in"), "-o", str(out), "--preset", "bicubic"]
    assert degrade.main(flags) == 0
    with Image.open(out / "LR/a.png") as made:
        assert made.size == (1500, 1000)


@pytest.mark.slow
def test_a_second_run_compiles_nothing(photos, tmp_path, monkeypatch):
    """Programs are kept on disk; a run writes no new one where all were there."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("GENDR_CACHE_DIR", str(cache))
    for name in ("JAX_COMPILATION_CACHE_DIR", "GENDR_CACHE"):
        monkeypatch.delenv(name, raising=False)
    code = (
        "import sys; from gendr_jax.cli.main import main; "
        f"sys.exit(main(['degrade', '-i', {str(photos)!r}, '-o', sys.argv[1], "
        "'--preset', 'bicubic']))"
    )
    kept = []
    for number in (1, 2):
        run = [sys.executable, "-c", code, str(tmp_path / f"out{number}")]
        subprocess.run(run, check=True, capture_output=True, cwd=ROOT)
        kept.append(sorted(p.name for p in cache.rglob("*-cache")))
    assert kept[0] and kept[0] == kept[1]
    degrading = [name for name in kept[0] if name.startswith("jit_degrade")]
    assert len(degrading) == 1  # three sizes, one canvas


def test_names_stay_apart():
    names = ["A.png", "a.bmp", "a.png", "a.png.webp", "b.png", "more/a.png"]
    names += ["Foto.JPG", "foto.png", "caf\u00e9.png", "cafe\u0301.png"]
    targets = degrade_folder.assign(names)
    assert len({picture_walk.same_name(t) for t in targets.values()}) == len(names)
    assert targets["b.png"] == "b.png" and targets["more/a.png"] == "more/a.png"


def test_help_lists_the_presets(capsys):
    with pytest.raises(SystemExit):
        degrade.main(["--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in PRESETS) and "manifest.jsonl" in text
