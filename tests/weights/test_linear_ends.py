"""Students of a linear autoencoder start as their teacher."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import diffusion, nets
from gendr_jax.models.pixel_shuffle import pixel_pass
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.train.stages import samples
from gendr_jax.weights import linear_ends
from tests.helpers.tiny_stages import random

FACTOR = 4
LINEAR = VAEConfig(
    latent_channels=6,
    block_out_channels=(8,),
    quant_conv=False,
    post_quant_conv=False,
    mid_attention=False,
    scaling_factor=0.7,
    shift_factor=0.2,
    patch=FACTOR,
    linear_path=True,
    convolutions=False,
)
TEACHER = UNetConfig(
    in_channels=6,
    out_channels=6,
    block_out_channels=(8, 16),
    layers_per_block=1,
    heads=(1, 1),
    attention=(False, False),
    cross_attention_dim=4,
    norm_groups=4,
    mid_attention=False,
    norm_channels=True,
    input_shortcut=True,
)
build = functools.partial(nets.build, dtype="float32")


def passes(prediction, *, border):
    """(the teacher's latent and picture, Adc's latent, Pix's picture) of one picture.

    Without `border` the encoder's bias is such that a grey patch has the latent 0, as
    conv_in pads it.
    """
    vae_net, unet_net = build(VAE, LINEAR), build(UNet, TEACHER)
    vae, unet = random(vae_net, 1), random(unet_net, 2)
    if not border:
        bias = jnp.full_like(vae["linear_path"]["down"]["bias"], LINEAR.shift_factor)
        vae["linear_path"]["down"]["bias"] = bias
    encode = functools.partial(samples.encoder(vae_net, LINEAR), vae)
    decode = functools.partial(samples.decoder(vae_net, LINEAR), vae)
    encode, decode = jax.jit(encode), jax.jit(decode)
    maps = linear_ends.linear_maps(encode, decode, factor=FACTOR, channels=6)
    adc = linear_ends.with_encoder(unet, maps, prediction)
    pix = linear_ends.with_decoder(adc, maps)
    adc_config = dataclasses.replace(TEACHER, in_channels=48)
    pix_config = dataclasses.replace(adc_config, out_channels=48)
    x = jax.random.uniform(jax.random.key(3), (1, 40, 56, 3), minval=-1.0)
    t, words = jnp.full((1,), diffusion.T_STAR), jnp.ones((1, 2, 4))
    z_low = encode(x)
    out, _ = jax.jit(unet_net.bind(unet))(z_low, t, words)
    z = diffusion.one_step(z_low, out, prediction)

    def student(config, params, to_pixels):
        net = build(UNet, config).bind(params)
        run = functools.partial(pixel_pass, net, factor=FACTOR, to_pixels=to_pixels)
        return jax.jit(run)(x, t, words)

    z_adc = student(adc_config, adc, to_pixels=False)
    y_pix = student(pix_config, pix, to_pixels=True)
    return (z, decode(z)), z_adc, y_pix


@pytest.mark.parametrize(
    "prediction", ["eps", pytest.param("v", marks=pytest.mark.slow)]
)
def test_students_start_as_their_teacher(prediction):
    (z, y), z_adc, y_pix = passes(prediction, border=False)
    assert jnp.std(z) > 0.1 and jnp.std(y) > 0.1
    np.testing.assert_allclose(z_adc, z, atol=2e-4 * float(jnp.abs(z).max()))
    np.testing.assert_allclose(y_pix, y, atol=2e-4 * float(jnp.abs(y).max()))


def test_a_bias_of_the_encoder_differs_at_the_border_alone():
    """conv_in pads latents with 0 or pixels with grey; resnets carry it inwards."""
    (z, _), z_adc, _ = passes("eps", border=True)
    difference = np.abs(np.asarray(z_adc - z))
    size = float(jnp.abs(z).max())
    assert difference[0, 0].max() > 1e-3 * size
    assert difference.mean() < 0.1 * size
