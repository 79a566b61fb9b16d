"""Channel surgery: widened weights keep spread, start at output zero, alias nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import nets
from gendr_jax.errors import InputError
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.weights import surgery
from tests.helpers.tiny_stages import PARTS, random


def narrow():
    rng = np.random.default_rng(0)
    draw = lambda *s: jnp.asarray(rng.standard_normal(s), jnp.float32)  # noqa: E731
    return {
        "conv_in": {"kernel": draw(3, 3, 4, 64), "bias": draw(64)},
        "conv_out": {"kernel": draw(3, 3, 64, 4), "bias": draw(4)},
        "other": {"kernel": draw(2, 2)},
    }


def test_shapes_and_untouched_parts():
    old = narrow()
    kept = jax.tree.map(np.array, old)
    new = surgery.widen(old, channels_in=16, channels_out=16)
    assert new["conv_in"]["kernel"].shape == (3, 3, 16, 64)
    assert new["conv_out"]["kernel"].shape == (3, 3, 64, 16)
    assert new["conv_out"]["bias"].shape == (16,)
    assert np.array_equal(new["conv_in"]["bias"], old["conv_in"]["bias"])
    assert new["other"] is old["other"]
    jax.tree.map(np.testing.assert_array_equal, old, kept)  # the argument is as it was
    assert not np.any(new["conv_out"]["kernel"]) and not np.any(new["conv_out"]["bias"])


def test_each_copy_is_the_old_kernel_over_the_root_of_copies():
    old = narrow()
    new = surgery.widen(old, channels_in=16, channels_out=16)["conv_in"]["kernel"]
    for copy in range(4):
        part = new[:, :, 4 * copy : 4 * copy + 4]
        np.testing.assert_allclose(part, old["conv_in"]["kernel"] / 2, rtol=1e-6)


def test_pre_activations_keep_their_spread():
    """For independent unit-variance channels, as latents of both kinds are."""
    old = narrow()["conv_in"]["kernel"]
    wide = surgery.widen(narrow(), channels_in=16, channels_out=16)["conv_in"]["kernel"]
    rng = np.random.default_rng(1)

    def spread(kernel):
        z = jnp.asarray(rng.standard_normal((4, 16, 16, kernel.shape[2])), jnp.float32)
        y = jax.lax.conv_general_dilated(
            z, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return np.asarray(y).std(axis=(0, 1, 2))

    ratio = spread(wide) / spread(old)
    assert abs(ratio.mean() - 1) < 0.03, ratio.mean()  # without the division: 2


def test_one_copy_changes_only_conv_out():
    old = narrow()
    new = surgery.widen(old, channels_in=4, channels_out=8)
    assert np.array_equal(new["conv_in"]["kernel"], old["conv_in"]["kernel"])
    assert new["conv_out"]["kernel"].shape == (3, 3, 64, 8)


def test_channels_that_do_not_tile_are_refused():
    with pytest.raises(InputError, match="4 input channels.*do not tile to 10"):
        surgery.widen(narrow(), channels_in=10, channels_out=10)


def test_a_widened_unet_fits_its_wider_architecture():
    config = UNetConfig(**PARTS["unet"])
    net = nets.build(UNet, config)
    wide = nets.build(
        UNet, UNetConfig(**PARTS["unet"] | {"in_channels": 16} | {"out_channels": 16})
    )
    params = surgery.widen(random(net, 0), channels_in=16, channels_out=16)
    nets.check_like(params, wide.abstract)
