"""The whole chain against basicsr in torch, with every random number given.

The files of goldens/degrade are made by tools/make_degrade_goldens.py; they hold the
parameters of 28 draws, from which kernels are made anew here, and the reference's 8-bit
results. Noise fields come from a seed; for shot noise the reference is given the counts
of the expansion in noise.py, computed in float64 (its law: test_degrade_noise.py).
"""

import json
from pathlib import Path

import numpy as np
import pytest

from gendr_jax.data.degrade import recipe
from tools.degrade_parameters import NONE, SINC, ours

FOLDER = Path(__file__).resolve().parents[2] / "goldens" / "degrade"


@pytest.fixture(scope="module")
def goldens():
    with np.load(FOLDER / "hq.npz") as hq, np.load(FOLDER / "chain.npz") as file:
        parameters = json.loads(str(file["parameters"]))
        return dict(hq), parameters, [file[f"lq{p['case']}"] for p in parameters]


@pytest.fixture(scope="module")
def results(goldens):
    hq, parameters, _ = goldens
    return [ours(hq[p["hq"]], p) for p in parameters]


def psnr(a, b):
    error = np.mean(np.square(a.astype(float) - b))
    return np.inf if error == 0 else 10 * np.log10(255**2 / error)


def is_gaussian(p):
    second = p["gauss2"] if p["has_second"] else 1
    return bool(p["gauss1"] and second)


def test_the_draws_cover_the_stages(goldens):
    hq, parameters, _ = goldens
    assert len(parameters) == 28 and set(hq) == {"square", "wide", "flat"}
    for name, values in {
        "k1_kind": range(7),
        "mode1": range(3),
        "mode2": range(3),
        "mode3": range(3),
        "jpeg_last": (0, 1),
        "gray1": (0, 1),
        "gray2": (0, 1),
        "has_second": (0, 1),
        "sharpen": (0, 1),
        "k2_kind": (0, 1, SINC, NONE),
        "k3_kind": (SINC, NONE),
    }.items():
        assert {p[name] for p in parameters} >= set(values), name
    for k in (1, 2):
        ways = {np.sign(p[f"s{k}"] - 1) for p in parameters}
        assert ways == {-1, 0, 1}
    assert sum(is_gaussian(p) for p in parameters) >= 18


def test_the_presets_named_sharpen_as_the_reference_did(goldens):
    """A preset that has changed since the files were made shows here first."""
    _, parameters, _ = goldens
    for p in parameters:
        assert recipe(p["recipe"]).sharpen == bool(p["sharpen"]), p["case"]


def test_every_draw_is_within_50_db(goldens, results):
    _, parameters, expected = goldens
    for p, want, got in zip(parameters, expected, results, strict=True):
        assert got.shape == want.shape
        assert psnr(got, want) >= 50, (p["case"], psnr(got, want))


def test_hardly_any_value_differs(goldens, results):
    _, _, expected = goldens
    shares = [np.mean(a != b) for a, b in zip(expected, results, strict=True)]
    assert np.median(shares) < 1e-3


def test_another_parameter_shows(goldens):
    """What 50 dB means: one step of quality, one mode or one kernel is far below."""
    hq, parameters, expected = goldens
    p, want = parameters[0], expected[0]
    for change in (
        {"q2": p["q2"] - 5},
        {"mode1": (p["mode1"] + 1) % 3},
        {"k1_sx": p["k1_sx"] + 0.3, "k1_sy": p["k1_sy"] + 0.3},
        {"jpeg_last": 1 - p["jpeg_last"]},
    ):
        assert psnr(ours(hq[p["hq"]], p | change), want) < 50, change
