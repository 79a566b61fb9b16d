"""Adapters equal PEFT's, cost less than a full update, and merge exactly."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gendr_jax import nets
from gendr_jax.models.heads import PatchDiscriminator, PatchDiscriminatorConfig
from gendr_jax.models.layers import Linear
from gendr_jax.models.lora import ATTENTION_TARGETS, UNET_TARGETS, LoRAConfig
from gendr_jax.models.unet import UNet, UNetConfig

CONFIG = UNetConfig(
    in_channels=4,
    out_channels=4,
    block_out_channels=(16, 32),
    layers_per_block=1,
    heads=(1, 2),
    attention=(True, False),
    cross_attention_dim=12,
    norm_groups=8,
)
LORA = LoRAConfig(rank=3, alpha=5.0)
# A few strided convolutions: what needs no UNet compiles in a second.
STACK = PatchDiscriminatorConfig(widths=(32, 64, 64))
STACK_LORA = LoRAConfig(rank=4, alpha=8.0, targets=("convs.0", "convs.1", "convs.2"))


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(1)
    z = rng.standard_normal((2, 7, 5, 4), np.float32)
    context = rng.standard_normal((2, 3, 12), np.float32)
    return z, np.array([20, 700]), context


@pytest.fixture(scope="module")
def net():
    return nets.build(UNet, CONFIG, lora=LORA)


@pytest.fixture(scope="module")
def apply(net):
    return jax.jit(lambda params, *x: net.bind(params)(*x)[0])


@pytest.fixture(scope="module")
def roles(net):
    """One base and two trained adapters, as (base, {name: adapters})."""
    rng = np.random.default_rng(2)

    def draw(tree):
        return jax.tree.map(
            lambda a: 0.2 * rng.standard_normal(a.shape, np.float32), tree
        )

    base, adapters = nets.split_lora(net.abstract)
    return draw(base), {"fake": draw(adapters), "real": draw(adapters)}


@pytest.fixture(scope="module")
def peft_unet():
    """diffusers' UNet with a PEFT adapter of random A and B; its base, its adapter."""
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    peft = pytest.importorskip("peft")
    import torch

    from gendr_jax.weights.foreign import names
    from tests.helpers.torch_parity import params_of, randomise

    module = diffusers.UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=(1, 2),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        norm_num_groups=8,
        use_linear_projection=True,
    )
    randomise(module, seed=3)
    base = params_of(module)
    module.add_adapter(
        peft.LoraConfig(r=3, lora_alpha=5, target_modules=list(LORA.targets))
    )
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.requires_grad_("lora_" in name)
            if "lora_" in name:
                p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    adapters = names.from_torch(peft.get_peft_model_state_dict(module))
    return module.eval(), base, adapters


@pytest.mark.slow
@pytest.mark.torch
def test_outputs_and_adapter_gradients_equal_peft(net, apply, peft_unet, inputs):
    import torch

    from gendr_jax.weights.foreign import names
    from tests.helpers.torch_parity import assert_close, assert_gradients, nchw, nhwc

    module, base, adapters = peft_unet
    z, t, context = inputs
    direction = np.random.default_rng(5).standard_normal(z.shape, np.float32)
    z_t = nchw(z).requires_grad_()
    out = module(z_t, torch.tensor(t), torch.tensor(context)).sample
    (out * nchw(direction)).sum().backward()
    params = nets.overlay(base, adapters)
    nets.check_like(params, net.abstract)
    assert_close(apply(params, *inputs), nhwc(out), "lora output")

    def loss(adapters, z):
        out = net.bind(nets.overlay(base, adapters))(z, t, context)[0]
        return jnp.sum(out * direction)

    grads, dz = jax.jit(jax.grad(loss, argnums=(0, 1)))(adapters, z)
    theirs = {
        name.replace(".default", ""): p.grad
        for name, p in module.named_parameters()
        if "lora_" in name
    }
    assert_close(dz, nhwc(z_t.grad), "lora dz")
    assert_gradients(grads, names.from_torch(theirs), "lora")
    assert len(theirs) == len(nets.flatten(grads))


