"""The VAE equals diffusers' AutoencoderKL, whole and in parts, with gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.models.vae import VAE, VAEConfig

# 72 x 104 pixels; "flux" also takes a size that is no multiple of its factor.
CASES = {
    "sd": (
        VAEConfig(
            latent_channels=6,
            block_out_channels=(32, 48, 96),
            layers_per_block=1,
            norm_groups=16,
        ),
        (1, 72, 104),
    ),
    "flux": (
        VAEConfig(
            block_out_channels=(24, 40),
            layers_per_block=2,
            norm_groups=8,
            quant_conv=False,
            post_quant_conv=False,
            scaling_factor=0.3611,
            shift_factor=0.1159,
        ),
        (2, 23, 30),
    ),
    "without attention": (
        VAEConfig(
            latent_channels=3,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_groups=4,
            mid_attention=False,
        ),
        (1, 10, 6),
    ),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One VAE on both sides, its inputs, and what diffusers made of them."""

    name: str
    module: object
    net: nets.Net
    params: nets.Params
    x: np.ndarray
    z: np.ndarray
    moments: tuple  # mean, logvar
    image: np.ndarray
    calls: dict  # submodule name: (input, result)
    input_grads: tuple  # x, z
    weight_grads: nets.Params
    directions: tuple  # the loss is mean, logvar and image along these


