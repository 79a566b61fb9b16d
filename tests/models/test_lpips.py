"""LPIPS equals the lpips package's formula on torchvision's trunks, from its files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.errors import InputError
from gendr_jax.models.lpips import LPIPS, SHIFT, TRUNKS, LPIPSConfig, _unit
from gendr_jax.weights.foreign import layouts, lpips, names

NETS = ["vgg16", "alexnet"]
SIZES = {"vgg16": (51, 39), "alexnet": (67, 91)}
# torchvision's ``features`` as a string; "C64,3,1,1" is width, kernel, stride, padding.
FEATURES = {
    "vgg16": "C64,3,1,1 R C64,3,1,1 R M2 C128,3,1,1 R C128,3,1,1 R M2 "
    "C256,3,1,1 R C256,3,1,1 R C256,3,1,1 R M2 C512,3,1,1 R C512,3,1,1 R C512,3,1,1 R "
    "M2 C512,3,1,1 R C512,3,1,1 R C512,3,1,1 R M2",
    "alexnet": "C64,11,4,2 R M3 C192,5,1,2 R M3 C384,3,1,1 R C256,3,1,1 R "
    "C256,3,1,1 R M3",
}
# Where the lpips package cuts them, and the widths of its heads.
CUTS = {"vgg16": (0, 4, 9, 16, 23, 30), "alexnet": (0, 2, 5, 8, 10, 12)}
WIDTHS = {"vgg16": (64, 128, 256, 512, 512), "alexnet": (64, 192, 384, 256, 256)}


def torchvision_features(net: str):
    import torch.nn as nn

    layers, width = [], 3
    for word in FEATURES[net].split():
        if word[0] == "C":
            out, kernel, stride, padding = map(int, word[1:].split(","))
            layers.append(nn.Conv2d(width, out, kernel, stride, padding))
            width = out
        else:
            layers.append(nn.ReLU() if word == "R" else nn.MaxPool2d(int(word[1:]), 2))
    return nn.Sequential(*layers)


def reference(net: str, features=None, dropout: bool = True):
    """A module with the names of ``lpips.LPIPS().state_dict()``."""
    import torch
    import torch.nn as nn

    features = features or torchvision_features(net)
    model = nn.Module()
    model.scaling_layer = nn.Module()
    for name, value in (
        ("shift", [-0.030, -0.088, -0.188]),
        ("scale", [0.458, 0.448, 0.450]),
    ):
        tensor = torch.tensor(value)[None, :, None, None]
        model.scaling_layer.register_buffer(name, tensor)
    model.net = nn.Module()
    for k in range(5):
        part = nn.Sequential()
        for i in range(CUTS[net][k], CUTS[net][k + 1]):
            part.add_module(str(i), features[i])
        model.net.add_module(f"slice{k + 1}", part)
    heads = []
    for k, width in enumerate(WIDTHS[net]):
        conv = nn.Conv2d(width, 1, 1, bias=False)
        head = nn.Module()
        head.model = (
            nn.Sequential(nn.Dropout(), conv) if dropout else nn.Sequential(conv)
        )
        model.add_module(f"lin{k}", head)
        heads.append(head)
    model.lins = nn.ModuleList(heads)
    return model


def distance(model, a, b):
    """The formula of the lpips package, version 0.1."""
    import torch

    def scaled(x):
        return (x - model.scaling_layer.shift) / model.scaling_layer.scale

    def unit(x):
        return x / (torch.sqrt(torch.sum(x**2, dim=1, keepdim=True)) + 1e-10)

    a, b, total = scaled(a), scaled(b), 0.0
    for part, head in zip(model.net.children(), model.lins, strict=True):
        a, b = part(a), part(b)
        total = total + head.model((unit(a) - unit(b)) ** 2).mean([2, 3])[:, 0]
    return total


def read(state: dict) -> tuple[LPIPSConfig, nets.Params]:
    """Parameters from foreign tensors, as a loader would go about it."""
    state = {name: np.asarray(tensor) for name, tensor in state.items()}
    config = lpips.config({name: t.shape for name, t in state.items()})
    table = lpips.layout(
        config, lpips.recognise(state), dropout=lpips.has_dropout(state)
    )
    assert {n for n in state if not lpips.left_out(n)} == {
        place.name for place in table.values()
    }
    shapes = names.torch_shapes(nets.build(LPIPS, config).abstract)
    tensors = {n: layouts.gather(table, shapes, n, state.__getitem__) for n in table}
    params = names.from_torch(tensors)
    nets.check_like(params, nets.build(LPIPS, config).abstract)
    return config, params


def pictures(net: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(-1, 1, (2, 3, *SIZES[net], 3)).astype(np.float32)
    return a, 0.6 * a + 0.4 * b  # near, as a restored picture is


@pytest.fixture(scope="module", params=NETS)
def both(request):
    """(name, torch's model, our config, our parameters read from its state dict)."""
    pytest.importorskip("torch")
    from tests.helpers.torch_parity import randomise

    theirs = randomise(reference(request.param), seed=21)
    for head in theirs.lins:
        head.model[1].weight.data.abs_()  # as the published ones
    config, params = read(theirs.state_dict())
    assert config == LPIPSConfig(request.param)
    return request.param, theirs, config, params


@pytest.mark.torch
def test_distance_and_its_gradient_equal_the_package(both):
    """A unit within rounding of a ReLU's or max-pool's kink may fall to either side.

    torch's own float32 and float64 gradients then part by up to a percent, in about
    one picture of ten; hence one picture of three has to agree, and no other be far.
    """
    from tests.helpers.torch_parity import TOLERANCE, assert_close, nchw, nhwc

    net, theirs, config, params = both
    a, b = pictures(net, 22)
    a_t = nchw(a).requires_grad_()
    expected = distance(theirs, a_t, nchw(b))
    expected.sum().backward()
    lpips = nets.build(LPIPS, config)

    def total(p, x):
        distance_b = lpips.bind(p)(x, b)
        return jnp.sum(distance_b), distance_b

    grad, distance_b = jax.jit(jax.grad(total, 1, has_aux=True))(params, a)
    assert distance_b.dtype == jnp.float32 and np.all(np.asarray(distance_b) > 0)
    assert_close(distance_b, expected.detach(), f"lpips {net}")
    wanted = nhwc(a_t.grad)
    scale_b = np.abs(wanted).max((1, 2, 3))
    error_b = np.abs(np.asarray(grad) - wanted).max((1, 2, 3)) / scale_b
    print(f"parity lpips {net} gradient of each picture: {error_b}")
    assert error_b.min() <= TOLERANCE and error_b.max() <= 0.1


@pytest.mark.torch
def test_activations_equal_torchvisions_relus(both):
    import torch

    from tests.helpers.torch_parity import assert_close, nchw, nhwc

    net, theirs, config, params = both
    x = pictures(net, 23)[0]
    lpips = nets.build(LPIPS, config)
    ours = jax.jit(lambda p, x: lpips.bind(p).activations(x))(params, x)
    with torch.no_grad():
        h = (nchw(x) - theirs.scaling_layer.shift) / theirs.scaling_layer.scale
        for k, part in enumerate(theirs.net.children()):
            h = part(h)
            assert_close(ours[k], nhwc(h), f"lpips {net} relu{k + 1}")
    assert len(ours) == 5


@pytest.mark.torch
@pytest.mark.parametrize("dropout", [True, False])
@pytest.mark.parametrize("net", NETS)
def test_the_two_files_give_the_weights_of_the_whole(net, dropout):
    torch = pytest.importorskip("torch")
    trunk = torch.nn.Module()
    trunk.features = torchvision_features(net)
    trunk.classifier = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(4, 2))
    whole = reference(net, trunk.features, dropout).state_dict()
    heads = {n: t for n, t in whole.items() if n.startswith("lin") and n[3] != "s"}
    assert len(heads) == 5 and lpips.has_dropout(heads) is dropout
    for part in (trunk.state_dict(), heads):
        shapes = {name: tuple(t.shape) for name, t in part.items()}
        assert lpips.config(shapes) == LPIPSConfig(net)
    config, params = read({**trunk.state_dict(), **heads})
    same, expected = read(whole)
    assert config == same == LPIPSConfig(net)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.parametrize("dropout", [True, False])
