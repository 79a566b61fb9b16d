"""The projector and the discriminators: torch's arithmetic, starting values, shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.models.heads import (
    DiscriminatorHead,
    DiscriminatorHeadConfig,
    PatchDiscriminator,
    PatchDiscriminatorConfig,
    RepaProjector,
    RepaProjectorConfig,
)

PROJECTOR = RepaProjectorConfig(in_dim=24, hidden_dim=40, out_dim=16)
HEAD = DiscriminatorHeadConfig(in_channels=48, hidden_channels=32, norm_groups=16)
PATCH = PatchDiscriminatorConfig(widths=(16, 32, 48), norm_groups=8)


def _random(net: nets.Net, seed: int) -> nets.Params:
    """Weights that are zero nowhere, unlike the start's last layers."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: 0.3 * rng.standard_normal(a.shape, np.float32), net.abstract
    )


def _load(sequential, layers: dict[str, str], params: nets.Params) -> None:
    """Put our weights in a torch Sequential; ``layers`` maps its indices to ours."""
    import torch

    from gendr_jax.weights.foreign import names

    tensors = names.to_torch(params)
    state = {}
    for index, name in layers.items():
        for leaf in ("weight", "bias"):
            state[f"{index}.{leaf}"] = torch.tensor(tensors.pop(f"{name}.{leaf}"))
    assert not tensors, "a parameter of ours has no place in the reference"
    sequential.load_state_dict(state, strict=True)


@pytest.mark.torch
def test_projector_equals_the_mlp_of_repa():
    torch = pytest.importorskip("torch")
    from tests.helpers.torch_parity import assert_close

    net = nets.build(RepaProjector, PROJECTOR)
    params = _random(net, 1)
    nn = torch.nn
    theirs = nn.Sequential(
        nn.Linear(24, 40), nn.SiLU(), nn.Linear(40, 40), nn.SiLU(), nn.Linear(40, 16)
    )
    _load(theirs, {"0": "layers.0", "2": "layers.1", "4": "layers.2"}, params)
    x = np.random.default_rng(2).standard_normal((2, 7, 24), np.float32)
    expected = theirs(torch.tensor(x)).detach()
    assert_close(net.bind(params)(x), expected, "projector")


@pytest.mark.torch
def test_discriminator_head_equals_torch():
    torch = pytest.importorskip("torch")
    from tests.helpers.torch_parity import assert_close, nchw, nhwc

    net = nets.build(DiscriminatorHead, HEAD)
    params = _random(net, 3)
    nn = torch.nn
    theirs = nn.Sequential(
        nn.GroupNorm(16, 48),
        nn.SiLU(),
        nn.Conv2d(48, 32, 3, padding=1),
        nn.GroupNorm(16, 32),
        nn.SiLU(),
        nn.Conv2d(32, 1, 1),
    )
    _load(theirs, {"0": "norm1", "2": "conv1", "3": "norm2", "5": "conv2"}, params)
    x = np.random.default_rng(4).standard_normal((2, 5, 3, 48), np.float32)
    got = net.bind(params)(x)
    assert got.shape == (2, 5, 3, 1)
    assert_close(got, nhwc(theirs(nchw(x))), "discriminator head")
    faint = 1e-3 * x
    assert_close(net.bind(params)(faint), nhwc(theirs(nchw(faint))), "head, faint")


@pytest.mark.torch
def test_patch_discriminator_equals_torch():
    torch = pytest.importorskip("torch")
    from tests.helpers.torch_parity import assert_close, nchw, nhwc

    net = nets.build(PatchDiscriminator, PATCH)
    params = _random(net, 5)
    nn = torch.nn
    theirs = nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.GroupNorm(8, 32),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 48, 4, stride=1, padding=1),
        nn.GroupNorm(8, 48),
        nn.LeakyReLU(0.2),
        nn.Conv2d(48, 1, 4, stride=1, padding=1),
    )
    layers = {"0": "convs.0", "2": "convs.1", "3": "norms.0", "5": "convs.2"}
    _load(theirs, layers | {"6": "norms.1", "8": "conv_out"}, params)
    x = np.random.default_rng(6).uniform(-1, 1, (2, 33, 26, 3)).astype(np.float32)
    assert_close(
        jax.jit(lambda x: net.bind(params)(x))(x),
        nhwc(theirs(nchw(x))),
        "patch discriminator",
    )


