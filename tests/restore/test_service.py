"""A Restorer that serves: threads, sizes, programs, kinds of arrays."""

import subprocess
import sys
import threading
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from PIL import Image as Pil

from gendr_jax.image_io import arrays, profiles
from gendr_jax.image_io.metadata import exif
from gendr_jax.restore import programs, tiling
from gendr_jax.restore.pipeline import Restorer
from tests.helpers import tiny_restorer
from tools import described_pictures as described

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = tiny_restorer.weights()
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def restorer():
    return Restorer(WEIGHTS, dtype="float32", tile=128)


def test_sizes_share_few_shapes():
    sides = {tiling.bucket(n, 64) for n in range(1, 1025)}
    assert sides == {64, 128, 192, 256, 384, 512, 768, 1024}
    sizes = RNG.integers(16, 257, (100, 2)) * 4
    shapes = {tiling.layout(*size, 1024, None, 64).pass_hw for size in sizes.tolist()}
    assert len(shapes) <= 36
    for side in (1, 64, 65, 300, 1025, 5000):
        assert side <= tiling.bucket(side, 64) < 1.5 * (side + 64)


@pytest.mark.slow
def test_each_thread_sees_its_own_last_call(restorer):
    sizes = [(20, 20), (20, 40), (40, 60), (60, 60)]
    found, barrier = {}, threading.Barrier(len(sizes))

    def serve(size):
        barrier.wait()
        for _ in range(3):
            out = restorer(np.full((*size, 3), 0.5, np.float32), 2)
            (plan,) = restorer.last
            found.setdefault(size, []).append((plan.height, plan.width, out.shape))

    threads = [threading.Thread(target=serve, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (height, width), seen in found.items():
        wanted = (2 * height, 2 * width)
        assert seen == [(*wanted, (*wanted, 3))] * 3
    assert len(found) == len(sizes)


@pytest.mark.slow
def test_what_is_warmed_up_compiles_nothing_more(restorer):
    fresh = Restorer(WEIGHTS, dtype="float32", tile=128)
    fresh.warm_up([(25, 25), (60, 60)], 4)
    before = set(fresh._programs._compiled)
    fresh(RNG.random((20, 27, 3), np.float32))  # one pass, another size
    fresh(RNG.random((50, 60, 3), np.float32))  # by tiles
    assert set(fresh._programs._compiled) == before


@pytest.mark.slow
def test_programs_that_are_not_used_go(restorer, monkeypatch):
    monkeypatch.setattr(programs, "MAX_PROGRAMS", 2)
    fresh = Restorer(WEIGHTS, dtype="float32", tile=0)
    for side in (10, 20, 40):
        fresh(np.full((side, 10, 3), 0.5, np.float32))
        assert len(fresh._programs._compiled) == 2
    assert all(key[1][0] == 256 for key in fresh._programs._compiled)


@pytest.mark.slow
def test_another_tile_needs_no_other_weights(restorer):
    x = RNG.random((60, 60, 3), np.float32)
    other = restorer.with_tile(192)
    assert other._programs is restorer._programs
    assert other.spec.tiling == "192" and restorer.spec.tiling == "128"
    other(x), restorer(x)
    assert (other.last[0].pass_hw, restorer.last[0].pass_hw) == ((192, 192), (128, 128))
    wanted = Restorer(WEIGHTS, dtype="float32", tile=192)(x)
    np.testing.assert_array_equal(other(x), wanted)


COLD = """
import sys
import numpy as np
from gendr_jax.restore import compiling
from gendr_jax.restore.pipeline import Restorer
from tests.helpers import tiny_restorer

restorer = Restorer(tiny_restorer.weights(), dtype="float32")
with compiling.watch() as seen:
    restorer(np.full((9, 9, 3), 0.5, np.float32), 1)
print(seen.programs, seen.cached)
"""


@pytest.mark.slow
def test_a_second_process_compiles_nothing(tmp_path):
    env = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": ""}
    env |= {"GENDR_CACHE_DIR": str(tmp_path)}
    told = [
        subprocess.run(
            [sys.executable, "-c", COLD], capture_output=True, text=True, env=env
        )
        for _ in range(2)
    ]
    assert [done.returncode for done in told] == [0, 0], told[0].stderr
    (first, _), (second, found) = (map(int, d.stdout.split()) for d in told)
    assert first > 0 and second == 0 and found > 0


def test_a_cache_of_the_process_is_left_alone(tmp_path):
    code = (
        "import jax; jax.config.update('jax_compilation_cache_dir', 'own')\n"
        "from gendr_jax import program_cache\n"
        "assert program_cache.enable(replace=False) is None\n"
        "assert jax.config.jax_compilation_cache_dir == 'own'\n"
    )
    env = {"PYTHONPATH": str(ROOT), "PATH": "", "GENDR_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


# ---- kinds of arrays


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float16", "bfloat16"])
def test_tensors_of_pytorch_come_back_as_tensors(dtype):
    torch = pytest.importorskip("torch")
    pixels = RNG.integers(0, 256, (5, 6, 3)).astype(np.float32) / 255
    scale = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    tensor = torch.tensor(pixels * scale).to(getattr(torch, dtype))
    taken = arrays.take(tensor)
    back = arrays.give(taken, tensor)
    assert back.dtype == tensor.dtype and back.shape == tensor.shape
    assert torch.equal(back.to(torch.float32), tensor.to(torch.float32))
    rgb, _ = arrays.to_unit(taken)
    np.testing.assert_allclose(rgb, pixels, atol=0.005)
    turned = (
        tensor.permute(2, 0, 1)
        .permute(1, 2, 0)
        .requires_grad_(tensor.is_floating_point())
    )
    assert arrays.take(turned).pixels_hwc.shape == (5, 6, 3)


def test_arrays_of_bfloat16():
    pixels = RNG.random((5, 6, 3)).astype(ml_dtypes.bfloat16)
    back = arrays.give(arrays.take(pixels), pixels)
    assert back.dtype == pixels.dtype
    rgb, _ = arrays.to_unit(arrays.take(pixels))
    again = arrays.from_unit(rgb, None, arrays.take(pixels)).pixels_hwc
    np.testing.assert_array_equal(again, pixels)
    given = jnp.asarray(pixels)
    assert arrays.give(arrays.take(given), given).dtype == jnp.bfloat16


def test_grey_with_opacity(restorer):
    pixels = RNG.integers(1, 256, (9, 8, 2), np.uint8)
    out = restorer(pixels, 2)
    assert out.shape == (18, 16, 2) and out.dtype == np.uint8
    rgba = np.concatenate([pixels[..., :1].repeat(3, 2), pixels[..., 1:]], -1)
    np.testing.assert_array_equal(out[..., 1], restorer(rgba, 2)[..., 3])


def test_pil_images_keep_what_they_state(restorer, tmp_path):
    p3 = profiles.builtin("p3")
    block = exif.with_texts(described.block(), {})
    picture = Pil.fromarray(described.pixels(8, 12))
    picture.save(
        tmp_path / "a.jpg", exif=b"Exif\0\0" + block, icc_profile=p3, dpi=(300, 300)
    )
    with Pil.open(tmp_path / "a.jpg") as opened:
        out = restorer(opened, 2)
    assert out.size == (24, 16) and out.info["icc_profile"] == p3
    assert round(out.info["dpi"][0]) == 300
    assert out.getexif()[0x8298].encode("latin-1") == described.NAME
    out.save(tmp_path / "b.png", exif=out.info["exif"], icc_profile=p3)
    assert described.read(tmp_path / "b.png")["maker note"] == described.NOTE
