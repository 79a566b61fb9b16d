"""Resizing against a float64 oracle, PyTorch and Pillow."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gendr_jax.data.degrade import resize

FACTORS = [0.15, 0.31, 0.5, 0.77, 0.999, 1.0, 1.004, 1.2, 1.37, 1.5]


def picture(height, width, seed=0):
    return np.random.default_rng(seed).random((3, height, width), np.float32)


def on_canvas(x, canvas):
    y = np.full((3, *canvas), 9.0, np.float32)  # what lies outside must not show
    y[:, : x.shape[1], : x.shape[2]] = x
    return jnp.asarray(y)


def oracle_axis(x, n_out, mode, step):
    """One axis, tap by tap. Positions in float32 are the definition (PyTorch's)."""
    n = x.shape[0]
    out = np.zeros((n_out, *x.shape[1:]))
    for i in range(n_out):
        if mode == "area":
            taps = np.arange(i * n // n_out, -(-(i + 1) * n // n_out))
            weights = np.full(len(taps), 1 / len(taps))
        else:
            c = np.float32(float(step) * (i + 0.5) - 0.5)
            if mode == "bilinear":
                c = max(float(c), 0.0)
            c = float(c)
            i0, t = int(np.floor(c)), c - np.floor(c)
            if mode == "bilinear":
                taps, weights = np.array([i0, i0 + 1]), np.array([1 - t, t])
            else:
                a, d = -0.75, np.abs(t - np.arange(-1, 3))
                near = (a + 2) * d**3 - (a + 3) * d**2 + 1
                far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
                taps, weights = i0 + np.arange(-1, 3), np.where(d <= 1, near, far)
            taps = np.clip(taps, 0, n - 1)
        out[i] = np.tensordot(weights, x[taps], 1)
    return out


def oracle(x, size, mode, steps):
    y = np.moveaxis(x.astype(np.float64), 1, 0)
    y = np.moveaxis(oracle_axis(y, size[0], mode, steps[0]), 0, 1)
    y = np.moveaxis(y, 2, 0)
    return np.moveaxis(oracle_axis(y, size[1], mode, steps[1]), 0, 2)


@pytest.mark.parametrize("mode", range(3))
@pytest.mark.parametrize("factor", FACTORS)
def test_by_factor_equals_the_oracle(mode, factor):
    h, w = 62, 47
    x = picture(h, w)
    size = tuple(int(np.floor(n * factor)) for n in (h, w))
    got = resize.resize(
        on_canvas(x, (64, 64)),
        jnp.int32(mode),
        (h, w),
        size,
        (112, 96),
        jnp.float32(factor),
    )
    step = np.float32(1) / np.float32(factor)
    # equal sizes are copied by bilinear, whatever the factor
    step = 1.0 if size == (h, w) and mode == resize.BILINEAR else step
    want = oracle(x, size, resize.MODES[mode], (step, step))
    got = np.asarray(got)
    np.testing.assert_allclose(got[:, : size[0], : size[1]], want, atol=5e-6, rtol=0)
    assert not got[:, size[0] :].any() and not got[:, :, size[1] :].any()


@pytest.mark.parametrize("mode", range(3))
@pytest.mark.parametrize("size", [(32, 32), (9, 17), (38, 31), (63, 64)])
def test_by_size_equals_the_oracle(mode, size):
    h, w = 48, 61
    x = picture(h, w, 1)
    got = resize.resize(on_canvas(x, (64, 64)), jnp.int32(mode), (h, w), size, (64, 64))
    steps = [np.float32(a) / np.float32(b) for a, b in zip((h, w), size, strict=True)]
    want = oracle(x, size, resize.MODES[mode], steps)
    np.testing.assert_allclose(
        np.asarray(got)[:, : size[0], : size[1]], want, atol=5e-6, rtol=0
    )


@pytest.mark.torch
@pytest.mark.parametrize("mode", range(3))
@pytest.mark.parametrize("n", [128, pytest.param(500, marks=pytest.mark.slow)])
def test_equals_pytorch(mode, n):
    """Factors straight from the sampler's range, and sizes, on random pixels."""
    torch = pytest.importorskip("torch")
    name, x = resize.MODES[mode], picture(n, n, 2)
    reference = torch.from_numpy(x)[None]
    canvas = (int(1.5 * n), int(1.5 * n))
    extra = {} if name == "area" else {"align_corners": False}
    for factor in np.float32([0.15, 0.2503, 0.73, 1.0, 1.0011, 1.33, 1.5]):
        f = torch.nn.functional.interpolate(
            reference, scale_factor=float(factor), mode=name, **extra
        )[0].numpy()
        got = resize.resize(
            jnp.asarray(x), jnp.int32(mode), (n, n), f.shape[1:], canvas, factor
        )
        got = np.asarray(got)[:, : f.shape[1], : f.shape[2]]
        np.testing.assert_allclose(got, f, atol=5e-6, rtol=0, err_msg=str(factor))
    for size in (n // 4, n // 4 + 3, n):
        f = torch.nn.functional.interpolate(
            reference, size=(size, size), mode=name, **extra
        )[0].numpy()
        got = resize.resize(
            jnp.asarray(x), jnp.int32(mode), (n, n), (size, size), canvas
        )
        got = np.asarray(got)[:, :size, :size]
        np.testing.assert_allclose(got, f, atol=5e-6, rtol=0, err_msg=str(size))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_antialiased_bicubic(scale):
    """Against the formula in float64, and Pillow, which rounds between the passes."""
    h, w = 14 * scale, 9 * scale
    levels = np.random.default_rng(3).integers(0, 256, (h, w, 3), np.uint8)
    x = np.moveaxis(levels.astype(np.float32) / 255, -1, 0)
    y = x.astype(np.float64)
    for axis, n in ((1, h), (2, w)):
        i, j = np.arange(n // scale)[:, None], np.arange(n)[None]
        d = np.abs((j + 0.5) / scale - (i + 0.5))
        near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
        weights = np.where(d <= 1, near, np.where(d < 2, far, 0))
        weights /= weights.sum(1, keepdims=True)
        y = np.moveaxis(np.tensordot(weights, y, (1, axis)), 0, axis)
    canvas = tuple(-(-n // scale) for n in (64, 64))
    got = resize.antialiased_bicubic(on_canvas(x, (64, 64)), (h, w), canvas, scale)
    got = np.asarray(got)[:, : h // scale, : w // scale]
    np.testing.assert_allclose(got, y, atol=5e-6, rtol=0)
    pillow = Image.fromarray(levels).resize((w // scale, h // scale), Image.BICUBIC)
    difference = np.abs(
        np.clip(np.moveaxis(got, 0, -1), 0, 1) * 255 - np.asarray(pillow)
    )
    assert difference.max() <= 1.51 and difference.mean() < 0.5
