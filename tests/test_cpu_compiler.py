"""Programs for a processor: which library computes what, and that results stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendr_jax import cpu_compiler


def program(x, kernel):
    """A convolution, a product and a reduction: one of each kind."""
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = jnp.dot(y, kernel[0, 0])
    return y - jnp.max(y, axis=(1, 2, 3), keepdims=True)


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))  # noqa: E731
    return draw(2, 32, 32, 64), draw(3, 3, 64, 64) / 24


@pytest.fixture(scope="module")
def lowered(given):
    return jax.jit(program).lower(*given)


def test_the_result_is_that_of_the_default(lowered, given):
    ours, default = cpu_compiler.compiled(lowered, "cpu"), lowered.compile()
    np.testing.assert_allclose(ours(*given), default(*given), rtol=1e-4, atol=1e-4)


def test_convolutions_are_xlas_own(lowered):
    text = cpu_compiler.compiled(lowered, "cpu").as_text()
    assert " convolution(" in text and " dot(" in text
    assert (
        cpu_compiler.compiled(lowered, "tpu").as_text() == lowered.compile().as_text()
    )


def test_an_option_that_xla_does_not_know_is_left_out(lowered, given, monkeypatch):
    monkeypatch.setattr(cpu_compiler, "OPTIONS", {"xla_cpu_no_such_option": True})
    with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID_ARGUMENT"):
        lowered.compile(compiler_options=cpu_compiler.OPTIONS)
    assert cpu_compiler.compiled(lowered, "cpu")(*given).shape == (2, 32, 32, 64)
