"""The linear path of the autoencoder, and the UNet's fields for processors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import diffusion, nets
from gendr_jax.models.layers import channel_to_space, space_to_channel
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.train.stages import patch_components

LINEAR = VAEConfig(
    latent_channels=48,
    block_out_channels=(8,),
    layers_per_block=1,
    norm_groups=4,
    mid_attention=False,
    patch=4,
    linear_path=True,
    convolutions=False,
)


def pictures(count=4, side=32):
    """Smooth pictures, uint8."""
    rng = np.random.default_rng(0)
    steps = rng.normal(0, 6, (count, side, side, 3))
    return np.clip(128 + steps.cumsum(1).cumsum(2) / 8, 0, 255).astype(np.uint8)


def batches(count=4):
    return [{"hq": pictures(count)}]


def coded(config, params, x):
    @jax.jit
    def code(params, x):
        model = nets.build(VAE, config).bind(params)
        mean, logvar = model.encode(x)
        return mean, logvar, model.decode(mean)

    return code(params, x)


def test_space_to_channel_is_undone_and_keeps_patches_together():
    x = jnp.arange(2 * 4 * 6 * 3, dtype=jnp.float32).reshape(2, 4, 6, 3)
    patches = space_to_channel(x, 2)
    np.testing.assert_array_equal(patches[1, 1, 2], x[1, 2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(channel_to_space(patches, 2), x)


def test_all_components_lose_nothing_and_have_unit_variance():
    params = {"linear_path": patch_components.from_batches(LINEAR, batches())}
    x = pictures() / np.float32(127.5) - 1
    mean, logvar, y = coded(LINEAR, params, x)
    np.testing.assert_allclose(y, x, atol=1e-3)
    kept = np.asarray(mean).reshape(-1, 48)
    np.testing.assert_allclose(kept.mean(0), 0, atol=1e-2)
    np.testing.assert_allclose(kept.std(0)[:16], 1, rtol=1e-2)
    assert np.all(np.asarray(logvar) == np.asarray(logvar).ravel()[0])


def test_few_components_beat_the_mean_of_each_patch_and_keep_colours():
    few = VAEConfig(**{**vars(LINEAR), "latent_channels": 16})
    params = {"linear_path": patch_components.from_batches(few, batches())}
    x = pictures() / np.float32(127.5) - 1
    y = np.asarray(coded(few, params, x)[2])
    flat = x.reshape(4, 8, 4, 8, 4, 3).mean((2, 4))
    flat = np.repeat(np.repeat(flat, 4, 1), 4, 2)
    assert np.mean((y - x) ** 2) < 0.25 * np.mean((flat - x) ** 2)
    np.testing.assert_allclose(y.mean((0, 1, 2)), x.mean((0, 1, 2)), atol=2e-3)


@pytest.mark.slow
def test_fresh_convolutions_beside_the_path_leave_it_as_it_is():
    config = VAEConfig(
        **{**vars(LINEAR), "convolutions": True, "quant_conv": False}
        | {"post_quant_conv": False}
    )
    net = nets.build(VAE, config)
    fresh = net.init(jax.random.key(0))
    x = pictures(1) / np.float32(127.5) - 1
    mean, _, y = coded(config, fresh, x)
    alone = nets.build(VAE, LINEAR).bind({"linear_path": fresh["linear_path"]})
    np.testing.assert_allclose(alone.decode(mean), y, atol=1e-5)


FULL_RESOLUTION = VAEConfig(
    **{**vars(LINEAR), "patch": 1, "block_out_channels": (4, 8, 8)}
    | {"convolutions": True, "encoder_convolutions": False, "norm_channels": True}
)


def test_convolutions_of_the_decoder_alone_start_as_the_linear_path():
    assert FULL_RESOLUTION.factor == LINEAR.factor
    net = nets.build(VAE, FULL_RESOLUTION)
    fresh = jax.jit(net.init)(jax.random.key(0))
    assert set(fresh) == {"decoder", "linear_path", "post_quant_conv"}
    x = pictures(1) / np.float32(127.5) - 1
    mean, _, y = coded(FULL_RESOLUTION, fresh, x)
    expected, _, linear = coded(LINEAR, {"linear_path": fresh["linear_path"]}, x)
    np.testing.assert_array_equal(mean, expected)
    np.testing.assert_allclose(y, linear, atol=1e-6)


def test_with_norms_of_channels_crops_are_decoded_as_in_the_whole_picture():
    net = nets.build(VAE, FULL_RESOLUTION)
    params = jax.jit(net.init)(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    noise = [
        0.2 * np.random.default_rng(i).standard_normal(leaf.shape, np.float32)
        for i, leaf in enumerate(leaves)
    ]
    params = jax.tree.unflatten(
        tree, [a + b for a, b in zip(leaves, noise, strict=True)]
    )
    z = jax.random.normal(jax.random.key(2), (1, 32, 30, 48))
    decode = jax.jit(lambda z: net.bind(params).decode(z))
    # 13 latent positions around: the convolutions reach no farther.
    expected = decode(z)[:, 56:72, 56:64]
    y = decode(z[:, 1:31, 1:29])[:, 52:68, 52:60]
    np.testing.assert_allclose(y, expected, atol=1e-4)
    linear = {"linear_path": params["linear_path"]}
    alone = nets.build(VAE, LINEAR).bind(linear).decode(z)[:, 56:72, 56:64]
    assert np.abs(expected - alone).max() > 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"convolutions": False}, "neither convolutions"),
        ({"encoder_convolutions": False}, "leaves no encoder without a linear path"),
    ],
)
def test_a_vae_without_encoder_or_decoder_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        VAEConfig(**changes)


@pytest.mark.slow
def test_a_fresh_unet_with_a_shortcut_gives_its_input_back_in_one_step():
    config = UNetConfig(
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        heads=(3, 3),  # nobody attends
        attention=(False, False),
        cross_attention_dim=8,
        mid_attention=False,
        norm=False,
        input_shortcut=True,
    )
    net = nets.build(UNet, config)
    params = net.init(jax.random.key(0))
    names = {".".join(path) for path in nets.flatten(params)}
    assert not [n for n in names if "norm" in n or "attentions" in n]
    z = jax.random.normal(jax.random.key(1), (1, 6, 8, 4))
    out, _ = net.bind(params)(z, jnp.array([354]), jnp.zeros((1, 2, 8)))
    np.testing.assert_allclose(diffusion.one_step(z, out, "eps"), z, atol=1e-5)