@pytest.mark.parametrize("spelling", ["torchvision", "lpips"])
@pytest.mark.parametrize("net", NETS)
def test_layouts_are_bijective(net, spelling, dropout):
    config = LPIPSConfig(net)
    shapes = names.torch_shapes(nets.build(LPIPS, config).abstract)
    table = lpips.layout(config, spelling, dropout=dropout)
    assert table.keys() == shapes.keys()
    tensors = {
        name: np.broadcast_to(np.float32(i), shape)
        for i, (name, shape) in enumerate(shapes.items())
    }
    foreign = layouts.scatter(table, tensors)
    assert len(foreign) == len(tensors)
    assert {n: t.shape for n, t in foreign.items()} == layouts.foreign_shapes(table)
    assert lpips.recognise(foreign) == spelling
    assert lpips.has_dropout(foreign) is dropout
    assert lpips.config(layouts.foreign_shapes(table)) == config
    for name in shapes:
        back = layouts.gather(table, shapes, name, foreign.__getitem__)
        np.testing.assert_array_equal(back, tensors[name])


def test_names_as_they_are_published():
    table = lpips.layout(LPIPSConfig(), "lpips")
    assert table["features.0.weight"].name == "net.slice1.0.weight"
    assert table["features.5.bias"].name == "net.slice2.5.bias"
    assert table["features.28.weight"].name == "net.slice5.28.weight"
    assert table["lin3.weight"].name == "lin3.model.1.weight"
    table = lpips.layout(LPIPSConfig("alexnet"), "torchvision", dropout=False)
    assert table["features.10.weight"].name == "features.10.weight"
    assert table["lin4.weight"].name == "lin4.model.0.weight"


