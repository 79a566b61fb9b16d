"""DISTS equals its authors' formula on torchvision's VGG16, from their files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.errors import InputError
from gendr_jax.models.dists import DISTS, DISTSConfig, L2Pool
from gendr_jax.weights.foreign import components, dists, layouts, names, recognise

WIDTHS = (8, 16, 16, 24, 24)
STAGES = ((0, 4), (4, 9), (9, 16), (16, 23), (23, 30))


def reference(widths=WIDTHS):
    """A module with the names of the authors' ``DISTS().state_dict()``."""
    import torch
    import torch.nn as nn

    class Pool(nn.Module):
        def __init__(self, channels):
            super().__init__()
            window = np.hanning(5)[1:-1]
            plane = torch.tensor(np.outer(window, window), dtype=torch.float32)
            plane = (plane / plane.sum()).expand(channels, 1, 3, 3)
            self.register_buffer("filter", plane.clone())

        def forward(self, x):
            square = nn.functional.conv2d(
                x * x, self.filter, stride=2, padding=1, groups=x.shape[1]
            )
            return torch.sqrt(square + 1e-12)

    model, width, index = nn.Module(), 3, 0
    for k, (wide, depth) in enumerate(zip(widths, (2, 2, 3, 3, 3), strict=True)):
        stage = nn.Sequential()
        if k:
            stage.add_module(str(index), Pool(width))
            index += 1
        for _ in range(depth):
            stage.add_module(str(index), nn.Conv2d(width, wide, 3, padding=1))
            stage.add_module(str(index + 1), nn.ReLU())
            width, index = wide, index + 2
        model.add_module(f"stage{k + 1}", stage)
        assert index == STAGES[k][1]
    total = 3 + sum(widths)
    for name in ("alpha", "beta"):
        drawn = 0.1 + 0.05 * torch.rand(1, total, 1, 1)
        model.register_parameter(name, nn.Parameter(drawn))
    for name, value in (
        ("mean", [0.485, 0.456, 0.406]),
        ("std", [0.229, 0.224, 0.225]),
    ):
        model.register_buffer(name, torch.tensor(value)[None, :, None, None])
    return model


def activations(model, x):
    taps, h = [x], (x - model.mean) / model.std
    for k in range(1, 6):
        h = getattr(model, f"stage{k}")(h)
        taps.append(h)
    return taps


def distance(model, x, y):
    total = (model.alpha.sum() + model.beta.sum()).item()
    alike, start = 0.0, 0
    pairs = zip(activations(model, x), activations(model, y), strict=True)
    for f, g in pairs:
        part = slice(start, start + f.shape[1])
        start = part.stop
        mf, mg = (v.mean((2, 3), keepdim=True) for v in (f, g))
        vf, vg = (
            ((v - m) ** 2).mean((2, 3), keepdim=True) for v, m in ((f, mf), (g, mg))
        )
        covariance = (f * g).mean((2, 3), keepdim=True) - mf * mg
        s1 = (2 * mf * mg + 1e-6) / (mf**2 + mg**2 + 1e-6)
        s2 = (2 * covariance + 1e-6) / (vf + vg + 1e-6)
        both = model.alpha[:, part] * s1 + model.beta[:, part] * s2
        alike = alike + both.sum((1, 2, 3)) / total
    return 1 - alike


def pictures(seed=0, size=(45, 62)):
    """In [0, 1]: three pictures and damaged copies."""
    rng = np.random.default_rng(seed)
    x, other = rng.uniform(0, 1, (2, 3, *size, 3)).astype(np.float32)
    return x, 0.6 * x + 0.4 * other


