"""Distances by networks: what goes in, passes, and that each picture has its figure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.errors import InputError, UsageError
from gendr_jax.metrics import perceptual
from gendr_jax.metrics.kinds import Settings
from gendr_jax.metrics.table import open_metrics
from gendr_jax.models.dinov2 import DINOv2, DINOv2Config
from gendr_jax.models.dists import DISTS, DISTSConfig
from gendr_jax.models.lpips import LPIPS, LPIPSConfig
from gendr_jax.weights import folder
from gendr_jax.weights.gendr_json import Weights

NETWORKS = {
    "lpips": (LPIPS, LPIPSConfig("alexnet")),
    "dists": (DISTS, DISTSConfig((4, 4, 4, 4, 4))),
    "dinov2": (
        DINOv2,
        DINOv2Config(
            hidden_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=42
        ),
    ),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """{kind: (folder of weights, network, parameters)}, drawn."""
    made, rng = {}, np.random.default_rng(8)
    for kind, (model, config) in NETWORKS.items():
        net = nets.build(model, config)

        def draw(leaf):
            if leaf.ndim == 1:
                return rng.uniform(0.05, 0.15, leaf.shape).astype(np.float32)
            scale = np.prod(leaf.shape[:-1]) ** -0.5
            return rng.normal(0, scale, leaf.shape).astype(np.float32)

        params = jax.tree.map(draw, net.abstract)
        for k in range(5 if kind == "lpips" else 0):  # heads are positive
            params[f"lin{k}"] = jax.tree.map(np.abs, params[f"lin{k}"])
        path = tmp_path_factory.mktemp(kind)
        folder.write(
            path, Weights(kind=kind, configs={kind: config}, params={kind: params})
        )
        made[kind] = path, net, params
    return made


def pairs(count=3, size=(40, 57)):
    rng = np.random.default_rng(9)
    gt = rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)
    other = rng.integers(0, 256, gt.shape, dtype=np.uint8)
    return [
        ((3 * a + b.astype(int)) // 4).astype(np.uint8)
        for a, b in zip(gt, other, strict=True)
    ], list(gt)


def bound(weights, kind, *pictures):
    _, net, params = weights[kind]
    return jax.jit(lambda p, *x: net.bind(p)(*x))(params, *pictures)


def test_lpips_is_that_of_the_network(weights):
    sr, gt = pairs()
    measure, told = perceptual.open_lpips(weights["lpips"][0])
    x, y = (2 * np.stack(s).astype(np.float32) / 255 - 1 for s in (sr, gt))
    expected = bound(weights, "lpips", x, y)
    np.testing.assert_allclose(measure(sr, gt), expected, rtol=1e-4)
    assert told.startswith("alexnet, sha256 ") and len(told.split()[-1]) == 12
    assert abs(measure(gt, gt)[0]) < 1e-6 < measure(sr, gt)[0]


def test_dists_takes_pictures_of_0_to_1(weights):
    sr, gt = pairs()
    measure, _ = perceptual.open_dists(weights["dists"][0])
    x, y = (np.stack(s).astype(np.float32) / 255 for s in (sr, gt))
    expected = bound(weights, "dists", x, y)
    np.testing.assert_allclose(measure(sr, gt), expected, rtol=1e-4)


@pytest.mark.parametrize("over", ["patches", "mean"])
def test_dino_compares_tokens(weights, over):
    sr, gt = pairs(size=(42, 56))  # whole patches: nothing is resized
    measure, told = perceptual.open_dinov2(weights["dinov2"][0], over)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    f, g = (
        np.asarray(
            bound(
                weights, "dinov2", ((np.stack(s) / 255 - mean) / std).astype(np.float32)
            ),
            np.float64,
        )
        for s in (sr, gt)
    )
    assert f.shape == (3, 12, 12)
    if over == "mean":
        f, g = (v.mean(1, keepdims=True) for v in (f, g))
    cosine = (f * g).sum(-1) / np.sqrt((f * f).sum(-1) * (g * g).sum(-1))
    expected = (1 - cosine).mean(1)
    np.testing.assert_allclose(measure(sr, gt), expected, atol=1e-5)
    assert expected.min() > 1e-3 > abs(measure(gt, gt)[0])
    assert "width 12" in told


@pytest.mark.parametrize(
    "size, expected",
    [((40, 57), (42, 56)), ((5, 20), (14, 14)), ((300, 2072), (154, 1036))],
)
def test_dino_sees_multiple_of_patch_of_about_the_size(size, expected):
    x = perceptual._multiple_of_patch(np.full((*size, 3), 51, np.uint8), 14)
    assert x.shape == (*expected, 3) and x.dtype == np.float32
    np.testing.assert_allclose(x, 0.2, atol=1e-6)


def test_passes_change_nothing(weights, monkeypatch):
    sr, gt = pairs(5, (32, 32))
    measure, _ = perceptual.open_dists(weights["dists"][0])
    together = measure(sr, gt)
    monkeypatch.setattr(perceptual, "PASS_PIXELS", 2 * 32 * 32)  # 2, 2 and 1
    shapes = []
    stack = np.stack
    monkeypatch.setattr(
        perceptual.np, "stack", lambda x: shapes.append(len(x)) or stack(x)
    )
    apart = measure(sr, gt)
    assert shapes == [2] * 6 and len(apart) == 5
    np.testing.assert_allclose(apart, together, rtol=1e-5)
    assert len(set(together)) == 5  # to each picture its own
    assert measure([], []) == []


def test_kinds_of_pictures_agree(weights):
    sr, gt = pairs(2, (32, 32))
    measure, _ = perceptual.open_dists(weights["dists"][0])
    expected = measure(sr, gt)
    floats = measure([a / 255.0 for a in sr], [a / 255.0 for a in gt])
    np.testing.assert_allclose(floats, expected, rtol=1e-4)
    grey, wide = [a[..., :1] for a in sr], [a.astype(np.uint16) * 257 for a in gt]
    as_rgb = measure([np.repeat(a, 3, 2) for a in grey], gt)
    np.testing.assert_allclose(measure(grey, wide), as_rgb, rtol=1e-4)


@pytest.mark.slow
def test_they_have_names(weights):
    sr, gt = pairs(1, (42, 42))
    paths = {
        "lpips": "lpips",
        "dists": "dists",
        "dino": "dinov2",
        "dino-mean": "dinov2",
    }
    settings = Settings(
        lpips=weights["lpips"][0], dists=weights["dists"][0], dino=weights["dinov2"][0]
    )
    for name, one in zip(paths, open_metrics(list(paths), settings), strict=True):
        assert one.metric.name == name and one.metric.against == "gt"
        assert "sha256" in one.protocol and "{" not in one.protocol
        (figure,) = one.measure(sr, gt)
        assert isinstance(figure, float) and figure > 0
        with pytest.raises(UsageError, match="needs weights of .*--"):
            open_metrics([name], Settings())
        with pytest.raises(InputError, match=r"42, 42, 3\) and gt \(42, 40, 3"):
            one.measure(sr, [gt[0][:, :40]])


def test_other_weights_are_refused(weights):
    with pytest.raises(InputError, match="holds dists, not lpips"):
        perceptual.open_lpips(weights["dists"][0])


def test_the_cosine_of_nothing_is_finite():
    f = jnp.zeros((1, 2, 3)).at[0, 0, 0].set(2.0)
    np.testing.assert_allclose(perceptual._cosine(f, f), [[1, 0]], atol=1e-6)
