"""The table of metrics: names, what they need, and that they measure what they say."""

import re
from pathlib import Path

import numpy as np
import pytest

from gendr_jax import metrics
from gendr_jax.errors import InputError, UsageError
from gendr_jax.image_io import resize
from gendr_jax.metrics.kinds import Settings
from gendr_jax.metrics.table import METRICS, open_metrics

ROOT = Path(__file__).parents[2]


def photo(height, width, seed=0):
    """Smooth colours and a little grain, uint8 HWC."""
    rng = np.random.default_rng(seed)
    y, x, c = np.mgrid[:height, :width, :3]
    smooth = 127 + 90 * np.sin(x / 9.0 + c + seed) * np.cos(y / (7.0 + c))
    return np.clip(smooth + rng.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)


def enlarged(lr, scale=4):
    size = tuple(scale * side for side in lr.shape[:2])
    return np.clip(resize.bicubic(lr / np.float32(255), size), 0, 1)


def measure(name, sr, other=None, **settings):
    (opened,) = open_metrics([name], Settings(**settings))
    return opened.measure(sr, other)


def test_names_are_unique_and_protocols_filled_in():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    plain = [n for n in names if n in ("psnr", "ssim", "sharpness", "seam")]
    opened = open_metrics(plain, Settings(channel="rgb", crop=4))
    assert [o.metric.name for o in opened] == plain
    for one in opened:
        assert "{" not in one.protocol and "\n" not in one.protocol
    assert opened[0].protocol == "dB, RGB, not rounded, crop 4"
    assert open_metrics(["psnr"], Settings())[0].protocol == (
        "dB, BT.601 studio luma, not rounded, crop 0"
    )


def test_fidelity_is_that_of_the_functions():
    sr, gt = [photo(30, 40, s) for s in (0, 1)], [photo(30, 40, s) for s in (2, 3)]
    for name, function in (("psnr", metrics.psnr), ("ssim", metrics.ssim)):
        found = measure(name, sr, gt, channel="rgb", crop=2)
        expected = [
            function(a, b, channel="rgb", crop=2) for a, b in zip(sr, gt, strict=True)
        ]
        assert found == expected


def test_residual_is_small_of_an_enlargement_and_sees_what_was_added():
    lr = photo(32, 40)
    sr = enlarged(lr)
    invented = sr.copy()
    invented[40:80, 40:80] = 0
    plain, other = measure("residual", [sr, invented], [lr, lr])
    assert plain < 0.01 < 0.05 < other


def test_seams_are_seen_at_the_borders_of_tiles():
    lr = photo(48, 48)
    sr = enlarged(lr)
    broken = sr.copy()
    broken[:, 96:] = np.clip(broken[:, 96:] + 0.05, 0, 1)  # tiles of 128 by 64
    plain, seen = measure("seam", [sr, broken], [lr, lr], tile=128, overlap=64)
    assert plain < 3 and seen > 20
    assert measure("seam", [broken], [lr], tile=256) == [0.0]  # one tile, no border


def test_what_cannot_be_opened_is_named():
    with pytest.raises(UsageError, match="'snr' is unknown.*psnr, ssim"):
        open_metrics(["psnr", "snr"], Settings())
    with pytest.raises(UsageError, match="'luma'"):
        open_metrics(["psnr"], Settings(channel="luma"))


@pytest.mark.parametrize("name", ["seam", "residual"])
def test_a_result_of_another_scale_is_refused(name):
    lr = photo(24, 25)
    with pytest.raises(InputError, match="96x100 pixels.*24x25 gives 48x50 at scale 2"):
        measure(name, [enlarged(lr)], [lr], scale=2)


def test_niqe_takes_parameters(tmp_path):
    niqe_parameters = tmp_path / "niqe.npz"
    np.savez(niqe_parameters, mu_pris_param=np.zeros(36), cov_pris_param=np.eye(36))
    (opened,) = open_metrics(["niqe"], Settings(niqe=niqe_parameters, crop=2))
    assert opened.protocol.startswith("full-range Y, rounded, crop 2, niqe.npz (")
    pristine = metrics.Pristine(np.zeros(36), np.eye(36))
    picture = photo(120, 130)
    assert opened.measure([picture], None) == [metrics.niqe(picture, pristine, crop=2)]
    with pytest.raises(UsageError, match="niqe needs a folder.*--niqe"):
        open_metrics(["niqe"], Settings())


def test_the_page_has_every_metric():
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    against = {"nothing": "", "gt": "ground truth", "lr": "input"}
    for metric in METRICS:
        start = f"| `{metric.name}` | {against[metric.against]} | {metric.better} |"
        assert start.replace("|  |", "| |") in page, start
    for path in re.findall(r"`((?:metrics|models|tools|tests)/[\w/]+\.py)`", page):
        assert any((ROOT / room / path).is_file() for room in ("gendr_jax", ".")), path