@pytest.fixture(scope="module")
def both():
    """(torch's model, ours, our parameters read from its state dict)."""
    torch = pytest.importorskip("torch")
    from tests.helpers.torch_parity import randomise

    torch.manual_seed(3)
    theirs = reference()
    weights = theirs.alpha.data.clone(), theirs.beta.data.clone()
    theirs = randomise(theirs, seed=4)
    theirs.alpha.data, theirs.beta.data = weights
    state = {n: np.asarray(t) for n, t in theirs.state_dict().items()}
    spelling = dists.recognise(state)
    assert spelling == "dists"
    kept = {n: t for n, t in state.items() if dists.left_out(n) is None}
    assert len(state) - len(kept) == 6  # four filters, mean, std
    config = dists.config({n: t.shape for n, t in kept.items()}, spelling)
    assert config == DISTSConfig(WIDTHS)
    table = dists.layout(config, spelling)
    assert {place.name for place in table.values()} == kept.keys()
    net = nets.build(DISTS, config)
    shapes = names.torch_shapes(net.abstract)
    tensors = {n: layouts.gather(table, shapes, n, kept.__getitem__) for n in table}
    params = names.from_torch(tensors)
    nets.check_like(params, net.abstract)
    return theirs, net, params


@pytest.mark.torch
def test_distance_and_its_gradient_equal_the_authors(both):
    """In float64 there, which takes a covariance as a difference of large numbers."""
    from tests.helpers.torch_parity import assert_close, nchw, nhwc

    theirs, net, params = both
    x, y = pictures()
    x_t = nchw(x).double().requires_grad_()
    expected = distance(theirs.double(), x_t, nchw(y).double())
    expected.sum().backward()
    theirs.float()

    def total(p, x):
        distance_b = net.bind(p)(x, y)
        return jnp.sum(distance_b), distance_b

    grad, distance_b = jax.jit(jax.grad(total, 1, has_aux=True))(params, x)
    assert distance_b.dtype == jnp.float32 and np.all(np.asarray(distance_b) > 0.01)
    assert_close(distance_b, expected.detach(), "dists")
    # A unit within rounding of a ReLU's kink may fall to either side.
    error = np.abs(np.asarray(grad) - nhwc(x_t.grad))
    assert np.quantile(error, 0.99) < 1e-3 * np.abs(nhwc(x_t.grad)).max()