@pytest.mark.parametrize("net, trunk", [("vgg16", 14_714_688), ("alexnet", 2_469_696)])
def test_full_size_parameter_counts(net, trunk):
    abstract = nets.build(LPIPS, LPIPSConfig(net)).abstract
    assert nets.count(abstract["features"]) == trunk
    heads = [abstract[f"lin{k}"]["kernel"] for k in range(5)]
    assert tuple(head.shape for head in heads) == tuple(
        (1, 1, width, 1) for width in WIDTHS[net]
    )
    assert nets.count(abstract) == trunk + sum(WIDTHS[net])


@pytest.fixture(scope="module")
def alexnet():
    """Fresh weights without torch; biases away from 0."""
    net = nets.build(LPIPS, LPIPSConfig("alexnet"))
    params = jax.jit(net.init)(jax.random.key(24))
    return net, jax.tree.map(lambda x: x + 0.05 if x.ndim == 1 else x, params)


def test_equal_pictures_have_distance_0_and_a_finite_gradient(alexnet):
    net, params = alexnet
    a, b = pictures("alexnet", 25)
    apply = jax.jit(jax.value_and_grad(lambda p, x, y: jnp.sum(net.bind(p)(x, y)), 1))
    forth, steep = apply(params, a, b)
    back, _ = apply(params, b, a)
    np.testing.assert_allclose(forth, back, rtol=1e-5)
    # Not exactly 0: XLA may round the two sides differently.
    value, grad = apply(params, a, a)
    assert 0 <= value < 1e-9 * forth
    assert np.all(np.isfinite(grad))
    assert np.abs(grad).max() < 1e-3 * np.abs(steep).max()
    # Features that are 0 in every channel, of both pictures, then of one of them.
    dead = jax.tree.map(jnp.zeros_like, params)
    dead |= {f"lin{k}": params[f"lin{k}"] for k in range(5)}
    value, grad = apply(dead, a, b)
    assert value == 0 and not np.any(grad)
    grey = np.broadcast_to(np.float32(SHIFT), a.shape)  # 0 after the scaling layer
    first = params["features"]["0"] | {"bias": jnp.full((64,), -0.1)}
    half_dead = params | {"features": params["features"] | {"0": first}}
    activations = jax.jit(lambda p, x: net.bind(p).activations(x)[0])
    assert not np.any(activations(half_dead, grey))
    value, grad = apply(half_dead, grey, b)
    assert value > 0 and np.all(np.isfinite(grad))


def test_normalising_nothing_has_a_finite_gradient():
    """By itself, not only because the ReLU before it lets nothing through."""
    x = jnp.zeros((1, 1, 2, 3)).at[0, 0, 1].set(jnp.arange(3.0))
    grad = jax.grad(lambda x: jnp.sum(_unit(x)))(x)
    assert np.all(np.isfinite(grad))
    length = np.sqrt(5)
    np.testing.assert_allclose(
        grad[0, 0, 1], 1 / length - np.arange(3) * 3 / length**3, rtol=1e-5
    )


