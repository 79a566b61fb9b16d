"""Our degradation with given parameters of the reference, without random draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gendr_jax.data.degrade import chain, kernels, recipe
from gendr_jax.data.degrade.draws import Draws, OrderDraw
from gendr_jax.data.degrade.noise import NoiseDraw

SINC, NONE = 6, 7


def kernel(p, at):
    if p[at + "kind"] == NONE:
        return kernels.identity_kernel()
    size = jnp.int32(p[at + "size"])
    if p[at + "kind"] == SINC:
        return kernels.sinc_kernel(size, jnp.float32(p[at + "omega"]))
    names = ("sx", "sy", "theta", "beta")
    numbers = (jnp.float32(p[at + name]) for name in names)
    return kernels.blur_kernel(jnp.int32(p[at + "kind"] // 2), size, *numbers)


def order(p, k):
    resize_position = (
        {"resize_at": jnp.int32(p[f"place{k}"])} if p["recipe"] == "apisr" else {}
    )
    return OrderDraw(
        **resize_position,
        kernel=kernel(p, f"k{k}_"),
        factor=jnp.float32(p[f"s{k}"]),
        mode=jnp.int32(p[f"mode{k}"]),
        noise=NoiseDraw(
            is_gaussian=jnp.bool_(p[f"gauss{k}"]),
            is_gray=jnp.bool_(p[f"gray{k}"]),
            gaussian_sigma=jnp.float32(p[f"sigma{k}"] / 255.0),
            poisson_scale=jnp.float32(p[f"shot{k}"]),
        ),
        quality=jnp.float32(p[f"q{k}"]),
    )


def field(p, k, size, canvas):
    """The normals of the reference at the start of a canvas, zero beyond."""
    rng = np.random.RandomState(2 * p["case"] + k - 1)
    normals = rng.standard_normal((3, *size)).astype(np.float32)
    ends = [(0, c - n) for c, n in zip(canvas, size, strict=True)]
    return jnp.asarray(np.pad(normals, ((0, 0), *ends)))


@functools.partial(jax.jit, static_argnames="settings")
def run(x_chw, draws, fields, settings):
    return chain.apply(x_chw, x_chw.shape[1:], draws, fields, settings, 4)


def ours(hq_hwc, p):
    """uint8 -> uint8 by the library, from the parameters of the reference."""
    settings = recipe(p["recipe"])
    sides = hq_hwc.shape[:2]
    first = [int(n * p["s1"]) for n in sides]
    second = [int(n // 4 * p["s2"]) for n in sides]
    noisy = (
        sides if p["place1"] == 2 else first,
        first if p["place2"] == 2 else second,
    )
    large = [2 * n for n in sides]
    fields = chain.Fields(*(field(p, k + 1, noisy[k], large) for k in (0, 1)))
    draws = Draws(
        first=order(p, 1),
        second=order(p, 2),
        has_second=jnp.bool_(p["has_second"]),
        sinc=kernel(p, "k3_"),
        last_mode=jnp.int32(p["mode3"]),
        jpeg_last=jnp.bool_(p["jpeg_last"]),
    )
    x = jnp.asarray(np.moveaxis(hq_hwc.astype(np.float32) / 255, -1, 0))
    y = np.asarray(run(x, draws, fields, settings))
    return np.clip(np.round(np.moveaxis(y, 0, -1) * 255), 0, 255).astype(np.uint8)
