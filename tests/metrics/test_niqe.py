"""NIQE against scipy, distributions of known shape, and the order of damages."""

import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from gendr_jax.data import photos
from gendr_jax.errors import InputError, UsageError
from gendr_jax.metrics import Pristine, fit_niqe, niqe
from gendr_jax.metrics.naturalness import FEATURES, _halved, aggd, features
from gendr_jax.metrics.niqe_files import described, open_niqe, save_niqe


def scene(seed=0, height=205, width=310):
    """Waves of three lengths and grain, uint8 HWC: texture in every block."""
    rng = np.random.default_rng(seed)
    y, x, c = np.mgrid[:height, :width, :3]
    waves = sum(
        30 * np.sin(x / length + c + seed) * np.cos(y / (0.7 * length))
        for length in (3.0, 8.0, 20.0)
    )
    grain = rng.laplace(0, 6, waves.shape)
    return np.clip(127 + waves + grain, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photographs():
    """Real ones, 300 to 640 pixels a side."""
    pytest.importorskip("skimage")
    return dict(photos.photographs())


@pytest.fixture(scope="module")
def chelsea(photographs):
    return photographs[photos.HELD_OUT]


@pytest.fixture(scope="module")
def pristine(photographs):
    """Fitted on the other seven."""
    return fit_niqe(p for n, p in photographs.items() if n != photos.HELD_OUT)


def reference_features(y):
    """Block after block with scipy, the resize from MATLAB's definition."""
    ndimage = pytest.importorskip("scipy.ndimage")
    gamma = pytest.importorskip("scipy.special").gamma
    window = np.array(
        [
            [math.exp(-(i * i + j * j) * 18 / 49) for j in range(-3, 4)]
            for i in range(-3, 4)
        ]
    )
    window /= window.sum()
    shapes = np.arange(0.2, 10.001, 0.001)
    ratios = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))

    def fit(x):
        left, right = np.sqrt((x[x < 0] ** 2).mean()), np.sqrt((x[x > 0] ** 2).mean())
        g = left / right
        r = np.abs(x).mean() ** 2 / (x**2).mean() * (g**3 + 1) * (g + 1)
        a = shapes[np.argmin((ratios - r / (g * g + 1) ** 2) ** 2)]
        return a, *(s * np.sqrt(gamma(1 / a) / gamma(3 / a)) for s in (left, right))

    def normalised(x):
        m = ndimage.convolve(x, window, mode="nearest")
        s = np.sqrt(np.abs(ndimage.convolve(x * x, window, mode="nearest") - m * m))
        return (x - m) / (s + 1)

    def half(n):  # MATLAB's contributions() for a scale of 1/2
        matrix = np.zeros((n // 2, n))
        for row in range(n // 2):
            u = (row + 1) / 0.5 + 0.5 * (1 - 1 / 0.5)
            taps = np.floor(u - 4) + np.arange(10)
            d = np.abs(0.5 * (u - taps))
            near = 1.5 * d**3 - 2.5 * d**2 + 1
            far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
            weight = 0.5 * np.where(d <= 1, near, np.where(d <= 2, far, 0))
            mirror = [*range(n), *range(n - 1, -1, -1)]
            for tap, w in zip(taps.astype(int), weight / weight.sum(), strict=True):
                matrix[row, mirror[(tap - 1) % (2 * n)]] += w
        return matrix

    rows, columns = y.shape[0] // 96, y.shape[1] // 96
    y = y[: rows * 96, : columns * 96]
    found = [[] for _ in range(rows * columns)]
    for side in (96, 48):
        n = normalised(y)
        assert np.abs(n).min() > 0  # no flat part, whose signs would be chance
        for k, numbers in enumerate(found):
            i, j = divmod(k, columns)
            block = n[i * side : (i + 1) * side, j * side : (j + 1) * side]
            a, left, right = fit(block)
            numbers += [a, (left + right) / 2]
            for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
                a, left, right = fit(block * np.roll(block, shift, (0, 1)))
                mean = (right - left) * gamma(2 / a) / gamma(1 / a)
                numbers += [a, mean, left, right]
        y = half(y.shape[0]) @ y @ half(y.shape[1]).T
    return np.array(found)


def full_range(picture):
    """In whole numbers until the last step, in which a half goes to the even side."""
    return np.round((picture.astype(np.int64) @ np.array([299, 587, 114])) / 1000)


def test_features_equal_a_loop_over_blocks():
    picture = scene(1)
    expected = reference_features(full_range(picture))
    assert expected.shape == (6, FEATURES)
    np.testing.assert_allclose(features(picture), expected, rtol=1e-9, atol=1e-12)


def test_distance_equals_the_formula():
    scipy = pytest.importorskip("scipy.linalg")
    picture = scene(2)
    rng = np.random.default_rng(0)
    root = rng.normal(size=(FEATURES, 50))
    known = Pristine(rng.normal(size=FEATURES), root @ root.T / 50)
    own = reference_features(full_range(picture))
    d = known.mean_d - own.mean(0)
    both = (known.covariance_dd + np.cov(own, rowvar=False)) / 2
    expected = math.sqrt(d @ scipy.pinv(both) @ d)
    assert niqe(picture, known) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.5, 2.0)])
