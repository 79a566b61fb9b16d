"""DINOv2 equals transformers' Dinov2Model, on every grid, with gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.models.dinov2 import DINOv2, DINOv2Config, resample_positions

TINY = DINOv2Config(
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=3,
    mlp_ratio=3,
    image_size=84,
    layer_norm_eps=1e-3,
)
# What transformers 5 calls the layers that its files, and we, call otherwise.
MODERN = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}


def as_in_files(tensors: dict) -> dict:
    for modern, stored in MODERN.items():
        tensors = {name.replace(modern, stored): t for name, t in tensors.items()}
    return tensors


def transformers_model(config: DINOv2Config):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    return transformers.Dinov2Model(
        transformers.Dinov2Config(**dataclasses.asdict(config))
    )


@pytest.fixture(scope="module")
def theirs():
    model = transformers_model(TINY)
    from tests.helpers.torch_parity import randomise

    return randomise(model, seed=9)


@pytest.fixture(scope="module")
def ours(theirs):
    from gendr_jax.weights.foreign import names

    net = nets.build(DINOv2, TINY)
    params = names.from_torch(as_in_files(theirs.state_dict()))
    return net, jax.jit(lambda p, x: net.bind(p)(x)), params


@pytest.mark.torch
@pytest.mark.parametrize(
    "size",
    [(84, 84), (56, 56), (126, 126), (70, 112), (98, 14), (36 * 14, 14)],
    ids=lambda s: f"{s[0]}x{s[1]}",
)
def test_tokens_equal_transformers_on_any_grid(ours, theirs, size):
    """The stored grid, smaller, larger, oblong, and as many patches but not square."""
    import torch

    from tests.helpers.torch_parity import assert_close, nchw

    _, apply, params = ours
    x = np.random.default_rng(10).standard_normal((2, *size, 3), np.float32)
    with torch.no_grad():
        expected = theirs(nchw(x)).last_hidden_state[:, 1:].numpy()
    assert_close(apply(params, x), expected, f"dinov2 {size[0]}x{size[1]}")


@pytest.mark.torch
def test_each_layer_and_the_embeddings_equal_transformers(ours, theirs):
    import torch

    from tests.helpers.torch_parity import assert_close, nchw

    net, _, params = ours
    dino = net.bind(params)
    x = np.random.default_rng(11).standard_normal((1, 70, 56, 3), np.float32)
    run = jax.jit(lambda block, x: block(x), static_argnums=0)
    with torch.no_grad():
        tokens = theirs.embeddings(nchw(x))
        assert_close(run(dino.embeddings, x), tokens, "dinov2 embeddings")
        for i, layer in enumerate(theirs.encoder.layer):
            after = layer(tokens)
            got = run(dino.encoder.layer[i], tokens.numpy())
            assert_close(got, after, f"dinov2 layer {i}")
            tokens = after


@pytest.mark.torch
def test_gradients_equal_transformers(ours, theirs):
    import torch

    from gendr_jax.weights.foreign import names
    from tests.helpers.torch_parity import assert_close, assert_gradients, nchw, nhwc

    net, _, params = ours
    rng = np.random.default_rng(12)
    x = rng.standard_normal((2, 42, 70, 3), np.float32)
    direction = rng.standard_normal((2, 15, 48), np.float32)
    theirs.zero_grad()
    x_t = nchw(x).requires_grad_()
    tokens = theirs(x_t).last_hidden_state[:, 1:]
    (tokens * torch.tensor(direction)).sum().backward()
    grads, dx = jax.jit(
        jax.grad(lambda p, x: jnp.sum(net.bind(p)(x) * direction), argnums=(0, 1))
    )(params, x)
    assert_close(dx, nhwc(x_t.grad), "dinov2 dx")
    reached = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    assert_gradients(grads, names.from_torch(as_in_files(reached)), "dinov2")
    assert not np.any(grads["embeddings"]["mask_token"])


@pytest.mark.torch
@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_full_size_parameter_counts_equal_transformers(size):
    torch = pytest.importorskip("torch")
    config = getattr(DINOv2Config, size)()
    with torch.device("meta"):
        model = transformers_model(config)
    count = sum(p.numel() for p in model.parameters())
    assert nets.count(nets.build(DINOv2, config).abstract) == count


@pytest.mark.parametrize(
    "size, count",
    [("small", 22_056_576), ("base", 86_580_480), ("large", 304_368_640)],
)
def test_full_size_parameter_counts(size, count):
    config = getattr(DINOv2Config, size)()
    assert nets.count(nets.build(DINOv2, config).abstract) == count


@pytest.mark.torch
@pytest.mark.parametrize("grid", [(32, 32), (5, 9), (50, 60), (37, 20), (1, 1)])
def test_positions_are_resampled_as_torch_does_without_antialiasing(grid):
    torch = pytest.importorskip("torch")
    from tests.helpers.torch_parity import assert_close, nchw, nhwc

    table = np.random.default_rng(13).standard_normal((37, 37, 8), np.float32)
    expected = torch.nn.functional.interpolate(
        nchw(table[None]), size=grid, mode="bicubic", align_corners=False
    )
    got = resample_positions(jnp.asarray(table), grid)
    assert_close(got, nhwc(expected)[0], f"positions {grid}")


@pytest.fixture(scope="module")
def tiny_params():
    """Weights without torch."""
    rng = np.random.default_rng(14)
    return jax.tree.map(
        lambda a: 0.2 * rng.standard_normal(a.shape, np.float32),
        nets.build(DINOv2, TINY).abstract,
    )


def test_tokens_are_patches_in_row_major_order(tiny_params):
    """With one patch changed, its own token changes most."""
    net = nets.build(DINOv2, TINY)
    apply = jax.jit(lambda x: net.bind(tiny_params)(x))
    x = np.random.default_rng(15).standard_normal((1, 42, 70, 3), np.float32)
    changed = x.copy()
    changed[:, 14:28, 42:56] += 3.0  # row 1, column 3 of 3 x 5 patches
    moved = np.abs(np.asarray(apply(changed) - apply(x))).sum(-1)[0]
    assert moved.shape == (15,)
    assert moved.argmax() == 1 * 5 + 3


def test_bfloat16_compute_keeps_float32_parameters(tiny_params):
    half = nets.build(DINOv2, TINY, dtype="bfloat16")
    exact = nets.build(DINOv2, TINY)
    assert {a.dtype for a in jax.tree.leaves(half.abstract)} == {jnp.dtype("float32")}
    x = np.random.default_rng(16).standard_normal((1, 42, 28, 3), np.float32)
    out = jax.jit(lambda p: half.bind(p)(x))(tiny_params)
    expected = jax.jit(lambda p: exact.bind(p)(x))(tiny_params)
    assert out.dtype == jnp.bfloat16
    error = np.abs(np.asarray(out, np.float32) - expected).max()
    assert 0 < error < 0.05 * np.abs(expected).max()


def test_a_size_that_is_no_multiple_of_the_patch_is_refused():
    net = nets.build(DINOv2, TINY)
    with pytest.raises(
        ValueError, match="43x28 pixels are not multiples of the patch size 14"
    ):
        jax.eval_shape(
            lambda p, x: net.bind(p)(x), net.abstract, jnp.zeros((1, 43, 28, 3))
        )


def test_impossible_configs_name_the_field():
    with pytest.raises(ValueError, match="hidden_size 50.*4 heads"):
        DINOv2Config(hidden_size=50, num_attention_heads=4)
    with pytest.raises(ValueError, match="image_size 13"):
        DINOv2Config(image_size=13)
