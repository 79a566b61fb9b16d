"""Colour fixes: give a restored picture the colours of its bicubic enlargement.

A fix depends on the full picture, never on tiles, so that it leaves no seams: it is
computed in one call, or for huge pictures from `Stats` gathered block by block (adain,
lab) or on blocks with a halo of WAVELET_RADIUS pixels (wavelet). All are float32, need
memory linear in the picture, and do not clip.

`adain` and `lab` are idempotent. `wavelet` is not: its blur B is not an ideal low-pass,
so a second application changes colours again, by B(1 - B) of the difference, at most a
quarter.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ColorFix = Literal["adain", "wavelet", "lab", "none"]
StatsFix = Literal["adain", "lab"]

# Added to the variances, as in StableSR and OSEDiff.
EPS = 1e-5
# The same in units of Lab, where lightness is 0 to 100 instead of 0 to 1.
LAB_EPS = 1e-1
WAVELET_LEVELS = 5
WAVELET_RADIUS = 2**WAVELET_LEVELS - 1

# Linear sRGB to XYZ (IEC 61966-2-1), divided by the white point D65.
WHITE = np.array([[0.95047], [1.0], [1.08883]])
XYZ = (
    np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    / WHITE
)
# From (f(X), f(Y), f(Z)) to L, a, b, but for L's offset of -16.
LAB = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])
CORNER = 6 / 29  # where Lab's cube root meets its linear segment


class Stats(NamedTuple):
    """Moments of the unmasked pixels; those of disjoint regions add by `merge`.

    Attributes:
        count: of pixels, [B, 1, 1, 1].
        mean: [B, 1, 1, C].
        square: sum of squared differences from the mean, [B, 1, 1, C].
    """

    count: jax.Array
    mean: jax.Array
    square: jax.Array


def fix(
    name: ColorFix,
    sr_bhwc: jax.Array,
    ref_bhwc: jax.Array,
    mask_bhw: jax.Array | None = None,
    strength: float | jax.Array = 1.0,
) -> jax.Array:
    """Apply a fix with `strength`: 0 changes nothing, 1 applies it fully.

    Args:
        sr_bhwc: restored pictures in [0, 1].
        ref_bhwc: their bicubic enlargements in [0, 1], of the same shape.
        mask_bhw: 1 inside a rectangle, 0 on the padding around it, which does not
            affect the statistics; None: no padding.
    """
    sr = sr_bhwc.astype(jnp.float32)
    if name == "none":
        return sr
    if name == "wavelet":
        fixed = wavelet(sr, ref_bhwc, mask_bhw)
    else:
        sr_stats, ref_stats = (
            stats(name, x, mask_bhw) for x in (sr, ref_bhwc.astype(jnp.float32))
        )
        fixed = match(name, sr, sr_stats, ref_stats)
    return blend(fixed, sr, strength)


def blend(
    sr_bhwc: jax.Array, up_bhwc: jax.Array, strength: float | jax.Array
) -> jax.Array:
    """up + strength (sr - up); strength 1 returns `sr` bit for bit."""
    return jnp.where(strength == 1, sr_bhwc, up_bhwc + strength * (sr_bhwc - up_bhwc))


def adain(
    sr_bhwc: jax.Array, ref_bhwc: jax.Array, mask_bhw: jax.Array | None = None
) -> jax.Array:
    """Match mean and standard deviation of each channel to the reference.

    The adain colour fix of StableSR and OSEDiff (`wavelet_color_fix.py`): unbiased
    variance plus 1e-5, per sample and channel. Arguments as for `fix`.
    """
    return fix("adain", sr_bhwc, ref_bhwc, mask_bhw)


def lab(
    sr_bhwc: jax.Array, ref_bhwc: jax.Array, mask_bhw: jax.Array | None = None
) -> jax.Array:
    """`adain` in CIE Lab (Reinhard et al. 2001 used a similar space): lightness and
    colour are matched separately, so that hue shifts do not change contrast."""
    return fix("lab", sr_bhwc, ref_bhwc, mask_bhw)


def wavelet(
    sr_bhwc: jax.Array, ref_bhwc: jax.Array, mask_bhw: jax.Array | None = None
) -> jax.Array:
    """Detail of the restored picture on the low frequencies of the reference.

    The wavelet colour fix of StableSR: five à trous levels of the kernel (1, 2, 1)/4
    in both directions, edges repeated. Arguments as for `fix`.
    """
    sr = sr_bhwc.astype(jnp.float32)
    low = ref_bhwc.astype(jnp.float32) - sr
    for level in range(WAVELET_LEVELS):
        low = _blur(_extended(low, mask_bhw), 2**level)
    return sr + low


def stats(
    name: StatsFix, x_bhwc: jax.Array, mask_bhw: jax.Array | None = None
) -> Stats:
    """Moments in the colour space of this fix."""
    x = _to(name, x_bhwc.astype(jnp.float32))
    weight = jnp.ones(x.shape[:3]) if mask_bhw is None else mask_bhw
    weight = weight.astype(jnp.float32)[..., None]
    count = jnp.sum(weight, axis=(1, 2), keepdims=True)
    mean = jnp.sum(x * weight, axis=(1, 2), keepdims=True) / count
    square = jnp.sum((x - mean) ** 2 * weight, axis=(1, 2), keepdims=True)
    return Stats(count, mean, square)


def merge(a: Stats, b: Stats) -> Stats:
    """Moments of two disjoint regions together; float64 for numpy float64 input.

    To merge many regions, convert each first, as sums over a huge picture exceed the
    precision of float32: `jax.tree.map(np.float64, stats(...))`.
    """
    count = a.count + b.count
    mean_difference = b.mean - a.mean
    mean = a.mean + mean_difference * (b.count / count)
    square = a.square + b.square + mean_difference**2 * (a.count * b.count / count)
    return Stats(count, mean, square)


def match(name: StatsFix, sr_bhwc: jax.Array, sr: Stats, ref: Stats) -> jax.Array:
    """Change a picture, or a region of one, with moments `sr` to moments `ref`."""
    eps = EPS if name == "adain" else LAB_EPS
    gain = _std(ref, eps) / _std(sr, eps)
    x = _to(name, sr_bhwc.astype(jnp.float32))
    gain, offset = (jnp.asarray(v, jnp.float32) for v in (gain, ref.mean))
    return _back(name, (x - jnp.asarray(sr.mean, jnp.float32)) * gain + offset)


def to_lab(rgb_bhwc: jax.Array) -> jax.Array:
    """sRGB in [0, 1] to CIE Lab (D65); values outside use the same formulas."""
    x = rgb_bhwc
    curved = ((jnp.maximum(x, 0.04045) + 0.055) / 1.055) ** 2.4
    linear = jnp.where(x <= 0.04045, x / 12.92, curved)
    t = _mix(linear, XYZ)
    straight = t / (3 * CORNER**2) + 4 / 29
    f = jnp.where(t > CORNER**3, jnp.cbrt(t), straight)
    lightness, a, b = jnp.split(_mix(f, LAB), 3, axis=-1)
    return jnp.concatenate([lightness - 16, a, b], axis=-1)


def from_lab(lab_bhwc: jax.Array) -> jax.Array:
    """The inverse of `to_lab`, for colours outside sRGB too."""
    lightness, a, b = jnp.split(lab_bhwc, 3, axis=-1)
    shifted = jnp.concatenate([lightness + 16, a, b], axis=-1)
    f = _mix(shifted, np.linalg.inv(LAB))
    t = jnp.where(f > CORNER, f**3, 3 * CORNER**2 * (f - 4 / 29))
    linear = _mix(t, np.linalg.inv(XYZ))
    corner = 0.04045 / 12.92
    curved = 1.055 * jnp.maximum(linear, corner) ** (1 / 2.4) - 0.055
    return jnp.where(linear <= corner, linear * 12.92, curved)


def _to(name: StatsFix, rgb: jax.Array) -> jax.Array:
    return to_lab(rgb) if name == "lab" else rgb


def _back(name: StatsFix, x: jax.Array) -> jax.Array:
    return from_lab(x) if name == "lab" else x


def _mix(x: jax.Array, matrix: np.ndarray) -> jax.Array:
    """Each pixel times a matrix, exact in float32 on every device."""
    m = jnp.asarray(matrix, jnp.float32)
    return jnp.einsum("...c,dc->...d", x, m, precision="highest")


def _std(x: Stats, eps: float) -> jax.Array:
    """sqrt(unbiased variance + eps)."""
    # A single pixel has no unbiased variance: it becomes 0.
    variance = x.square / (x.count - 1 + (x.count <= 1))
    return (variance + eps) ** 0.5


def _extended(x_bhwc: jax.Array, mask_bhw: jax.Array | None) -> jax.Array:
    """Fill the padding with the nearest unmasked row and column."""
    if mask_bhw is None:
        return x_bhwc

    def extend_one(x_hwc: jax.Array, mask_hw: jax.Array) -> jax.Array:
        for axis in (0, 1):
            unmasked = jnp.any(mask_hw, axis=1 - axis)
            first, length = jnp.argmax(unmasked), jnp.sum(unmasked)
            shape = [-1 if i == axis else 1 for i in range(3)]
            index = jnp.arange(x_hwc.shape[axis]).reshape(shape)
            for edge, outside in (
                (first, index < first),
                (first + length - 1, index >= first + length),
            ):
                line = jax.lax.dynamic_slice_in_dim(x_hwc, edge, 1, axis=axis)
                x_hwc = jnp.where(outside, line, x_hwc)
        return x_hwc

    return jax.vmap(extend_one)(x_bhwc, mask_bhw)


def _blur(x_bhwc: jax.Array, step: int) -> jax.Array:
    """(1, 2, 1)/4 at this distance in both directions, edges repeated."""
    for axis in (1, 2):
        size = x_bhwc.shape[axis]
        widths = [(step, step) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(x_bhwc, widths, mode="edge")
        before = jax.lax.slice_in_dim(padded, 0, size, axis=axis)
        after = jax.lax.slice_in_dim(padded, 2 * step, 2 * step + size, axis=axis)
        x_bhwc = (before + 2 * x_bhwc + after) / 4
    return x_bhwc