def test_the_fit_recovers_a_generalised_gaussian(alpha, scales):
    rng = np.random.default_rng(int(10 * alpha))
    size = 400_000
    # |x| = scale * G^(1 / alpha) with G of a gamma distribution; a side is taken as
    # often as it is wide, or the density would jump at 0.
    magnitude = rng.gamma(1 / alpha, size=size) ** (1 / alpha)
    left = rng.uniform(size=size) < scales[0] / sum(scales)
    x = magnitude * np.where(left, -scales[0], scales[1])
    shape, left_scale, right_scale = (float(v[0]) for v in aggd(x[None]))
    assert shape == pytest.approx(alpha, rel=0.03)
    assert left_scale == pytest.approx(scales[0], rel=0.04)
    assert right_scale == pytest.approx(scales[1], rel=0.04)


def test_halving_keeps_what_is_slow():
    ramp = np.arange(96.0)[:, None] * np.ones((1, 3))
    half = _halved(ramp)
    np.testing.assert_allclose(half[2:-2, 0], np.arange(48)[2:-2] * 2 + 0.5, atol=1e-9)
    np.testing.assert_allclose(_halved(np.full((96, 2), 7.0)), 7.0, rtol=1e-12)


def jpeg(picture, quality):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file)


def test_damage_raises_it(chelsea, pristine):
    clean = Image.fromarray(chelsea)
    rng = np.random.default_rng(3)

    def noisy(sigma):
        x = np.asarray(clean) + rng.normal(0, sigma, np.asarray(clean).shape)
        return np.clip(x, 0, 255).astype(np.uint8)

    best = niqe(np.asarray(clean), pristine)
    for rising in (
        [clean.filter(ImageFilter.GaussianBlur(r)) for r in (1, 2)],
        [noisy(s) for s in (10, 25)],
        [jpeg(clean, q) for q in (40, 8)],
    ):
        some, much = (niqe(np.asarray(p), pristine) for p in rising)
        assert best < some < much


def test_kinds_of_pictures_agree(chelsea, pristine):
    expected = niqe(chelsea, pristine)
    assert niqe(chelsea / 255.0, pristine) == pytest.approx(expected, rel=1e-9)
    wide = chelsea.astype(np.uint16) * 257
    assert niqe(wide, pristine) == pytest.approx(expected, rel=1e-9)
    grey = full_range(chelsea).astype(np.uint8)
    assert niqe(grey, pristine) == pytest.approx(expected, rel=1e-9)
    assert niqe(chelsea, pristine, luma="studio") != pytest.approx(expected, rel=1e-3)


