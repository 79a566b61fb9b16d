"""Weights as data: building, binding, checking, and the trees of adapters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gendr_jax import nets
from gendr_jax.errors import InputError
from gendr_jax.models.heads import RepaProjector, RepaProjectorConfig
from gendr_jax.models.lora import LoRAConfig

CONFIG = RepaProjectorConfig(in_dim=3, hidden_dim=4, out_dim=5)
LORA = LoRAConfig(rank=2, alpha=4.0, targets=("layers.0", "layers.2"))


@pytest.fixture(scope="module")
def net():
    return nets.build(RepaProjector, CONFIG)


@pytest.fixture
def params(net):
    """Fresh each time: tests change it."""
    return net.init(jax.random.key(0))


def test_init_fits_the_abstract_tree_and_is_pure(net):
    plain, jitted = net.init(jax.random.key(1)), jax.jit(net.init)(jax.random.key(1))
    nets.check_like(plain, net.abstract)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    other = net.init(jax.random.key(2))
    same = net.init(jax.random.key(1))
    kernel = plain["layers"]["0"]["kernel"]
    assert np.array_equal(kernel, same["layers"]["0"]["kernel"])
    assert not np.array_equal(kernel, other["layers"]["0"]["kernel"])
    assert not np.array_equal(kernel.ravel()[:12], plain["layers"]["1"]["kernel"][:3])


def test_keys_are_those_of_nnx(net):
    key = jax.random.key(3)
    state = nnx.state(net.make(nnx.Rngs(params=key)))
    theirs = jax.tree.leaves(nnx.to_pure_dict(state))
    ours = jax.tree.leaves(net.init(key))
    assert len(ours) == len(theirs) > 2
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_bind_gives_a_callable_that_uses_exactly_these_weights(net, params):
    x = np.ones((2, 6, 3), np.float32)
    layers = params["layers"]
    h = x
    for i in "01":
        h = jax.nn.silu(h @ np.asarray(layers[i]["kernel"]))
    np.testing.assert_allclose(
        net.bind(params)(x), h @ layers["2"]["kernel"], rtol=1e-5
    )
    layers["2"]["bias"] = layers["2"]["bias"] + 1
    np.testing.assert_allclose(
        net.bind(params)(x), h @ layers["2"]["kernel"] + 1, rtol=1e-5
    )


def test_more_than_ten_items_stay_in_their_order():
    """Paths are strings, and "10" sorts before "2"; weights must not be shuffled."""
    from gendr_jax.models.dinov2 import DINOv2, DINOv2Config

    config = DINOv2Config(
        hidden_size=4, num_attention_heads=1, mlp_ratio=1, image_size=14
    )
    net = nets.build(DINOv2, config)
    params = jax.tree.map(lambda a: jnp.zeros(a.shape), net.abstract)
    for i in range(12):
        bias = params["encoder"]["layer"][str(i)]["norm1"]["bias"]
        params["encoder"]["layer"][str(i)]["norm1"]["bias"] = bias + i
    bound = net.bind(params)
    for i, layer in enumerate(bound.encoder.layer):
        assert layer.norm1.bias[...][0] == i


def test_check_like_lists_everything_at_once(net, params):
    layers = params["layers"]
    layers["0"]["kernal"] = layers["0"].pop("kernel")  # misspelt
    del layers["1"]["bias"]  # missing
    layers["3"] = {"kernel": jnp.zeros((2, 2))}  # unexpected
    layers["1"]["kernel"] = jnp.zeros((4, 9))  # misshapen
    layers["2"]["bias"] = jnp.zeros((5,), jnp.bfloat16)  # another dtype
    with pytest.raises(InputError) as error:
        nets.check_like(params, net.abstract, what="projector")
    message = str(error.value)
    assert message.startswith("projector: 6 tensors do not fit: ")
    for part in (
        "missing layers.0.kernel (nearest: layers.0.kernal)",
        "missing layers.1.bias",
        "unexpected layers.0.kernal",
        "unexpected layers.3.kernel",
        "layers.1.kernel has shape (4, 9), expected (4, 4)",
        "layers.2.bias has dtype bfloat16, expected float32",
    ):
        assert part in message
    assert "\n" not in message


def test_check_like_accepts_arrays_of_any_kind(net, params):
    nets.check_like(params, net.abstract)
    nets.check_like(jax.tree.map(np.asarray, params), net.abstract)
    nets.check_like(net.abstract, net.abstract)


@pytest.mark.parametrize("change", ["rename", "drop", "add", "move"])
def test_bind_refuses_a_wrong_tree_that_nnx_would_take(net, params, change):
    """NNX merges by position: a misspelt key alone would go unnoticed."""
    layers = params["layers"]
    if change == "rename":
        layers["0"]["kernal"] = layers["0"].pop("kernel")
    elif change == "drop":
        del layers["0"]["bias"]
    elif change == "add":
        layers["0"]["extra"] = jnp.zeros(1)
    else:
        params["other"] = layers.pop("1")
    with pytest.raises(InputError, match="RepaProjectorConfig: . tensors do not fit"):
        net.bind(params)


def test_flatten_and_unflatten_are_inverse(params):
    flat = nets.flatten(params)
    assert ("layers", "0", "kernel") in flat
    assert len(flat) == 6
    again = nets.unflatten(dict(reversed(flat.items())))
    assert jax.tree.structure(again) == jax.tree.structure(params)
    assert again["layers"]["2"]["bias"] is params["layers"]["2"]["bias"]


def test_count_and_cast(net, params):
    assert nets.count(params) == nets.count(net.abstract) == 16 + 20 + 25
    half = nets.cast(params, "bfloat16")
    assert {a.dtype for a in jax.tree.leaves(half)} == {jnp.dtype("bfloat16")}
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_overlay_and_split_are_inverse_and_copy_nothing():
    net = nets.build(RepaProjector, CONFIG, lora=LORA)
    params = net.init(jax.random.key(0))
    base, adapters = nets.split_lora(params)
    assert set(nets.flatten(adapters)) == {
        ("layers", layer, leaf) for layer in "02" for leaf in ("lora_a", "lora_b")
    }
    nets.check_like(base, nets.build(RepaProjector, CONFIG).abstract)
    again = nets.overlay(base, adapters)
    nets.check_like(again, net.abstract)
    for path, leaf in nets.flatten(again).items():
        assert leaf is nets.flatten(params)[path]
    assert nets.overlay(base, None) is base


def test_adapters_that_match_no_layer_are_refused():
    with pytest.raises(ValueError, match="No layer matches.*to_q"):
        nets.build(RepaProjector, CONFIG, lora=LoRAConfig(targets=("to_q",)))
