"""Sharpness and blockiness: closed forms, invariances, JPEG."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from gendr_jax.errors import InputError, UsageError
from gendr_jax.metrics import blockiness, sharpness

STUDIO = 219 / 255  # levels of Y for one level of grey


def texture(seed=0, side=160):
    """Noise with the spectrum of photographs, 1/f, uint8 [side, side, 3]."""
    rng = np.random.default_rng(seed)
    fy, fx = np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side), indexing="ij")
    spectrum = np.fft.fft2(rng.normal(size=(side, side))) / np.maximum(
        np.hypot(fy, fx), 1 / side
    )
    x = np.real(np.fft.ifft2(spectrum))
    grey = np.clip(127 + 40 * (x - x.mean()) / x.std(), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, 2)


def jpeg(picture, quality):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def test_sharpness_of_a_ramp_is_its_slope():
    y, x = np.mgrid[:20, :30].astype(np.float64)
    ramp = (3 * x + 4 * y) / 255
    assert sharpness(ramp) == pytest.approx(5 * STUDIO, abs=1e-9)
    assert sharpness(np.full((3, 3, 3), 0.4)) == pytest.approx(0, abs=1e-9)


def test_sharpness_falls_with_blur():
    picture = Image.fromarray(texture())
    blurred = [picture.filter(ImageFilter.GaussianBlur(r)) for r in (0.6, 1.2, 2.4)]
    found = [sharpness(np.asarray(p)) for p in (picture, *blurred)]
    assert found == sorted(found, reverse=True) and found[-1] < found[0] / 2


def test_blockiness_by_hand():
    steps = np.repeat(np.arange(5) * 10.0, 8)  # 10 levels from block to block
    picture = np.broadcast_to(steps, (40, 40)) / 255
    # Columns: jumps of 10 at 4 of 37 lines, halves at both neighbours of each; rows: 0.
    edge = 10 * STUDIO / 2
    inside = 8 * 5 * STUDIO / (2 * 33)
    expected = (edge + 0.1) / (inside + 0.1)
    assert blockiness(picture) == pytest.approx(expected, abs=1e-9)


def test_blockiness_is_1_where_no_blocks_are():
    assert blockiness(np.full((32, 32, 3), 99, np.uint8)) == pytest.approx(1)
    y, x = np.mgrid[:64, :64]
    assert blockiness((x + 2 * y) / 255) == pytest.approx(1, abs=1e-6)
    found = [blockiness(texture(seed)) for seed in range(8)]
    assert np.mean(found) == pytest.approx(1, abs=0.02)
    assert np.std(found) < 0.05


def test_blockiness_rises_as_jpeg_gets_coarser():
    picture = texture(3)
    found = [blockiness(jpeg(picture, q)) for q in (95, 60, 20, 5)]
    assert found == sorted(found)
    assert found[0] < 1.1 and found[-1] > 1.5


def test_blockiness_knows_the_period_and_the_origin():
    coarse = jpeg(texture(4), 10)
    assert blockiness(coarse) > 1.3
    assert blockiness(coarse[3:, 3:]) < 1.05  # the grid is elsewhere
    large = np.asarray(Image.fromarray(coarse).resize((480, 480), Image.NEAREST))
    assert blockiness(large, block=24) > blockiness(large, block=20)


def test_errors():
    with pytest.raises(InputError, match="2x9 pixels, each side needs 3"):
        sharpness(np.zeros((2, 9, 3), np.uint8))
    with pytest.raises(InputError, match="each side needs 10"):
        blockiness(np.zeros((9, 99), np.uint8))
    with pytest.raises(InputError, match="alpha"):
        sharpness(np.zeros((9, 9, 4), np.uint8))
    with pytest.raises(UsageError, match="block is 2"):
        blockiness(np.zeros((9, 99), np.uint8), block=2)
