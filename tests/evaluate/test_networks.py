"""LPIPS and DISTS from files as they are published to the figures of `gendr evaluate`.

The files have the published names and shapes and random numbers; the figures are those
of PyTorch on the same files, by the formulas of the papers.
"""

import json
import re

import numpy as np
import pytest

from gendr_jax.evaluate import methods
from tests.helpers.tiny_commands import gendr
from tests.helpers.tiny_pictures import write

torch = pytest.importorskip("torch")
F = torch.nn.functional

ALEX = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3)}
ALEX |= {10: (256, 256, 3)}
STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # of VGG16
WIDTHS = (64, 128, 256, 512, 512)
NAMES = ["a.png", "b.png"]


def layers(shapes):
    """`features.N.weight` and `.bias`, and a classifier that neither network uses."""
    drawn = {"classifier.6.weight": torch.zeros(2, 3)}
    drawn["classifier.6.bias"] = torch.zeros(2)
    for i, (out, inside, side) in shapes.items():
        scale = (2 / (inside * side * side)) ** 0.5
        drawn[f"features.{i}.weight"] = torch.randn(out, inside, side, side) * scale
        drawn[f"features.{i}.bias"] = torch.randn(out) * 0.05
    return drawn


def vgg_shapes():
    shapes, inside = {}, 3
    for stage, width in zip(STAGES, WIDTHS, strict=True):
        for i in stage:
            shapes[i] = (width, inside, 3)
            inside = width
    return shapes


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(folder of LPIPS' two files, of DISTS' two files, all tensors)."""
    torch.manual_seed(3)
    root = tmp_path_factory.mktemp("published")
    alex, vgg = layers(ALEX), layers(vgg_shapes())
    heads = {
        f"lin{k}.model.1.weight": torch.rand(1, shape[0], 1, 1)
        for k, shape in enumerate(ALEX.values())
    }
    weights = {k: torch.rand(1, 3 + sum(WIDTHS), 1, 1) for k in ("alpha", "beta")}
    files = {
        "lpips/alexnet-owt-7be5be79.pth": alex,
        "lpips/alex.pth": heads,
        "dists/vgg16-397923af.pth": vgg,
        "dists/weights.pt": weights,
    }
    for name, tensors in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        torch.save(tensors, root / name)
    return root / "lpips", root / "dists", (alex, heads, vgg, weights)


def lpips(alex, heads, a, b):
    def features(x):
        shift, scale = ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450])
        x = 2 * x - 1
        for k, value in enumerate(shift):
            x[:, k] = (x[:, k] - value) / scale[k]
        for i in ALEX:
            if i in (3, 6):
                x = F.max_pool2d(x, 3, 2)
            w, bias = alex[f"features.{i}.weight"], alex[f"features.{i}.bias"]
            stride, padding = {0: (4, 2), 3: (1, 2)}.get(i, (1, 1))
            x = F.relu(F.conv2d(x, w, bias, stride=stride, padding=padding))
            yield x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)

    pairs = zip(features(a), features(b), strict=True)
    return sum(
        F.conv2d((f - g).square(), heads[f"lin{k}.model.1.weight"]).mean().item()
        for k, (f, g) in enumerate(pairs)
    )


def dists(vgg, weights, a, b):
    window = torch.tensor([0.25, 0.5, 0.25])

    def features(x):
        yield x
        mean = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None]
        x = (x - mean) / torch.tensor([0.229, 0.224, 0.225])[None, :, None, None]
        for stage in STAGES:
            if stage[0]:
                taps = torch.outer(window, window).expand(x.shape[1], 1, 3, 3)
                x = F.conv2d(x**2, taps, stride=2, padding=1, groups=x.shape[1])
                x = (x + 1e-12).sqrt()
            for i in stage:
                w, bias = vgg[f"features.{i}.weight"], vgg[f"features.{i}.bias"]
                x = F.relu(F.conv2d(x, w, bias, padding=1))
            yield x

    total = weights["alpha"].sum() + weights["beta"].sum()
    sizes, similar = [3, *WIDTHS], 0.0
    split = [torch.split(weights[k] / total, sizes, 1) for k in ("alpha", "beta")]
    for f, g, alpha, beta in zip(features(a), features(b), *split, strict=True):
        (m, n), (v, w) = (
            [t.mean((2, 3), keepdim=True) for t in (f, g)],
            [t.var((2, 3), correction=0, keepdim=True) for t in (f, g)],
        )
        both = (f * g).mean((2, 3), keepdim=True) - m * n
        similar += (alpha * (2 * m * n + 1e-6) / (m**2 + n**2 + 1e-6)).sum().item()
        similar += (beta * (2 * both + 1e-6) / (v + w + 1e-6)).sum().item()
    return 1 - similar


def test_figures_are_those_of_pytorch(published, tmp_path):
    """LPIPS from the published files themselves, DISTS from what was made of them."""
    lpips_files, dists_files, (alex, heads, vgg, weights) = published
    sr = write(tmp_path / "sr", NAMES, (70, 84), noise=30)
    gt = write(tmp_path / "gt", NAMES, (70, 84))
    converted = tmp_path / "dists"
    assert gendr("convert", dists_files, "-o", converted) == 0
    given = ["--sr", sr, "--gt", gt, "--metrics", "lpips,dists"]
    given += ["--lpips", lpips_files, "--dists", converted]
    assert gendr("evaluate", *given, "-o", tmp_path / "r.json") == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert "alexnet" in found["protocol"]["lpips"]
    for name in NAMES:
        pair = [
            torch.from_numpy(methods.read(f / name).astype(np.float32) / 255)
            .permute(2, 0, 1)[None]
            .clone()
            for f in (sr, gt)
        ]
        own = found["images"][name.removesuffix(".png")]
        expected = lpips(alex, heads, *pair), dists(vgg, weights, *pair)
        assert min(expected) > 1e-3
        assert own["lpips"] == pytest.approx(expected[0], rel=2e-5, abs=1e-6)
        assert own["dists"] == pytest.approx(expected[1], rel=2e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("flag", "name", "said"),
    [
        ("lpips", "nowhere", "nowhere does not exist. Check the path"),
        ("lpips", "lpips/alex.pth", "10 tensors do not fit.* trunk and of the heads"),
        ("lpips", "lpips/alexnet-owt-7be5be79.pth", "trunk and of the heads"),
        ("lpips", "dists", "holds dists, not lpips"),
        ("dists", "dists/weights.pt", "and [0-9]+ more.* VGG16's file and weights.pt"),
        ("dists", "lpips", "holds lpips, not dists"),
    ],
)
def test_a_wrong_or_absent_file_is_one_line(
    published, tmp_path, capsys, monkeypatch, flag, name, said
):
    monkeypatch.setenv("GENDR_DEBUG", "")
    sr = write(tmp_path / "sr", NAMES)
    given = ["--sr", sr, "--gt", sr, "--metrics", flag, f"--{flag}"]
    assert gendr("evaluate", *given, published[0].parent / name) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(said, line)