@pytest.mark.torch
def test_merged_weights_equal_pefts_own_merge(peft_unet):
    from gendr_jax.weights.foreign import names

    module, base, adapters = peft_unet
    merged = nets.merge_lora(base, adapters, LORA.scale)
    module.fuse_lora()
    try:
        theirs = {
            name.replace(".base_layer", ""): tensor
            for name, tensor in module.state_dict().items()
            if "lora_" not in name
        }
        theirs = nets.flatten(names.from_torch(theirs))
        theirs = {path: array.copy() for path, array in theirs.items()}
    finally:
        module.unfuse_lora()
    ours = nets.flatten(merged)
    assert ours.keys() == theirs.keys()
    changed = [p for p, a in nets.flatten(base).items() if np.any(a != theirs[p])]
    assert len(changed) == len(nets.flatten(adapters)) // 2
    for path in changed:
        scale = np.abs(theirs[path]).max()
        assert np.abs(ours[path] - theirs[path]).max() <= 1e-6 * scale, path


def test_a_new_adapter_changes_nothing_and_has_pefts_gaussian_start():
    net = nets.build(PatchDiscriminator, STACK, lora=STACK_LORA)
    base, fresh = nets.split_lora(net.init(jax.random.key(0)))
    base = jax.tree.map(lambda a: a + 0.05, base)  # the last layer starts at zero
    x = np.random.default_rng(6).standard_normal((1, 24, 16, 3), np.float32)
    plain = nets.build(PatchDiscriminator, STACK)
    run = jax.jit(
        lambda b, a: (net.bind(nets.overlay(b, a))(x), plain.bind(b)(x)),
    )
    got, without = run(base, fresh)
    np.testing.assert_allclose(got, without, rtol=1e-5, atol=1e-6)
    trained = jax.tree.map(lambda a: a + 0.1, fresh)
    assert np.abs(run(base, trained)[0] - without).max() > 0.01

    draws = []
    for path, leaf in nets.flatten(fresh).items():
        assert bool(np.any(leaf)) == (path[-1] == "lora_a")
        draws += [np.ravel(leaf)] if path[-1] == "lora_a" else []
    draws = np.concatenate(draws)
    assert abs(draws.mean()) < 0.01
    np.testing.assert_allclose(draws.std(), 1 / STACK_LORA.rank, rtol=0.05)


def test_roles_share_one_base_and_do_not_touch_each_other(apply, roles, inputs):
    base, trained = roles
    before = {n: apply(nets.overlay(base, a), *inputs) for n, a in trained.items()}
    assert np.abs(before["fake"] - before["real"]).max() > 1e-3
    trained = trained | {"fake": jax.tree.map(lambda a: a + 0.1, trained["fake"])}
    after = {n: apply(nets.overlay(base, a), *inputs) for n, a in trained.items()}
    np.testing.assert_array_equal(after["real"], before["real"])
    assert np.abs(after["fake"] - before["fake"]).max() > 1e-3


def test_merged_weights_act_as_base_and_side_path(apply, roles, inputs):
    base, trained = roles
    merged = nets.merge_lora(base, trained["fake"], LORA.scale)
    plain = nets.build(UNet, CONFIG)
    nets.check_like(merged, plain.abstract)
    expected = apply(nets.overlay(base, trained["fake"]), *inputs)
    got = jax.jit(lambda p, *x: plain.bind(p)(*x)[0])(merged, *inputs)
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=1e-4 * np.abs(expected).max()
    )


def test_alpha_over_rank_scales_the_side_path():
    """Twice alpha is twice B."""
    single = nets.build(PatchDiscriminator, STACK, lora=STACK_LORA)
    double = nets.build(
        PatchDiscriminator, STACK, lora=dataclasses.replace(STACK_LORA, alpha=16.0)
    )
    rng = np.random.default_rng(7)
    params = jax.tree.map(
        lambda a: 0.1 * rng.standard_normal(a.shape, np.float32), single.abstract
    )
    twice = nets.unflatten(
        {
            path: 2 * leaf if path[-1] == "lora_b" else leaf
            for path, leaf in nets.flatten(params).items()
        }
    )
    x = rng.standard_normal((1, 24, 16, 3), np.float32)
    run = jax.jit(lambda a, b: (double.bind(a)(x), single.bind(b)(x)))
    a, b = run(params, twice)
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())
    assert np.abs(a - single.bind(params)(x)).max() > 0.01 * np.abs(a).max()


