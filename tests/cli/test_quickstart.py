"""`gendr quickstart`, and how well the shipped weights restore: recorded, not timed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gendr_jax.cli import comparison
from gendr_jax.cli.common import DEFAULT_WEIGHTS
from gendr_jax.errors import UsageError
from gendr_jax.metrics import ssim
from gendr_jax.weights import folder, resolve
from tools import ship_student

# Means over four photographs of scikit-image; a change for the worse fails. Whoever
# ships better weights records what they reach.
RECORDED = json.loads((Path(__file__).parents[1] / "goldens/student.json").read_text())


@pytest.fixture(scope="module")
def shown():
    return comparison.shipped()


def test_shipped_weights_are_the_default_everywhere():
    assert DEFAULT_WEIGHTS == resolve.DEFAULT
    assert resolve.resolve_folder(DEFAULT_WEIGHTS) == resolve.SHIPPED / DEFAULT_WEIGHTS
    assert DEFAULT_WEIGHTS in resolve.shipped()


def test_shipped_weights_are_small_sound_and_described():
    path = resolve.resolve_folder(DEFAULT_WEIGHTS)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert size <= 16e6
    assert folder.load(path, verify=True).kind == "restorer"
    card = (path / "MODEL_CARD.md").read_text(encoding="utf-8")
    for word in ("Licence", "Data", "Steps", "Seed", "Limits"):
        assert word in card


def test_photographs_come_back_better_than_enlarged(shown):
    bicubic, ours = comparison.means(shown)
    assert ours > bicubic + RECORDED["gain"] - 0.05
    similar = np.mean([ssim(one.restored, one.truth) for one in shown])
    plain = np.mean([ssim(one.plain, one.truth) for one in shown])
    assert similar > plain + RECORDED["ssim_gain"] - 0.005


def test_colours_stay(shown):
    error = ship_student.colour(shown)
    assert error < RECORDED["colour"] + 0.1
    assert error < ship_student.colour(shown, "plain") + 0.1


def test_tiles_leave_no_seam(shown):
    assert ship_student.seam(shown) <= RECORDED["seam"] + 1 <= 4


def test_no_grid(shown):
    figures = [ship_student.grid(one.restored) for one in shown]
    assert np.mean(figures) < RECORDED["grid"] + 0.03


def test_the_command_writes_its_picture(tmp_path, capsys):
    from gendr_jax.cli.main import main

    assert main(["quickstart", "--workdir", str(tmp_path / "quick")]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("PSNR bicubic ") and " dB, GenDR " in told
    with Image.open(tmp_path / "quick/comparison.png") as picture:
        assert picture.width == 4 * comparison.SIDE


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment_restores(tmp_path):
    """The wheel alone on the path, beside the installed dependencies."""
    root = Path(__file__).parents[2]
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", tmp_path, root], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", target]
    subprocess.run([*install, wheel], check=True, capture_output=True)
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "low.png")
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r}); import gendr_jax; "
        f"assert gendr_jax.__file__.startswith({str(target)!r}); "
        "from gendr_jax.cli import configs; "
        f"assert str(configs.SHIPPED).startswith({str(target)!r}); "
        "assert configs.shipped_config('tiny_vae').stage == 'vae'; "
        "from gendr_jax.cli.main import main; "
        f"sys.exit(main(['restore', '-i', {str(tmp_path / 'low.png')!r}, "
        f"'-o', {str(tmp_path / 'out.png')!r}]))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert Image.open(tmp_path / "out.png").size == (128, 96)


def stages(workdir, text):
    """What three trainings leave behind, in small."""
    for stage in ("vae", "base", "distill"):
        (workdir / stage / "weights").mkdir(parents=True, exist_ok=True)
        (workdir / stage / "metrics.jsonl").write_text('{"step": 1}\n')
        (workdir / stage / "run.json").write_text("{}")
        (workdir / stage / "weights/gendr.json").write_text(text)


@pytest.mark.parametrize(
    "name", ["weights/my_week.safetensors", "metrics.jsonl", "run.json"]
)
def test_foreign_work_in_the_folder_stays(tmp_path, name):
    """`gendr train --workdir run` puts its weights where quickstart's would go."""
    stages(tmp_path, "one")
    (tmp_path / "weights").mkdir()
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="was not made by this command, .*--workdir"):
        comparison.collect(tmp_path, ["vae", "base", "distill"], 1.0)
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "weights/gendr.json").exists()


def test_foreign_work_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    from gendr_jax.cli import quickstart

    def never(*args, **settings):
        raise AssertionError("the command went on")

    monkeypatch.setattr(comparison, "shipped", never)
    monkeypatch.setattr("gendr_jax.train.run.loop.run", never)
    (tmp_path / "comparison.png").write_bytes(b"mine")
    for more in ([], ["--train"]):
        with pytest.raises(UsageError, match="comparison.png was not made"):
            quickstart.main(["--workdir", str(tmp_path), *more])
    assert (tmp_path / "comparison.png").read_bytes() == b"mine"


def test_its_own_results_are_replaced(tmp_path):
    for text in ("one", "two"):
        stages(tmp_path, text)
        comparison.collect(tmp_path, ["vae", "base", "distill"], 1.0)
        assert (tmp_path / "weights/gendr.json").read_text() == text
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["stage"] for line in lines] == ["vae", "base", "distill"]