def test_crop_leaves_the_border_out(chelsea, pristine):
    spoilt = chelsea.copy()
    spoilt[:4], spoilt[-4:], spoilt[:, :4], spoilt[:, -4:] = 0, 255, 255, 0
    inside = niqe(chelsea[4:-4, 4:-4], pristine)
    assert niqe(spoilt, pristine, crop=4) == inside != niqe(spoilt, pristine)


def test_flat_blocks_have_no_spread(chelsea, pristine):
    picture = chelsea.copy()
    picture[:110, :110] = 91
    bad = np.isnan(features(picture)).any(axis=1)
    assert bad[0] and bad.sum() == 1
    assert niqe(picture, pristine) > niqe(chelsea, pristine)
    with pytest.raises(InputError, match="none of 1 blocks"):
        niqe(np.full((100, 100, 3), 91, np.uint8), pristine)


def test_sharp_blocks_alone_are_fitted_on(photographs, pristine):
    softened = []
    for name, picture in photographs.items():
        if name == photos.HELD_OUT:
            continue
        blur = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(6))
        softened.append(np.concatenate([picture, np.asarray(blur)]))  # below itself
    fitted = fit_niqe(softened)
    assert fitted.provenance == {"pictures": 7, "blocks": 77, "luma": "full"}
    assert fitted.provenance == pristine.provenance


def test_errors(chelsea, pristine):
    with pytest.raises(InputError, match="95x451 pixels, each side needs 96"):
        niqe(chelsea[:95], pristine)
    with pytest.raises(InputError, match="each side needs 336"):
        niqe(chelsea, pristine, crop=120)
    with pytest.raises(UsageError, match="'yuv'"):
        niqe(chelsea, pristine, luma="yuv")
    with pytest.raises(UsageError, match="crop is -1"):
        niqe(chelsea, pristine, crop=-1)
    with pytest.raises(InputError, match="1 pictures have .* sharp blocks.* 72"):
        fit_niqe([chelsea])
    with pytest.raises(InputError, match="0 pictures"):
        fit_niqe([])


def test_a_folder_is_fitted_and_kept(tmp_path, photographs, pristine):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, (name, picture) in enumerate(photographs.items()):
        if name != photos.HELD_OUT:
            Image.fromarray(picture).save(folder / f"{i}.png", compress_level=1)
    (folder / "notes.txt").write_text("not a picture")
    fitted = open_niqe(folder)
    np.testing.assert_array_equal(fitted.mean_d, pristine.mean_d)
    assert fitted.provenance["pictures"] == 7
    assert described(fitted).startswith("fitted on 7 pictures (")
    save_niqe(tmp_path / "kept" / "niqe.npz", fitted)
    back = open_niqe(tmp_path / "kept" / "niqe.npz")
    np.testing.assert_array_equal(back.mean_d, fitted.mean_d)
    np.testing.assert_array_equal(back.covariance_dd, fitted.covariance_dd)
    assert fitted.provenance.items() <= back.provenance.items()
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["niqe.npz"]
    with np.load(tmp_path / "kept" / "niqe.npz") as arrays:  # what BasicSR reads
        assert arrays["mu_pris_param"].shape == (1, FEATURES)
        assert arrays["gaussian_window"].shape == (7, 7)
        assert arrays["gaussian_window"].sum() == pytest.approx(1)