def test_an_adapter_update_forms_no_full_size_weight_gradient():
    """The side path's point, by the compiler's own count: FLOPs and output bytes."""
    net = nets.build(PatchDiscriminator, STACK, lora=STACK_LORA)
    base, adapters = nets.split_lora(net.abstract)
    x = jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32)

    def loss(base, adapters, x, net):
        return jnp.sum(jnp.square(net.bind(nets.overlay(base, adapters))(x)))

    def compiled(net, argnums):
        gradient = jax.jit(jax.grad(functools.partial(loss, net=net), argnums))
        return gradient.lower(base, adapters, x).compile()

    full, side = compiled(net, (0, 1)), compiled(net, 1)
    kernels = sum(
        4 * leaf.size for p, leaf in nets.flatten(base).items() if p[-1] == "kernel"
    )
    saved = (
        full.memory_analysis().output_size_in_bytes
        - side.memory_analysis().output_size_in_bytes
    )
    assert saved >= kernels
    assert side.cost_analysis()["flops"] < 0.8 * full.cost_analysis()["flops"]
    inside = nets.build(PatchDiscriminator, STACK, lora=STACK_LORA, lora_in_kernel=True)
    merged = compiled(inside, 1)
    assert merged.cost_analysis()["flops"] < side.cost_analysis()["flops"]


def side_gradients(model, lora, x):
    """(loss, gradients by adapters and input) of the side path and in the kernel."""
    side = nets.build(model, STACK, lora=lora)
    inside = nets.build(model, STACK, lora=lora, lora_in_kernel=True)
    rng = np.random.default_rng(3)
    draw = lambda a: jnp.asarray(0.2 * rng.standard_normal(a.shape), jnp.float32)  # noqa: E731
    base, adapters = jax.tree.map(draw, nets.split_lora(side.abstract))
    merged = nets.merge_lora(base, adapters, lora.scale)

    def loss(adapters, x, net, kernels):
        return jnp.sum(jnp.sin(net.bind(nets.overlay(kernels, adapters))(x)))

    def run(net, kernels):
        gradient = jax.value_and_grad(
            functools.partial(loss, net=net, kernels=kernels), (0, 1)
        )
        return jax.jit(gradient)(adapters, x)

    return run(side, base), run(inside, merged)


class Dense(nnx.Module):
    """Linear layers, the second of which is computed in halves."""

    def __init__(self, config, *, dtype, remat="none", rngs):
        self.first = Linear(3, 8, dtype=dtype, rngs=rngs)
        self.second = Linear(8, 12, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        value, gate = self.second.halves(self.first(x))
        return value * gate


@pytest.mark.parametrize(
    ("model", "lora"),
    [
        (PatchDiscriminator, STACK_LORA),
        (Dense, LoRAConfig(rank=2, alpha=3.0, targets=("first", "second"))),
    ],
)
def test_adapters_in_the_kernel_have_the_gradient_of_their_side_path(model, lora):
    """Strided convolutions, linear layers and halves of one."""
    x = np.random.default_rng(4).standard_normal((2, 24, 16, 3), np.float32)
    (expected, gradients), (loss, others) = side_gradients(model, lora, x)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for one, other in zip(*map(jax.tree.leaves, (gradients, others)), strict=True):
        assert np.abs(one).max() > 0
        np.testing.assert_allclose(other, one, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize(
    "targets, modules, count",
    [(UNET_TARGETS, 258, 64_899_072), (ATTENTION_TARGETS, 128, 13_279_232)],
    ids=["osediff", "attention"],
)
def test_full_size_counts_are_those_of_osediff(targets, modules, count):
    config = LoRAConfig(rank=64, targets=targets)
    abstract = nets.build(UNet, UNetConfig(), lora=config).abstract
    adapters = nets.split_lora(abstract)[1]
    assert len(nets.flatten(adapters)) == 2 * modules
    assert nets.count(adapters) == count
    assert config.scale == 2.0
