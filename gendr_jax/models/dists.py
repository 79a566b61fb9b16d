"""DISTS (Ding, Ma, Wang, Simoncelli 2020): a distance of structure and texture.

On VGG16 whose max-pools are L2 pools. With x_k, y_k the pictures (k = 0) and the five
features, m, v, c their means, variances and covariance over space, for each channel,

    DISTS = 1 - sum_k,channel (alpha S1 + beta S2) / sum (alpha + beta)             (1)
    S1 = (2 m_x m_y + 1e-6) / (m_x^2 + m_y^2 + 1e-6)                                (2)
    S2 = (2 c_xy + 1e-6) / (v_x + v_y + 1e-6)                                       (3)

Indices of ``features`` are torchvision's.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gendr_jax.errors import InputError
from gendr_jax.models.layers import Conv
from gendr_jax.models.lpips import ReLU
from gendr_jax.models.remat import Policy
from gendr_jax.models.remat import remat as recompute

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
DEPTHS = (2, 2, 3, 3, 3)  # convolutions of each stage
EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class DISTSConfig:
    """VGG16's channels by stage."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)

    def __post_init__(self):
        if len(self.widths) != len(DEPTHS) or min(self.widths) < 1:
            raise InputError(
                f"DISTSConfig.widths are {self.widths}, expected {len(DEPTHS)} "
                "positive numbers. Use those of VGG16."
            )

    @property
    def slices(self) -> tuple[range, ...]:
        """The indices in ``features`` of each stage; its last one is compared."""
        ends = np.cumsum([2 * n + (k > 0) for k, n in enumerate(DEPTHS)])
        return tuple(map(range, (0, *ends[:-1]), ends))

    @property
    def channels(self) -> int:
        """Number of means, and of variances, that are compared."""
        return 3 + sum(self.widths)


class L2Pool(nnx.Module):
    """sqrt(blur(x^2) + 1e-12) with stride 2; the blur is (1, 2, 1)/4 on both axes."""

    def __call__(self, x: jax.Array) -> jax.Array:
        square = jnp.square(x.astype(jnp.float32))
        for axis in (1, 2):
            square = self._blur_stride_2(square, axis)
        return jnp.sqrt(square + 1e-12).astype(x.dtype)

    def _blur_stride_2(self, x: jax.Array, axis: int) -> jax.Array:
        padding = [(0, 0)] * 4
        padding[axis] = (1, 1)
        x = jnp.pad(x, padding)
        count = (x.shape[axis] - 3) // 2 + 1
        first, middle, last = (
            jax.lax.slice_in_dim(x, i, i + 2 * count - 1, 2, axis) for i in range(3)
        )
        return 0.25 * first + 0.5 * middle + 0.25 * last


class DISTS(nnx.Module):
    """Distance of two pictures, equation (1)."""

    def __init__(
        self, config: DISTSConfig, *, dtype, remat: Policy = "none", rngs: nnx.Rngs
    ):
        self.features = nnx.List(_layers(config, dtype=dtype, rngs=rngs))
        shape = (config.channels,)  # about 0.1, the authors' initial value
        draw = jax.random.normal
        self.alpha = nnx.Param(0.1 + 0.01 * draw(rngs.params(), shape, jnp.float32))
        self.beta = nnx.Param(0.1 + 0.01 * draw(rngs.params(), shape, jnp.float32))
        self.config, self.remat = config, remat

    def __call__(self, x_bhwc: jax.Array, y_bhwc: jax.Array) -> jax.Array:
        """Distance [B] in float32 of pictures [B, H, W, 3] in [0, 1], not [-1, 1].

        Raises InputError when the shapes differ or channels are not three.
        """
        if x_bhwc.shape != y_bhwc.shape:
            raise InputError(
                f"DISTS compares equal shapes, not {x_bhwc.shape} with {y_bhwc.shape}. "
                "Resize or crop one of the pictures."
            )
        pairs = zip(self.activations(x_bhwc), self.activations(y_bhwc), strict=True)
        s1, s2 = (
            jnp.concatenate(similarities, axis=-1)
            for similarities in zip(*(_similarity(x, y) for x, y in pairs), strict=True)
        )
        alpha, beta = (
            p[...].astype(jnp.float32)[None] for p in (self.alpha, self.beta)
        )
        similarity_b = jnp.sum(alpha * s1 + beta * s2, axis=-1)
        return 1.0 - similarity_b / (jnp.sum(alpha) + jnp.sum(beta))

    def activations(self, x_bhwc: jax.Array) -> tuple[jax.Array, ...]:
        """The picture and its five features [B, h, w, C]."""
        if x_bhwc.ndim != 4 or x_bhwc.shape[-1] != 3:
            raise InputError(
                f"DISTS takes pictures [B, H, W, 3], not {x_bhwc.shape}. Convert them."
            )
        x = x_bhwc.astype(jnp.float32)
        mean, std = (
            jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 3) for v in (MEAN, STD)
        )
        h = (x - mean) / std
        taps = [x]
        for indices in self.config.slices:
            h = recompute(functools.partial(self._stage, indices), self.remat)(h)
            taps.append(h)
        return tuple(taps)

    def _stage(self, indices: range, x: jax.Array) -> jax.Array:
        for i in indices:
            x = self.features[i](x)
        return x


def _layers(
    config: DISTSConfig, *, dtype, rngs: nnx.Rngs
) -> list[Conv | ReLU | L2Pool]:
    """VGG16's ``features`` up to its last ReLU."""
    layers: list[Conv | ReLU | L2Pool] = []
    width = 3
    for depth, channels in zip(DEPTHS, config.widths, strict=True):
        if layers:
            layers.append(L2Pool())
        for _ in range(depth):
            layers += [Conv(width, channels, dtype=dtype, rngs=rngs), ReLU()]
            width = channels
    return layers


def _similarity(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Equations (2) and (3), each [B, C], in float32."""
    x, y = (f.astype(jnp.float32) for f in (x, y))
    space = (1, 2)
    m_x, m_y = (jnp.mean(f, space, keepdims=True) for f in (x, y))
    x, y = x - m_x, y - m_y
    v_x, v_y, c_xy = (jnp.mean(f, space) for f in (x * x, y * y, x * y))
    m_x, m_y = m_x[:, 0, 0], m_y[:, 0, 0]
    s1 = (2 * m_x * m_y + EPS) / (m_x**2 + m_y**2 + EPS)
    return s1, (2 * c_xy + EPS) / (v_x + v_y + EPS)
