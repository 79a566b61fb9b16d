"""What SD2.1's UNet has not: no norms, no attention, a map from input to output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import diffusion, nets
from gendr_jax.models.unet import UNet, UNetConfig

SMALL = UNetConfig(
    in_channels=4,
    out_channels=4,
    block_out_channels=(8, 12),
    layers_per_block=1,
    heads=(1, 1),
    attention=(False, False),
    cross_attention_dim=8,
    norm_groups=4,
    mid_attention=False,
    norm=False,
    input_shortcut=True,
)


@pytest.mark.slow
def test_a_fresh_unet_with_a_shortcut_returns_its_input_in_one_step():
    net = nets.build(UNet, SMALL)
    z = jax.random.normal(jax.random.key(1), (2, 10, 6, 4))
    t, context = jnp.full((2,), diffusion.T_STAR), jnp.zeros((2, 3, 8))
    out, _ = net.bind(net.init(jax.random.key(0)))(z, t, context)
    np.testing.assert_allclose(diffusion.one_step(z, out, "eps"), z, atol=1e-5)


def test_there_are_no_norms_and_no_attention():
    paths = nets.flatten(nets.build(UNet, SMALL).abstract)
    assert not [p for p in paths if "norm" in str(p) or "attentions" in str(p)]


@pytest.mark.slow
def test_without_norms_a_change_far_away_is_not_seen():
    net = nets.build(UNet, SMALL)
    params = net.init(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    drawn = [0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)]  # noqa: B905
    params = jax.tree.unflatten(tree, drawn)
    z = jax.random.normal(jax.random.key(1), (1, 96, 8, 4))
    t, context = jnp.full((1,), diffusion.T_STAR), jnp.zeros((1, 3, 8))
    out, _ = net.bind(params)(z, t, context)
    other, _ = net.bind(params)(z.at[:, 80:].add(1.0), t, context)
    np.testing.assert_array_equal(out[:, :16], other[:, :16])
    assert not np.allclose(out[:, 80:], other[:, 80:])