@functools.cache
def case(name: str) -> Case:
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    from tests.helpers.torch_parity import (
        gradients_of,
        nchw,
        nhwc,
        params_of,
        randomise,
    )

    config, (b, h, w) = CASES[name]
    levels = len(config.block_out_channels)
    module = diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        use_quant_conv=config.quant_conv,
        use_post_quant_conv=config.post_quant_conv,
        mid_block_add_attention=config.mid_attention,
    )
    randomise(module, seed=5)
    rng = np.random.default_rng(6)
    x = rng.uniform(-1, 1, (b, h, w, 3)).astype(np.float32)
    latent = (b, h // config.factor, w // config.factor, config.latent_channels)
    z = rng.standard_normal(latent, np.float32)
    calls = _record(module)
    x_t, z_t = nchw(x).requires_grad_(), nchw(z).requires_grad_()
    posterior = module.encode(x_t).latent_dist
    image = module.decode(z_t).sample
    results = (posterior.mean, posterior.logvar, image)
    directions = tuple(
        rng.standard_normal(nhwc(result).shape, np.float32) for result in results
    )
    sum(
        (r * nchw(d)).sum() for r, d in zip(results, directions, strict=True)
    ).backward()
    return Case(
        name=name,
        module=module,
        net=nets.build(VAE, config),
        params=params_of(module),
        x=x,
        z=z,
        moments=(nhwc(posterior.mean), nhwc(posterior.logvar)),
        image=nhwc(image),
        calls=calls,
        input_grads=(nhwc(x_t.grad), nhwc(z_t.grad)),
        weight_grads=gradients_of(module),
        directions=directions,
    )


def _record(module) -> dict:
    calls = {}

    def hook(name, _, args, result):
        calls.setdefault(name, (args[0].detach(), result))

    for name, child in module.named_modules():
        child.register_forward_hook(functools.partial(hook, name))
    return calls


@pytest.mark.torch
@pytest.mark.parametrize(
    "name", ["flux", "without attention", pytest.param("sd", marks=pytest.mark.slow)]
)
def test_moments_images_and_gradients_equal_diffusers(name):
    from tests.helpers.torch_parity import assert_close, assert_gradients

    c = case(name)

    def loss(params, x, z):
        vae = c.net.bind(params)
        results = (*vae.encode(x), vae.decode(z))
        pairs = zip(results, c.directions, strict=True)
        return sum(jnp.sum(r * d) for r, d in pairs), results

    grads, (mean, logvar, image) = jax.jit(
        jax.grad(loss, argnums=(0, 1, 2), has_aux=True)
    )(c.params, c.x, c.z)
    assert_close(mean, c.moments[0], f"vae {name} mean")
    assert_close(logvar, c.moments[1], f"vae {name} logvar")
    assert_close(image, c.image, f"vae {name} image")
    assert_close(grads[1], c.input_grads[0], f"vae {name} dx")
    assert_close(grads[2], c.input_grads[1], f"vae {name} dz")
    assert_gradients(grads[0], c.weight_grads, f"vae {name}")
    assert nets.flatten(c.weight_grads).keys() == nets.flatten(grads[0]).keys()


@pytest.mark.torch
@pytest.mark.parametrize(
    "name", ["flux", "without attention", pytest.param("sd", marks=pytest.mark.slow)]
)
def test_each_block_equals_diffusers(name):
    from tests.helpers.torch_parity import assert_close, nhwc

    c = case(name)
    vae = c.net.bind(c.params)
    run = jax.jit(lambda block, x: block(x), static_argnums=0)
    parts = {
        "encoder.mid_block": vae.encoder.mid_block,
        "decoder.mid_block": vae.decoder.mid_block,
        "encoder.conv_out": vae.encoder.conv_out,
    }
    for i, block in enumerate(vae.encoder.down_blocks):
        parts[f"encoder.down_blocks.{i}"] = block
    for i, block in enumerate(vae.decoder.up_blocks):
        parts[f"decoder.up_blocks.{i}"] = block
    for path, block in parts.items():
        given, result = c.calls[path]
        assert_close(run(block, nhwc(given)), nhwc(result), f"vae {name} {path}")


@pytest.mark.torch
def test_resnet_and_attention_equal_diffusers_on_faint_maps():
    """A variance near the normalisations' eps: a wrong eps shows in every digit."""
    import torch

    from tests.helpers.torch_parity import assert_close, nchw, nhwc

    c = case("sd")
    ours = c.net.bind(c.params).encoder.mid_block
    theirs = c.module.encoder.mid_block
    rng = np.random.default_rng(7)
    x = 1e-3 * rng.standard_normal((1, 5, 7, 96), np.float32)
    with torch.no_grad():
        attended = nhwc(theirs.attentions[0](nchw(x)))
        resnet = nhwc(theirs.resnets[0](nchw(x), None))
    # The residual would hide the branch, so it is taken off on both sides.
    got = jax.jit(ours.attentions[0])(x) - x
    assert_close(got, attended - x, "vae attention, faint")
    assert_close(jax.jit(ours.resnets[0])(x), resnet, "vae resnet, faint")


def test_bfloat16_compute_keeps_float32_parameters():
    config = VAEConfig(block_out_channels=(16, 32), layers_per_block=1, norm_groups=8)
    rng = np.random.default_rng(8)
    exact, half = nets.build(VAE, config), nets.build(VAE, config, dtype="bfloat16")
    assert {a.dtype for a in jax.tree.leaves(half.abstract)} == {jnp.dtype("float32")}
    params = jax.tree.map(
        lambda a: 0.1 * rng.standard_normal(a.shape, np.float32), exact.abstract
    )
    x = rng.uniform(-1, 1, (1, 16, 24, 3)).astype(np.float32)

    def both(net):
        return jax.jit(lambda p, x: net.bind(p).decode(net.bind(p).encode(x)[0]))

    expected, out = both(exact)(params, x), both(half)(params, x)
    assert out.dtype == jnp.bfloat16
    error = np.abs(np.asarray(out, np.float32) - expected).max()
    assert 0 < error < 0.05 * np.abs(expected).max()


def test_full_size_parameter_counts():
    assert nets.count(nets.build(VAE, VAEConfig()).abstract) == 57_266_643


def test_latent_scaling_is_that_of_diffusers_pipelines():
    config = VAEConfig(scaling_factor=0.3611, shift_factor=0.1159)
    z = jnp.asarray([[[[0.1159, 1.1159]]]])
    np.testing.assert_allclose(config.to_model(z), [[[[0, 0.3611]]]], atol=1e-7)
    np.testing.assert_allclose(config.from_model(config.to_model(z)), z, rtol=1e-6)
    assert VAEConfig().factor == 8


@pytest.mark.slow
def test_a_linear_path_is_added_to_the_convolutions():
    config = VAEConfig(
        latent_channels=12,
        block_out_channels=(8,),
        layers_per_block=1,
        norm_groups=4,
        mid_attention=False,
        quant_conv=False,
        post_quant_conv=False,
        patch=2,
        linear_path=True,
    )
    assert config.factor == 2
    net = nets.build(VAE, config)
    params = net.init(jax.random.key(0))
    eye = jnp.eye(12)
    down = jnp.concatenate([eye, jnp.zeros((12, 12))], axis=1)
    params["linear_path"]["down"]["kernel"] = down[None, None]
    params["linear_path"]["up"]["kernel"] = eye[None, None]
    x = jax.random.uniform(jax.random.key(1), (1, 6, 10, 3), minval=-1)
    z, _ = net.bind(params).encode(x)
    alone = net.bind(params).encoder(x)[..., :12]
    y = net.bind(params).linear_path.decode(z - alone)
    np.testing.assert_allclose(y, x, atol=1e-5)
    # Fresh convolutions of the decoder add nothing.
    np.testing.assert_allclose(net.bind(params).decode(z - alone), x, atol=1e-5)


def test_a_vae_of_nothing_is_refused():
    with pytest.raises(ValueError, match="neither convolutions nor a linear path"):
        VAEConfig(convolutions=False)