def test_a_folder_of_photographs_is_walked_as_every_other_one(
    tmp_path, photographs, caplog
):
    """A link to itself, a link to nothing and a name that is not UTF-8."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, picture in enumerate(photographs.values()):
        Image.fromarray(picture).save(folder / f"{number}.png")
    plain = open_niqe(folder).provenance
    (folder / "again").symlink_to(".")
    (folder / "gone.png").symlink_to("nothing")
    bad = os.fsencode(folder) + b"/\xff.png"
    with open(bad, "wb") as file:
        file.write((folder / "0.png").read_bytes())
    assert open_niqe(folder).provenance == plain
    assert "gone.png cannot be read" in caplog.text
    assert "?.png: the name is not UTF-8" in caplog.text


def test_the_authors_file_is_read(tmp_path, pristine):
    scipy = pytest.importorskip("scipy.io")
    arrays = {
        "mu_prisparam": pristine.mean_d[None],
        "cov_prisparam": pristine.covariance_dd,
    }
    scipy.savemat(tmp_path / "modelparameters.mat", arrays)
    read = open_niqe(tmp_path / "modelparameters.mat")
    np.testing.assert_array_equal(read.mean_d, pristine.mean_d)
    np.testing.assert_array_equal(read.covariance_dd, pristine.covariance_dd)
    assert described(read).startswith("modelparameters.mat (")


def test_a_photograph_that_is_too_small_is_named(tmp_path):
    for name, side in (("a.png", 100), ("b.png", 95)):
        Image.fromarray(scene(0, side, side)).save(tmp_path / name)
    with pytest.raises(InputError, match=r"b\.png: .* 95x95 .* needs 96"):
        open_niqe(tmp_path)


def test_files_that_are_none(tmp_path, pristine):
    with pytest.raises(InputError, match="does not exist"):
        open_niqe(tmp_path / "niqe.npz")
    with pytest.raises(InputError, match="has no pictures"):
        open_niqe(tmp_path)
    for name in ("bad.npz", "bad.mat"):
        (tmp_path / name).write_bytes(b"not a file of arrays")
        with pytest.raises(InputError, match=f"{name} is no"):
            open_niqe(tmp_path / name)
    np.savez(tmp_path / "other.npz", weight=np.zeros(3))
    with pytest.raises(InputError, match="has weight, not mu_pris_param"):
        open_niqe(tmp_path / "other.npz")
    whole = {"mu_pris_param": np.zeros((1, 36)), "cov_pris_param": np.eye(18)}
    np.savez(tmp_path / "small.npz", **whole)
    with pytest.raises(InputError, match=r"cov_pris_param has shape \(18, 18\)"):
        open_niqe(tmp_path / "small.npz")
    np.savez(
        tmp_path / "nan.npz", **whole | {"cov_pris_param": np.full((36, 36), np.nan)}
    )
    with pytest.raises(InputError, match="NaN"):
        open_niqe(tmp_path / "nan.npz")
    with pytest.raises(UsageError, match="does not end in .npz"):
        save_niqe(tmp_path / "niqe.mat", pristine)


def test_published_values_with_the_official_parameters(shared_data):
    """Theirs was computed in float32, hence the tolerance."""
    named = os.environ.get("GENDR_NIQE_PARAMETERS")
    if not named:
        pytest.skip("GENDR_NIQE_PARAMETERS names no file of official parameters")
    official = open_niqe(Path(named))
    folder = shared_data / "realsr"
    published = json.loads((folder / "osediff_metrics.json").read_text())
    assert len(published) >= 10
    for name, values in published.items():
        picture = np.asarray(Image.open(folder / "osediff" / name).convert("RGB"))
        assert niqe(picture, official) == pytest.approx(values["niqe"], abs=0.01), name


def test_our_own_parameters_order_as_the_published_values(shared_data):
    folder = shared_data / "realsr"
    paths = sorted((shared_data / "photos" / "train").glob("*.jpg"))[::7]
    fitted = fit_niqe(np.asarray(Image.open(p).convert("RGB")) for p in paths)
    published = json.loads((folder / "osediff_metrics.json").read_text())
    ours = [
        niqe(np.asarray(Image.open(folder / "osediff" / name).convert("RGB")), fitted)
        for name in published
    ]
    theirs = [values["niqe"] for values in published.values()]
    correlation = np.corrcoef(ours, theirs)[0, 1]
    print(f"niqe fitted on {len(paths)} photographs: Pearson {correlation:.3f}")
    assert correlation > 0.9
