"""Blur kernels against SciPy and NumPy in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from gendr_jax.data.degrade import kernels

GRID = np.arange(-10, 11, dtype=np.float64)


def window(kernel, size):
    inside = np.abs(GRID) <= (size - 1) / 2
    kernel = np.where(inside[:, None] & inside[None, :], kernel, 0.0)
    return kernel / kernel.sum()


def oracle(kind, size, sigma_x, sigma_y, theta, beta):
    """By the inverse of the covariance matrix, not by rotated coordinates."""
    r = np.array(
        [[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]], np.float64
    )
    inverse = np.linalg.inv(r @ np.diag([sigma_x**2, sigma_y**2]) @ r.T)
    x, y = np.meshgrid(GRID, GRID)
    place = np.stack([x, y], -1)
    q = np.einsum("abi,ij,abj->ab", place, inverse, place)
    if kind == kernels.GAUSSIAN:
        return window(np.exp(-q / 2), size)
    if kind == kernels.GENERALISED:
        return window(np.exp(-(q**beta) / 2), size)
    return window(1 / (1 + q**beta), size)


def test_bessel_j1():
    x = np.linspace(0, 45, 20001)
    got = np.asarray(kernels.bessel_j1(jnp.asarray(x, jnp.float32)))
    error = np.abs(got - special.j1(x.astype(np.float32).astype(np.float64)))
    # 4e-7 by the polynomials, and float32 phases of 45 radians
    assert error.max() < 2e-6
    assert error[x < 10].max() < 6e-7


@pytest.mark.parametrize("size", [3, 7, 13, 21])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_bell_kernels(kind, size):
    rng = np.random.default_rng(size + kind)
    for _ in range(6):
        sx, sy = rng.uniform(0.2, 3, 2)
        theta, beta = rng.uniform(-np.pi, np.pi), rng.uniform(0.5, 4)
        p = [np.float32(v) for v in (sx, sy, theta, beta)]
        got = np.asarray(kernels.blur_kernel(jnp.int32(kind), size, *p))
        want = oracle(kind, size, *(float(v) for v in p))
        np.testing.assert_allclose(got, want, atol=1e-6, rtol=0)


def test_narrowest_and_sharpest_kernel_is_finite():
    got = kernels.blur_kernel(jnp.int32(1), 21, *map(jnp.float32, (0.2, 0.2, 0.3, 4)))
    np.testing.assert_allclose(got, kernels.identity_kernel(), atol=1e-6)


@pytest.mark.parametrize("size", [3, 7, 11, 13, 21])
@pytest.mark.parametrize("omega", [np.pi / 5, np.pi / 3, 2.0, 3.0, np.pi])
def test_sinc_kernels(size, omega):
    omega = float(np.float32(omega))
    r = np.hypot(GRID[:, None], GRID[None, :])
    with np.errstate(invalid="ignore"):
        want = omega * special.j1(omega * r) / (2 * np.pi * r)
    want[10, 10] = omega**2 / (4 * np.pi)
    got = np.asarray(kernels.sinc_kernel(size, jnp.float32(omega)))
    np.testing.assert_allclose(got, window(want, size), atol=1e-6, rtol=0)
    assert got.min() < 0 or size == 3 or omega < 1
