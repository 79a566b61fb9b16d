"""The UNet equals diffusers', whole and in parts, in values and in gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.models.unet import UNet, UNetConfig

# Three networks, none with the default's widths, and what diffusers calls the same.
# Latents of 9 x 13 belong to 72 x 104 pixels; no size here divides by the levels.
CASES = {
    "narrow": (
        UNetConfig(
            block_out_channels=(48, 96),
            layers_per_block=1,
            heads=(3, 4),
            attention=(True, False),
            cross_attention_dim=40,
            norm_groups=16,
        ),
        {"use_linear_projection": True},
        (9, 13),
    ),
    "sd1": (
        UNetConfig(
            in_channels=4,
            out_channels=8,
            block_out_channels=(32, 48),
            layers_per_block=2,
            heads=(1, 6),
            attention=(False, True),
            cross_attention_dim=24,
            norm_groups=8,
            linear_projection=False,
            norm_eps=1e-2,
        ),
        {"use_linear_projection": False, "norm_eps": 1e-2},
        (7, 10),
    ),
    "deep": (
        UNetConfig(
            block_out_channels=(32, 32, 64, 64),
            layers_per_block=1,
            heads=(1, 2, 4, 4),
            cross_attention_dim=16,
        ),
        {"use_linear_projection": True},
        (15, 11),
    ),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One network on both sides, its inputs, and what diffusers made of them."""

    name: str
    config: UNetConfig
    module: object  # diffusers'
    net: nets.Net
    params: nets.Params
    inputs: tuple  # z_bhwc, t_b, context_bld
    direction: np.ndarray  # the loss is the output along it
    calls: dict  # submodule name: (args, kwargs, result)
    output: np.ndarray
    input_grads: tuple  # z, context
    weight_grads: nets.Params


@functools.cache
def case(name: str) -> Case:
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    import torch

    from tests.helpers.torch_parity import (
        gradients_of,
        nchw,
        nhwc,
        params_of,
        randomise,
    )

    config, extra, (h, w) = CASES[name]
    down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in config.attention]
    up = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in config.attention[::-1]]
    module = diffusers.UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        attention_head_dim=config.heads,
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=config.cross_attention_dim,
        norm_num_groups=config.norm_groups,
        **extra,
    )
    randomise(module, seed=1)
    rng = np.random.default_rng(2)
    z = rng.standard_normal((2, h, w, config.in_channels)).astype(np.float32)
    t = np.array([7, 981], np.int32)
    context = rng.standard_normal((2, 5, config.cross_attention_dim), np.float32)
    direction = rng.standard_normal((2, h, w, config.out_channels), np.float32)

    calls = _record(module)
    z_t, context_t = nchw(z).requires_grad_(), torch.tensor(context).requires_grad_()
    output = module(z_t, torch.tensor(t), context_t).sample
    (output * nchw(direction)).sum().backward()
    return Case(
        name=name,
        config=config,
        module=module,
        net=nets.build(UNet, config),
        params=params_of(module),
        inputs=(z, t, context),
        direction=direction,
        calls=calls,
        output=nhwc(output),
        input_grads=(nhwc(z_t.grad), context_t.grad.numpy()),
        weight_grads=gradients_of(module),
    )


def _record(module) -> dict:
    """Keep what every submodule got and gave in the next call."""
    calls = {}

    def hook(name, _, args, kwargs, result):
        calls.setdefault(name, (args, kwargs, result))

    for name, child in module.named_modules():
        child.register_forward_hook(functools.partial(hook, name), with_kwargs=True)
    return calls


@pytest.mark.torch
@pytest.mark.parametrize(
    "name",
    ["narrow", *(pytest.param(n, marks=pytest.mark.slow) for n in ("deep", "sd1"))],
)
def test_outputs_and_features_equal_diffusers(name):
    from tests.helpers.torch_parity import assert_close, nhwc

    c = case(name)
    out, features = jax.jit(lambda p, *x: c.net.bind(p)(*x))(c.params, *c.inputs)
    down0, mid = nhwc(c.calls["down_blocks.0"][2][0]), nhwc(c.calls["mid_block"][2])
    assert_close(out, c.output, f"unet {name} output")
    assert_close(features["down0"], down0, f"unet {name} down0")
    assert_close(features["mid"], mid, f"unet {name} mid")


