"""api.py: networks as callables, from our folders and from component folders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gendr_jax
from gendr_jax import nets
from gendr_jax.api import load_component
from gendr_jax.errors import InputError
from gendr_jax.models.dinov2 import DINOv2, DINOv2Config
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.weights import folder
from gendr_jax.weights.foreign import component_folder

VAE_CONFIG = VAEConfig(
    latent_channels=4, block_out_channels=(4, 8), layers_per_block=1, norm_groups=2
)
UNET_CONFIG = UNetConfig(
    in_channels=4,
    out_channels=4,
    block_out_channels=(8, 8),
    layers_per_block=1,
    heads=(1, 1),
    attention=(True, False),
    cross_attention_dim=6,
    norm_groups=2,
)
DINO_CONFIG = DINOv2Config(
    hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28
)
RNG = np.random.default_rng(0)


def params_of(model, config):
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: (0.2 * rng.standard_normal(leaf.shape)).astype(np.float32),
        nets.build(model, config).abstract,
    )


VAE_PARAMS = params_of(VAE, VAE_CONFIG)
UNET_PARAMS = params_of(UNet, UNET_CONFIG)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return folder.save(
        tmp_path_factory.mktemp("ours") / "w",
        kind="base",
        unet=(UNET_CONFIG, UNET_PARAMS),
        vae=(VAE_CONFIG, VAE_PARAMS),
    )


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    base = tmp_path_factory.mktemp("theirs")
    component_folder.save_component(base / "vae", VAE_CONFIG, VAE_PARAMS)
    component_folder.save_component(base / "unet", UNET_CONFIG, UNET_PARAMS)
    return base


@pytest.mark.slow
def test_vae_from_both_kinds_of_folder(ours, theirs):
    x = RNG.uniform(-1, 1, (2, 6, 10, 3)).astype(np.float32)
    module = nets.build(VAE, VAE_CONFIG).bind(VAE_PARAMS)
    expected = module.encode(jnp.asarray(x))
    for path in (ours, theirs / "vae"):
        vae = gendr_jax.load_vae(path)
        assert vae.config == VAE_CONFIG
        mean, logvar = vae.encode(x)
        np.testing.assert_allclose(mean, expected[0], atol=1e-4)
        np.testing.assert_allclose(logvar, expected[1], atol=1e-4)
        assert mean.shape == (2, 3, 5, 4)
        decoded = vae.decode(mean)
        np.testing.assert_allclose(decoded, module.decode(mean), atol=1e-4)


@pytest.mark.slow
def test_unet_from_both_kinds_of_folder(ours, theirs):
    z = RNG.standard_normal((2, 6, 4, 4)).astype(np.float32)
    t, context = np.array([5, 900]), RNG.standard_normal((2, 3, 6)).astype(np.float32)
    module = nets.build(UNet, UNET_CONFIG).bind(UNET_PARAMS)
    expected = module(jnp.asarray(z), jnp.asarray(t), jnp.asarray(context))[0]
    for path in (str(ours), theirs / "unet"):
        out = gendr_jax.load_unet(path)(z, t, context)
        np.testing.assert_allclose(out, expected, atol=1e-4)


def test_dinov2_from_a_component_folder(tmp_path):
    params = params_of(DINOv2, DINO_CONFIG)
    component_folder.save_component(tmp_path, DINO_CONFIG, params)
    x = RNG.standard_normal((1, 42, 28, 3)).astype(np.float32)
    tokens = gendr_jax.load_dinov2(tmp_path)(x)
    assert tokens.shape == (1, 6, 8)
    expected = nets.build(DINOv2, DINO_CONFIG).bind(params)(jnp.asarray(x))
    np.testing.assert_allclose(tokens, expected, atol=1e-5)


def test_what_a_folder_does_not_hold_is_named(ours, theirs):
    for name in ("dinov2", "dino", "projector"):
        with pytest.raises(InputError, match=f"not {name}"):
            load_component(ours, name)
    with pytest.raises(InputError, match="projector is in no other format"):
        load_component(theirs / "vae", "projector")
    with pytest.raises(InputError, match="absent does not exist. Check the path"):
        gendr_jax.load_vae(theirs / "absent")


@pytest.mark.parametrize(
    "shape", [(6, 10, 3), (1, 3, 6, 10), (1, 6, 10, 4), (1, 5, 10, 3)]
)
def test_pictures_of_other_shapes_are_refused(ours, shape):
    with pytest.raises(InputError, match="pictures"):
        gendr_jax.load_vae(ours).encode(np.zeros(shape, np.float32))


def test_unet_arguments_that_do_not_fit_are_refused(ours):
    unet, z = gendr_jax.load_unet(ours), np.zeros((2, 4, 4, 4), np.float32)
    for t, context in (
        (np.zeros(1, int), np.zeros((2, 3, 6))),
        (np.zeros(2, int), np.zeros((2, 3, 5))),
        (np.zeros(2, int), np.zeros((3, 6))),
    ):
        with pytest.raises(InputError, match="Repeat them per sample"):
            unet(z, t, context)
