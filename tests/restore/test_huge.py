"""restore/huge.py: from file to file as through memory, in memory that stays small."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gendr_jax import image_io
from gendr_jax.image_io import Image
from gendr_jax.restore import huge
from gendr_jax.restore.pipeline import Restorer
from tests.helpers import tiny_restorer


@pytest.fixture(scope="module")
def restorer():
    return Restorer(tiny_restorer.weights(), dtype="float32", tile=128)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "channels"),
    [
        pytest.param("a.png", 4, marks=pytest.mark.slow),
        ("a.tiff", 3),
        pytest.param("a.png", 1, marks=pytest.mark.slow),
    ],
)
def test_files_restore_as_pictures_do(restorer, tmp_path, name, channels):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 75, channels), np.uint8)
    if channels == 4:
        image = Image(pixels[..., :3], np.maximum(pixels[..., 3], 1))
    else:
        image = Image(pixels)
    image_io.write(tmp_path / name, image)
    heard = []
    plan, _ = huge.restore_file(
        restorer,
        tmp_path / name,
        tmp_path / f"out_{name}",
        progress=lambda *pair: heard.append(pair),
    )
    assert plan.tiles == 12 and heard == [(i + 1, 12) for i in range(12)]
    found = image_io.read(tmp_path / f"out_{name}")
    wanted = restorer.restore([image_io.read(tmp_path / name)])[0]
    assert (
        found.pixels_hwc.shape
        == wanted.pixels_hwc.shape
        == (240, 300, min(channels, 3))
    )
    np.testing.assert_allclose(found.pixels_hwc.astype(int), wanted.pixels_hwc, atol=1)
    if channels == 4:
        np.testing.assert_allclose(found.alpha_hw.astype(int), wanted.alpha_hw, atol=1)
    else:
        assert found.alpha_hw is None


def test_small_files_are_one_pass(restorer, tmp_path):
    image_io.write(tmp_path / "a.png", Image(np.full((9, 9, 3), 80, np.uint8)))
    layout, lost = huge.restore_file(restorer, tmp_path / "a.png", tmp_path / "b.png")
    assert not layout.tiled and not lost
    assert image_io.read(tmp_path / "b.png").pixels_hwc.shape == (36, 36, 3)


RUN = """
import sys
import numpy as np
from tests.helpers import tiny_restorer
from gendr_jax.restore import huge, image_io
from gendr_jax.restore.pipeline import Restorer
from tools.fuzz import peak_kib

folder, = sys.argv[1:]
restorer = Restorer(tiny_restorer.weights(), dtype="float32", tile=256)
for side, name in ((160, "small"), (512, "large")):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    image_io.write(f"{folder}/{name}.png", image_io.Image(pixels))
    huge.restore_file(restorer, f"{folder}/{name}.png", f"{folder}/{name}_out.tiff")
    print(peak_kib() / 2**10)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_picture(tmp_path):
    """2048 x 2048 takes 50 MB in float32; the way through memory holds four such."""
    here = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=here,
        env={"PATH": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(here)},
    )
    assert done.returncode == 0, done.stderr
    small, large = map(float, done.stdout.split())
    print(f"peak {small:.0f} MiB at 640 x 640, {large:.0f} MiB at 2048 x 2048")
    assert large - small < 100
    out = image_io.read(tmp_path / "large_out.tiff")
    assert out.pixels_hwc.shape == (2048, 2048, 3)
