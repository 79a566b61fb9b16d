"""PSNR and SSIM against published values, scipy, scikit-image and closed forms."""

import json

import numpy as np
import pytest
from PIL import Image

from gendr_jax import metrics
from gendr_jax.errors import InputError, UsageError


def pair(height=40, width=53, noise=12.0, seed=0):
    """A smooth colour picture and a noisy copy of it, uint8 HWC."""
    rng = np.random.default_rng(seed)
    y, x, c = np.mgrid[:height, :width, :3]
    gt = 127 + 90 * np.sin(x / 5.0 + c) * np.cos(y / (3.0 + c))
    sr = gt + rng.normal(0, noise, gt.shape)
    return tuple(np.clip(a, 0, 255).astype(np.uint8) for a in (sr, gt))


def rounded_luma(rgb_hwc):
    """Y as MATLAB's rgb2ycbcr writes it, from its integer-weighted definition."""
    r, g, b = (rgb_hwc[..., i].astype(np.float64) / 255 for i in range(3))
    return np.round(16 + 65.481 * r + 128.553 * g + 24.966 * b)


def test_published_values(shared_data):
    folder = shared_data / "realsr"
    published = json.loads((folder / "osediff_metrics.json").read_text())
    assert len(published) >= 10
    for name, values in published.items():
        sr = np.asarray(Image.open(folder / "osediff" / name).convert("RGB"))
        gt = np.asarray(Image.open(folder / "HR" / name).convert("RGB"))
        assert metrics.psnr(sr, gt) == pytest.approx(values["psnr"], abs=1e-4), name
        assert metrics.ssim(sr, gt) == pytest.approx(values["ssim"], abs=1e-5), name


def test_psnr_by_hand():
    # One grey level everywhere: Y differs by 219/255/255 (the weights sum to 219).
    sr, gt = np.full((4, 5, 3), 101, np.uint8), np.full((4, 5, 3), 100, np.uint8)
    y = 10 * np.log10(1 / ((219 / 255 / 255) ** 2 + 1e-8))
    assert metrics.psnr(sr, gt) == pytest.approx(y, abs=1e-9)
    rgb = 10 * np.log10(1 / ((1 / 255) ** 2 + 1e-8))
    assert metrics.psnr(sr, gt, channel="rgb") == pytest.approx(rgb, abs=1e-9)
    assert metrics.psnr(gt, gt) == pytest.approx(80.0)


def test_luma_is_not_rounded_in_psnr():
    # A change of one blue level moves Y by 0.098 levels: rounding would hide it.
    gt = np.full((4, 4, 3), 100, np.uint8)
    sr = gt + np.array([0, 0, 1], np.uint8)
    expected = 10 * np.log10(1 / ((24.966 / 255 / 255) ** 2 + 1e-8))
    assert metrics.psnr(sr, gt) == pytest.approx(expected, abs=1e-9)


def test_luma_weights_are_not_in_bgr_order():
    primaries = np.eye(3).reshape(1, 3, 3)
    expected = (np.array([65.481, 128.553, 24.966]) + 16) / 255
    np.testing.assert_allclose(metrics.luma(primaries)[0, :, 0], expected, rtol=1e-12)


def test_psnr_rgb_equals_scikit_image():
    reference = pytest.importorskip("skimage.metrics").peak_signal_noise_ratio
    sr, gt = pair()
    # Theirs lacks the 1e-8 under the logarithm, which is worth 2e-5 dB here.
    expected = reference(gt, sr, data_range=255)
    assert metrics.psnr(sr, gt, channel="rgb") == pytest.approx(expected, abs=1e-4)


def test_ssim_equals_scikit_image_where_nothing_is_clipped():
    reference = pytest.importorskip("skimage.metrics").structural_similarity
    sr, gt = (rounded_luma(a) for a in pair(noise=4.0))
    _, full = reference(
        gt,
        sr,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        full=True,
    )
    valid = full[5:-5, 5:-5]
    assert valid.min() > 0  # so that the clip of the contrast term changes nothing
    assert metrics.ssim(*pair(noise=4.0)) == pytest.approx(valid.mean(), abs=1e-9)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("channel", ["y", "rgb"])