def test_remat_changes_nothing_and_bfloat16_little(alexnet):
    net, params = alexnet
    a, b = pictures("alexnet", 26)

    def gradient(dtype, remat):
        other = nets.build(LPIPS, net.config, dtype=dtype, remat=remat)
        loss = jax.value_and_grad(lambda p, x: jnp.sum(other.bind(p)(x, b)), 1)
        return jax.jit(loss)(params, a)

    value, grad = gradient("float32", "none")
    same, again = gradient("float32", "block")
    np.testing.assert_allclose(same, value, rtol=1e-6)
    np.testing.assert_allclose(again, grad, atol=1e-5 * np.abs(grad).max())
    half, _ = gradient("bfloat16", "none")
    assert half.dtype == jnp.float32 and 0 < abs(half - value) < 0.05 * value


@pytest.mark.parametrize("net", NETS)
def test_the_smallest_picture_and_those_refused(net):
    lpips = nets.build(LPIPS, LPIPSConfig(net))
    least = TRUNKS[net].least

    def run(*shapes):
        pair = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        return jax.eval_shape(
            lambda p, a, b: lpips.bind(p)(a, b), lpips.abstract, *pair
        )

    assert run(*[(1, least, least, 3)] * 2).shape == (1,)
    bound = lpips.bind(lpips.abstract)
    assert len(bound.features) == CUTS[net][-1]
    with pytest.raises(InputError, match=f"sides of {least} .*not 64x{least - 1} of 3"):
        run(*[(1, 64, least - 1, 3)] * 2)
    with pytest.raises(InputError, match="not 64x64 of 1"):
        run(*[(1, 64, 64, 1)] * 2)
    with pytest.raises(InputError, match="64, 64, 3.*64, 65, 3"):
        run((1, 64, 64, 3), (1, 64, 65, 3))


@pytest.mark.parametrize("net", NETS)
def test_one_pixel_less_leaves_no_feature(net):
    """The smallest size is the network's, not a rule of thumb."""
    lpips = nets.build(LPIPS, LPIPSConfig(net))

    def trunk(p, x):
        for layer in lpips.bind(p).features:
            x = layer(x)
        return x

    for side, left in ((TRUNKS[net].least, 1), (TRUNKS[net].least - 1, 0)):
        x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        assert jax.eval_shape(trunk, lpips.abstract, x).shape[1:3] == (left, left)


def test_an_unknown_trunk_is_refused():
    with pytest.raises(InputError, match="'squeeze'.*vgg16, alexnet"):
        LPIPSConfig("squeeze")


def test_files_are_recognised_by_name():
    recognise = lpips.recognise
    assert recognise(["net.slice1.0.weight", "lin0.model.1.weight"]) == "lpips"
    assert recognise(["features.0.weight", "classifier.0.bias"]) == "torchvision"
    assert recognise(["features.0.weight", "lin0.model.1.weight"]) == "torchvision"
    assert recognise(["lin0.model.1.weight"]) == "lin"
    assert recognise(["lin0.model.0.weight"]) == "lin"
    assert recognise(["conv_in.weight", "features.conv0.weight"]) is None


def test_what_is_left_out_and_why():
    left_out = lpips.left_out
    assert "classifier" in left_out("classifier.6.weight")
    assert "second time" in left_out("lins.0.model.1.weight")
    assert "constants" in left_out("scaling_layer.shift")
    for name in ("features.0.weight", "net.slice1.0.bias", "lin0.model.1.weight"):
        assert left_out(name) is None


def test_weights_of_another_network_are_refused():
    table = lpips.layout(LPIPSConfig(), "torchvision")
    vgg19 = layouts.foreign_shapes(table) | {"features.16.weight": (256, 256, 3, 3)}
    with pytest.raises(
        InputError, match="1 of 32.*of vgg16.*features.16.weight.*no such"
    ):
        lpips.config(vgg19)
    wider = layouts.foreign_shapes(table) | {"lin1.model.1.weight": (1, 96, 1, 1)}
    with pytest.raises(InputError, match=r"\(1, 96, 1, 1\), expected \(1, 128, 1, 1\)"):
        lpips.config(wider)
    with pytest.raises(InputError, match="none of the 1 tensors"):
        lpips.config({"conv1.weight": (64, 3, 7, 7)})
