"""The kernel gradient by matrix products against that of the plain convolution."""

import jax
import jax.numpy as jnp
import numpy as np

from gendr_jax.models import kernel_gradient


def test_value_and_gradients_are_those_of_the_plain_convolution():
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 7, 5, 4))
    kernel = jax.random.normal(keys[1], (3, 3, 4, 6))
    g = jax.random.normal(keys[2], (2, 7, 5, 6))

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )

    want, pull = jax.vjp(plain, x, kernel)
    got, pull_ours = jax.vjp(kernel_gradient.convolve, x, kernel)
    np.testing.assert_allclose(got, want, atol=1e-4)
    for ours, theirs in zip(pull_ours(g), pull(g), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_only_3_x_3_convolutions_of_stride_1_are_taken():
    x, kernel = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 4, 4))
    same = kernel_gradient.SAME
    assert not kernel_gradient.suits(x, kernel, 2, same)
    assert not kernel_gradient.suits(x, kernel[:1, :1], 1, ((0, 0), (0, 0)))
    assert not kernel_gradient.suits(x.astype(jnp.bfloat16), kernel, 1, same)