@pytest.mark.torch
def test_activations_equal_theirs(both):
    import torch

    from tests.helpers.torch_parity import assert_close, nchw, nhwc

    theirs, net, params = both
    x = pictures(1)[0]
    ours = jax.jit(lambda p, x: net.bind(p).activations(x))(params, x)
    with torch.no_grad():
        for k, (a, b) in enumerate(
            zip(ours, activations(theirs, nchw(x)), strict=True)
        ):
            assert_close(a, nhwc(b), f"dists feature {k}")
    assert [a.shape[1:3] for a in ours[1:]] == [
        (45, 62), (23, 31), (12, 16), (6, 8), (3, 4)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def small():
    """Fresh weights without torch, of the size that `init` draws."""
    net, rng = nets.build(DISTS, DISTSConfig(WIDTHS)), np.random.default_rng(5)

    def draw(leaf):
        if leaf.ndim == 1:  # biases, and alpha and beta
            return rng.uniform(0.05, 0.15, leaf.shape).astype(np.float32)
        fan_in = np.prod(leaf.shape[:-1])
        return rng.normal(0, fan_in**-0.5, leaf.shape).astype(np.float32)

    return net, jax.tree.map(draw, net.abstract)


def test_equal_pictures_have_distance_0_and_order_does_not_matter(small):
    net, params = small
    x, y = pictures(2)
    apply = jax.jit(lambda p, x, y: net.bind(p)(x, y))
    forth, back, none = (apply(params, *pair) for pair in ((x, y), (y, x), (x, x)))
    np.testing.assert_allclose(forth, back, rtol=1e-4)
    assert np.abs(none).max() < 1e-5 < 1e-3 < forth.min()
    assert np.all(forth < 1)


def test_a_shifted_texture_is_near(small):
    """What DISTS is for: noise against other noise of the same law."""
    net, params = small
    rng = np.random.default_rng(6)
    x, y = rng.uniform(0.2, 0.8, (2, 1, 64, 64, 3)).astype(np.float32)
    flat = np.full_like(x, 0.5)
    apply = jax.jit(lambda p, x, y: net.bind(p)(x, y)[0])
    # Means and variances agree, covariances do not: about half of the weights.
    assert float(apply(params, x, x)) < float(apply(params, x, y))
    texture = dict(params, beta=jnp.zeros_like(params["beta"]))
    assert float(apply(texture, x, y)) < 0.01 < float(apply(texture, x, flat))


def test_l2_pool_by_hand():
    x = jnp.arange(6.0).reshape(1, 6, 1, 1) * jnp.ones((1, 1, 2, 1))
    # Rows: (1 2 1) / 4 of the squares at 0, 2, 4; columns: 0, x, x -> 3 / 4.
    rows = np.array([1, 1 + 8 + 9, 9 + 32 + 25]) / 4
    expected = np.sqrt(0.75 * rows + 1e-12)
    np.testing.assert_allclose(L2Pool()(x)[0, :, 0, 0], expected, rtol=1e-6)


def test_bfloat16_changes_little(small):
    net, params = small
    x, y = pictures(2)
    half = nets.build(DISTS, net.config, dtype="bfloat16", remat="block")
    one, two = (
        jax.jit(lambda p, x, y, n=n: n.bind(p)(x, y))(params, x, y) for n in (net, half)
    )
    assert two.dtype == jnp.float32
    np.testing.assert_allclose(two, one, rtol=0.05)
    assert np.any(np.asarray(two) != np.asarray(one))


def test_full_size_and_names_as_they_are_published():
    config = DISTSConfig()
    abstract = nets.build(DISTS, config).abstract
    assert nets.count(abstract["features"]) == 14_714_688
    assert abstract["alpha"].shape == abstract["beta"].shape == (1475,)
    table = dists.layout(config, "dists")
    assert table["features.0.weight"].name == "stage1.0.weight"
    assert table["features.5.bias"].name == "stage2.5.bias"
    assert table["features.28.weight"].name == "stage5.28.weight"
    table = dists.layout(config, "torchvision")
    assert table["features.28.weight"].name == "features.28.weight"
    assert table["alpha"].shape == (1, 1475, 1, 1)
    assert [(part.start, part.stop) for part in config.slices] == list(STAGES)


def test_the_authors_file_alone_names_what_is_missing(tmp_path):
    torch = pytest.importorskip("torch")
    own = {name: torch.rand(1, 1475, 1, 1) for name in ("alpha", "beta")}
    torch.save(own, tmp_path / "weights.pt")
    found = recognise.component(tmp_path / "weights.pt", "dists")
    with pytest.raises(InputError, match="missing features.0.bias.*VGG16's file and"):
        components.read(found)


def test_files_are_recognised_by_name():
    recognise = dists.recognise
    assert recognise(["alpha", "beta"]) == "torchvision"
    assert recognise(["features.0.weight", "alpha", "beta"]) == "torchvision"
    assert recognise(["stage1.0.weight", "alpha", "beta"]) == "dists"
    assert recognise(["features.0.weight", "lin0.model.1.weight"]) is None
    assert "classifier" in dists.left_out("classifier.0.weight")
    assert "constants" in dists.left_out("stage3.9.filter")
    assert dists.left_out("stage3.10.weight") is None


def test_what_cannot_be_compared(small):
    net, _ = small

    def run(*shapes):
        pair = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        jax.eval_shape(lambda p, a, b: net.bind(p)(a, b), net.abstract, *pair)

    run(*[(1, 1, 1, 3)] * 2)
    with pytest.raises(InputError, match="64, 64, 3.*64, 65, 3"):
        run((1, 64, 64, 3), (1, 64, 65, 3))
    with pytest.raises(InputError, match=r"not \(1, 64, 64, 1\)"):
        run(*[(1, 64, 64, 1)] * 2)
    with pytest.raises(InputError, match=r"widths are \(64, 128\)"):
        DISTSConfig((64, 128))