def test_ssim_equals_scipy(channel, invert):
    convolve = pytest.importorskip("scipy.signal").convolve2d
    windows = pytest.importorskip("scipy.signal.windows")
    taps = windows.gaussian(11, 1.5)
    window = np.outer(taps, taps) / taps.sum() ** 2
    sr, gt = pair()
    if invert:  # anti-correlated: most contrast terms are negative, and clipped
        sr = 255 - sr

    def one(a, b):
        ma, mb, aa, bb, ab = (
            convolve(v, window, mode="valid") for v in (a, b, a * a, b * b, a * b)
        )
        l_term = (2 * ma * mb + 6.5025) / (ma**2 + mb**2 + 6.5025)
        cs = (2 * (ab - ma * mb) + 58.5225) / (aa - ma**2 + bb - mb**2 + 58.5225)
        assert (cs < 0).any() or not invert
        return (l_term * np.clip(cs, 0, None)).mean()

    planes = [(rounded_luma(sr), rounded_luma(gt))]
    if channel == "rgb":
        planes = [(sr[..., i] * 1.0, gt[..., i] * 1.0) for i in range(3)]
    expected = np.mean([one(a, b) for a, b in planes])
    assert metrics.ssim(sr, gt, channel=channel) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_crop_leaves_the_border_out(metric):
    sr, gt = pair()
    spoilt = sr.copy()
    spoilt[:3], spoilt[-3:], spoilt[:, :3], spoilt[:, -3:] = 0, 255, 255, 0
    inside = metric(sr[3:-3, 3:-3], gt[3:-3, 3:-3])
    assert metric(spoilt, gt, crop=3) == inside
    assert metric(spoilt, gt) < inside


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_dtypes_and_grey_pictures_agree(metric):
    sr, gt = pair()
    expected = metric(sr, gt)
    floats = metric(sr / 255.0, gt / 255.0)
    assert floats == pytest.approx(expected, abs=1e-9)
    wide = metric(sr.astype(np.uint16) * 257, gt.astype(np.uint16) * 257)
    assert wide == pytest.approx(expected, abs=1e-9)
    grey_sr, grey_gt = sr[..., :1], gt[..., :1]
    replicated = metric(np.repeat(grey_sr, 3, 2), np.repeat(grey_gt, 3, 2))
    assert metric(grey_sr, grey_gt) == pytest.approx(replicated, abs=1e-12)
    assert metric(grey_sr[..., 0], grey_gt[..., 0]) == metric(grey_sr, grey_gt)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_errors_name_both_sides(metric):
    sr, gt = pair()
    with pytest.raises(InputError, match=r"\(39, 53, 3\) and gt \(40, 53, 3\)"):
        metric(sr[1:], gt)
    with pytest.raises(InputError, match="int64"):
        metric(sr.astype(np.int64), gt.astype(np.int64))
    with pytest.raises(InputError, match="alpha"):
        metric(np.dstack([sr, sr[..., :1]]), gt)
    with pytest.raises(InputError, match="crop of 20"):
        metric(sr, gt, crop=20)
    with pytest.raises(UsageError, match="'luma'"):
        metric(sr, gt, channel="luma")
    with pytest.raises(UsageError, match="-1"):
        metric(sr, gt, crop=-1)


@pytest.mark.parametrize("measure", ["psnr", "ssim", "sharpness", "blockiness"])
@pytest.mark.parametrize("of", ["0..255", "-1..1", "not finite"])
def test_floats_of_another_range_are_refused(measure, of):
    x = np.random.default_rng(0).random((32, 32, 3)).astype(np.float32)
    x = {"0..255": x * 255, "-1..1": x * 2 - 1, "not finite": x * np.nan}[of]
    figure = getattr(metrics, measure)
    arguments = (x,) * (2 if measure in ("psnr", "ssim") else 1)
    with pytest.raises(InputError, match=r"floats from .* expected \[0, 1\]. Divide"):
        figure(*arguments)