@pytest.mark.torch
@pytest.mark.parametrize(
    "name", ["narrow", pytest.param("sd1", marks=pytest.mark.slow)]
)
def test_gradients_equal_diffusers(name):
    from tests.helpers.torch_parity import assert_close, assert_gradients

    c = case(name)

    def loss(params, z, context):
        return jnp.sum(c.net.bind(params)(z, t, context)[0] * c.direction)

    z, t, context = c.inputs
    grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(c.params, z, context)
    assert_close(grads[1], c.input_grads[0], f"unet {name} dz")
    assert_close(grads[2], c.input_grads[1], f"unet {name} dcontext")
    assert_gradients(grads[0], c.weight_grads, f"unet {name}")
    assert nets.flatten(c.weight_grads).keys() == nets.flatten(grads[0]).keys()


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize(
    "name", ["narrow", pytest.param("sd1", marks=pytest.mark.slow)]
)
def test_each_block_equals_diffusers(name):
    """Every block from diffusers' own input, so that errors cannot compensate."""
    from tests.helpers.torch_parity import assert_close, nhwc

    c = case(name)
    unet = c.net.bind(c.params)
    time_bd = c.calls["time_embedding"][2].detach().numpy()
    context = c.inputs[2]
    run = jax.jit(lambda block, *args: block(*args), static_argnums=0)

    embed = run(unet.time_embedding, _arg(c.calls["time_embedding"]).numpy())
    assert_close(embed, time_bd, f"unet {name} time_embedding")
    mid = run(unet.mid_block, nhwc(_arg(c.calls["mid_block"])), time_bd, context)
    assert_close(mid, nhwc(c.calls["mid_block"][2]), f"unet {name} mid_block")
    for i, block in enumerate(unet.down_blocks):
        call = c.calls[f"down_blocks.{i}"]
        x, skips = run(block, nhwc(_arg(call)), time_bd, context)
        assert_close(x, nhwc(call[2][0]), f"unet {name} down_blocks.{i}")
        assert len(skips) == len(call[2][1])
        for ours, theirs in zip(skips, call[2][1], strict=True):
            assert_close(ours, nhwc(theirs), f"unet {name} skip of down_blocks.{i}")
    for i, block in enumerate(unet.up_blocks):
        call = c.calls[f"up_blocks.{i}"]
        skips = [nhwc(s) for s in call[1]["res_hidden_states_tuple"]]
        # Ours reads the enlarged size off the skip that follows.
        after = np.zeros_like(nhwc(call[2]))
        x, left = run(block, nhwc(_arg(call)), [after, *skips], time_bd, context)
        assert_close(x, nhwc(call[2]), f"unet {name} up_blocks.{i}")
        assert len(left) == 1


@pytest.mark.torch
@pytest.mark.parametrize("name", ["narrow", "sd1"])
def test_resnet_and_transformer_equal_diffusers_on_faint_maps(name):
    """A variance near the normalisations' eps: a wrong eps shows in every digit."""
    import torch

    from tests.helpers.torch_parity import assert_close, nchw, nhwc

    c = case(name)
    unet = c.net.bind(c.params)
    level = c.config.attention.index(True)
    ours, theirs = unet.down_blocks[level], c.module.down_blocks[level]
    rng = np.random.default_rng(3)
    width = c.config.block_out_channels[level]
    x = 1e-3 * rng.standard_normal((1, 5, 7, width), np.float32)
    context = c.inputs[2][:1]
    with torch.no_grad():
        (expected,) = theirs.attentions[0](
            nchw(x), torch.tensor(context), return_dict=False
        )
    # The residual would hide the branch, so it is taken off on both sides.
    got = jax.jit(ours.attentions[0])(x, context) - x
    assert_close(got, nhwc(expected) - x, f"unet {name} transformer, faint")

    tokens = 1e-3 * rng.standard_normal((1, 6, width), np.float32)
    with torch.no_grad():
        expected = theirs.attentions[0].transformer_blocks[0](
            torch.tensor(tokens), encoder_hidden_states=torch.tensor(context)
        )
    block = ours.attentions[0].transformer_blocks[0]
    got = jax.jit(block)(tokens, context) - tokens
    assert_close(got, expected.numpy() - tokens, f"unet {name} block, faint")

    cin = ours.resnets[0].conv1.kernel[...].shape[2]
    x = 1e-3 * rng.standard_normal((1, 5, 7, cin), np.float32)
    time_bd = c.calls["time_embedding"][2][:1].detach()
    with torch.no_grad():
        expected = nhwc(theirs.resnets[0](nchw(x), time_bd))
    got = jax.jit(ours.resnets[0])(x, time_bd.numpy())
    assert_close(got, expected, f"unet {name} resnet, faint")


def _arg(call):
    args, kwargs, _ = call
    return (args[0] if args else kwargs["hidden_states"]).detach()
