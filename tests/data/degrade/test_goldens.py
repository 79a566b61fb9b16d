"""The whole chain against basicsr in torch, with every random number given.

The files of goldens/degrade are made by tools/make_degrade_goldens.py; they hold the
parameters of 28 draws, from which kernels are made anew here, and the reference's 8-bit
results. Noise fields come from a seed; for shot noise the reference is given the counts
of the expansion in noise.py, computed in float64 (its law: test_degrade_noise.py).
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax.data.degrade import chain, kernels, recipe
from gendr_jax.data.degrade.draws import Draws, OrderDraw
from gendr_jax.data.degrade.noise import NoiseDraw

FOLDER = Path(__file__).resolve().parents[2] / "goldens" / "degrade"
SINC, NONE = 6, 7


@pytest.fixture(scope="module")
def goldens():
    with np.load(FOLDER / "hq.npz") as hq, np.load(FOLDER / "chain.npz") as file:
        parameters = json.loads(str(file["parameters"]))
        return dict(hq), parameters, [file[f"lq{p['case']}"] for p in parameters]


@pytest.fixture(scope="module")
def results(goldens):
    hq, parameters, _ = goldens
    return [ours(hq[p["hq"]], p) for p in parameters]


def kernel(p, at):
    if p[at + "kind"] == NONE:
        return kernels.identity_kernel()
    size = jnp.int32(p[at + "size"])
    if p[at + "kind"] == SINC:
        return kernels.sinc_kernel(size, jnp.float32(p[at + "omega"]))
    names = ("sx", "sy", "theta", "beta")
    numbers = (jnp.float32(p[at + name]) for name in names)
    return kernels.blur_kernel(jnp.int32(p[at + "kind"] // 2), size, *numbers)


def order(p, k):
    place = {"place": jnp.int32(p[f"place{k}"])} if p["recipe"] == "apisr" else {}
    return OrderDraw(
        **place,
        kernel=kernel(p, f"k{k}_"),
        factor=jnp.float32(p[f"s{k}"]),
        mode=jnp.int32(p[f"mode{k}"]),
        noise=NoiseDraw(
            is_gaussian=jnp.bool_(p[f"gauss{k}"]),
            is_gray=jnp.bool_(p[f"gray{k}"]),
            gaussian_sigma=jnp.float32(p[f"sigma{k}"] / 255.0),
            poisson_scale=jnp.float32(p[f"shot{k}"]),
        ),
        quality=jnp.float32(p[f"q{k}"]),
    )


def field(p, k, size, canvas):
    """The normals of the reference at the start of a canvas, zero beyond."""
    rng = np.random.RandomState(2 * p["case"] + k - 1)
    normals = rng.standard_normal((3, *size)).astype(np.float32)
    ends = [(0, c - n) for c, n in zip(canvas, size, strict=True)]
    return jnp.asarray(np.pad(normals, ((0, 0), *ends)))


@functools.partial(jax.jit, static_argnames="settings")
def run(x_chw, draws, fields, settings):
    return chain.apply(x_chw, x_chw.shape[1:], draws, fields, settings, 4)


def ours(hq_hwc, p):
    """uint8 -> uint8 by the library, from the parameters of the reference."""
    settings = recipe(p["recipe"])
    sides = hq_hwc.shape[:2]
    first = [int(n * p["s1"]) for n in sides]
    second = [int(n // 4 * p["s2"]) for n in sides]
    noisy = (
        sides if p["place1"] == 2 else first,
        first if p["place2"] == 2 else second,
    )
    large = [2 * n for n in sides]
    fields = chain.Fields(*(field(p, k + 1, noisy[k], large) for k in (0, 1)))
    draws = Draws(
        first=order(p, 1),
        second=order(p, 2),
        has_second=jnp.bool_(p["has_second"]),
        sinc=kernel(p, "k3_"),
        last_mode=jnp.int32(p["mode3"]),
        jpeg_last=jnp.bool_(p["jpeg_last"]),
    )
    x = jnp.asarray(np.moveaxis(hq_hwc.astype(np.float32) / 255, -1, 0))
    y = np.asarray(run(x, draws, fields, settings))
    return np.clip(np.round(np.moveaxis(y, 0, -1) * 255), 0, 255).astype(np.uint8)


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
