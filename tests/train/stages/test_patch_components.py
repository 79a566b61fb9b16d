"""Where a linear path starts: principal components of patches."""

import jax
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.errors import UsageError
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.train.stages import patch_components

LINEAR = VAEConfig(
    latent_channels=5,
    block_out_channels=(8,),
    mid_attention=False,
    norm_groups=4,
    layers_per_block=1,
    patch=2,
    linear_path=True,
    convolutions=False,
)


def pictures(seed=0):
    """Few directions with most of the variance, as in photographs."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (6, 8, 8, 3))
    smooth = np.repeat(np.repeat(coarse, 4, 1), 4, 2)
    return np.uint8(smooth + rng.integers(0, 40, smooth.shape))


def start(config=LINEAR):
    return patch_components.from_batches(config, [{"hq": pictures()}])


def test_latents_are_standardised_and_what_they_leave_is_the_rest_of_the_variance():
    net = nets.build(VAE, LINEAR)
    params = jax.tree.map(np.asarray, {"linear_path": start()})
    x = pictures().astype(np.float32) / 127.5 - 1
    mean, logvar = net.bind(params).encode(x)
    assert mean.shape == (6, 16, 16, 5)
    flat = np.asarray(mean).reshape(-1, 5)
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(flat.T, bias=True), np.eye(5), atol=2e-3)
    assert np.all(np.asarray(logvar) < -10)
    y = np.asarray(net.bind(params).decode(mean))
    patches = x.reshape(6, 16, 2, 16, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 12)
    variances = np.linalg.eigvalsh(np.cov(patches.T, bias=True))
    np.testing.assert_allclose(
        np.mean((y - x) ** 2), variances[:-5].sum() / 12, rtol=1e-3
    )
    np.testing.assert_allclose(y.mean((0, 1, 2)), x.mean((0, 1, 2)), atol=1e-4)


def test_equal_photographs_give_equal_weights():
    first, again = start(), start()
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_more_channels_than_numbers_are_refused():
    import dataclasses

    with pytest.raises(UsageError, match="latent_channels=13 is more than the 12"):
        start(dataclasses.replace(LINEAR, latent_channels=13))