def test_projector_starts_xavier_uniform_with_zero_bias():
    params = nets.build(RepaProjector, RepaProjectorConfig()).init(jax.random.key(0))
    assert nets.count(params) == 6_427_392
    dims = (320, 2048, 2048, 768)
    for i, (din, dout) in enumerate(zip(dims, dims[1:], strict=False)):
        layer = params["layers"][str(i)]
        bound = (6 / (din + dout)) ** 0.5
        kernel = np.asarray(layer["kernel"])
        assert kernel.shape == (din, dout)
        assert not np.any(layer["bias"])
        assert 0.99 * bound < np.abs(kernel).max() <= bound
        np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.01)


def test_full_size_head_is_the_one_of_the_method():
    abstract = nets.build(DiscriminatorHead, DiscriminatorHeadConfig()).abstract
    assert abstract["conv1"]["kernel"].shape == (3, 3, 1280, 256)
    assert abstract["conv2"]["kernel"].shape == (1, 1, 256, 1)
    norms = 2 * 1280 + 2 * 256
    assert nets.count(abstract) == norms + (9 * 1280 + 1) * 256 + 257


@pytest.mark.parametrize(
    "model, config, shape",
    [
        (DiscriminatorHead, HEAD, (2, 4, 6, 48)),
        (PatchDiscriminator, PATCH, (2, 32, 24, 3)),
    ],
)
def test_logits_start_at_zero_and_only_the_last_layer_learns_at_first(
    model, config, shape
):
    net = nets.build(model, config)
    params = net.init(jax.random.key(0))
    x = np.random.default_rng(7).standard_normal(shape, np.float32)

    def loss(params, x):
        logits = net.bind(params)(x)
        return jnp.sum(jax.nn.softplus(logits)), logits

    grads, logits = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x)
    assert not np.any(logits)
    assert not np.any(grads[1]), "the generator must feel nothing yet"
    last = "conv2" if model is DiscriminatorHead else "conv_out"
    assert np.any(grads[0][last]["kernel"])


def test_patch_logits_of_a_sample_do_not_depend_on_its_batch():
    net = nets.build(PatchDiscriminator, PATCH)
    params = _random(net, 8)
    x = np.random.default_rng(9).standard_normal((3, 32, 32, 3), np.float32)
    apply = jax.jit(lambda x: net.bind(params)(x))
    both, alone = np.asarray(apply(x)), np.asarray(apply(x[1:2]))
    np.testing.assert_allclose(both[1:2], alone, rtol=1e-4, atol=1e-5)


def test_images_too_small_for_the_patch_discriminator_are_refused():
    net = nets.build(PatchDiscriminator, PATCH)
    with pytest.raises(ValueError, match="8x64 pixels leave no logit after 3 levels"):
        jax.eval_shape(
            lambda p, x: net.bind(p)(x), net.abstract, jnp.zeros((1, 8, 64, 3))
        )


@pytest.mark.parametrize(
    "model, config, shape",
    [
        (RepaProjector, PROJECTOR, (1, 5, 24)),
        (DiscriminatorHead, HEAD, (1, 4, 6, 48)),
        (PatchDiscriminator, PATCH, (1, 16, 16, 3)),
    ],
)
def test_bfloat16_compute_keeps_float32_parameters(model, config, shape):
    half = nets.build(model, config, dtype="bfloat16")
    exact = nets.build(model, config)
    assert {a.dtype for a in jax.tree.leaves(half.abstract)} == {jnp.dtype("float32")}
    params = _random(half, 10)
    x = np.random.default_rng(11).standard_normal(shape, np.float32)
    run = jax.jit(lambda p: (half.bind(p)(x), exact.bind(p)(x)))
    out, expected = run(params)
    assert out.dtype == jnp.bfloat16
    error = np.abs(np.asarray(out, np.float32) - expected).max()
    assert 0 < error < 0.05 * np.abs(expected).max()
