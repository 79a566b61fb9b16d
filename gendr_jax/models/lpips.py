"""LPIPS 0.1 (Zhang et al. 2018): perceptual distance of two pictures.

Indices of ``features`` are torchvision's, and ``lin0`` to ``lin4`` are the names in the
LPIPS files, so that only the prefixes of those files differ.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from gendr_jax.errors import InputError
from gendr_jax.models.layers import Conv
from gendr_jax.models.remat import Policy
from gendr_jax.models.remat import remat as recompute

# The scaling layer: from [-1, 1] to the normalisation of the trunks.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPS = 1e-10  # added to the norm, not under the root


class ConvSpec(NamedTuple):
    """One convolution of a trunk; a ReLU follows each."""

    width: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1


class Stage(NamedTuple):
    """One stage of a trunk: a max-pool of this window (0: none), then convolutions."""

    pool: int
    convs: tuple[ConvSpec, ...]


class Trunk(NamedTuple):
    """Five stages, and the smallest side for which the last feature has a pixel."""

    stages: tuple[Stage, ...]
    least: int


Net = Literal["vgg16", "alexnet"]
TRUNKS: dict[Net, Trunk] = {
    "vgg16": Trunk(
        (
            Stage(0, (ConvSpec(64),) * 2),
            Stage(2, (ConvSpec(128),) * 2),
            Stage(2, (ConvSpec(256),) * 3),
            Stage(2, (ConvSpec(512),) * 3),
            Stage(2, (ConvSpec(512),) * 3),
        ),
        least=16,
    ),
    "alexnet": Trunk(
        (
            Stage(0, (ConvSpec(64, kernel=11, stride=4, padding=2),)),
            Stage(3, (ConvSpec(192, kernel=5, padding=2),)),
            Stage(3, (ConvSpec(384),)),
            Stage(0, (ConvSpec(256),)),
            Stage(0, (ConvSpec(256),)),
        ),
        least=31,
    ),
}


@dataclasses.dataclass(frozen=True)
class LPIPSConfig:
    """VGG16 by default, the usual trunk of a loss; AlexNet is the usual metric."""

    net: Net = "vgg16"

    def __post_init__(self):
        if self.net not in TRUNKS:
            raise InputError(
                f"LPIPSConfig.net is {self.net!r}, not one of {', '.join(TRUNKS)}. "
                "Choose one of them."
            )

    @property
    def slices(self) -> tuple[range, ...]:
        """The indices in ``features`` of each stage; its last one is compared."""
        slices, start = [], 0
        for stage in TRUNKS[self.net].stages:
            stop = start + bool(stage.pool) + 2 * len(stage.convs)
            slices.append(range(start, stop))
            start = stop
        return tuple(slices)


class ReLU(nnx.Module):
    """A layer of its own, as in torchvision's list."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(x)  # its gradient at 0 is 0, as torch's


class MaxPool(nnx.Module):
    """Largest of each window, stride 2, no padding, incomplete windows dropped."""

    def __init__(self, window: int):
        self.window = window

    def __call__(self, x: jax.Array) -> jax.Array:
        window = (1, self.window, self.window, 1)
        return jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, window, (1, 2, 2, 1), "VALID"
        )


class LPIPS(nnx.Module):
    """Distance of two pictures: weighted squared differences of unit features."""

    def __init__(
        self, config: LPIPSConfig, *, dtype, remat: Policy = "none", rngs: nnx.Rngs
    ):
        stages = TRUNKS[config.net].stages
        self.features = nnx.List(_layers(stages, dtype=dtype, rngs=rngs))
        self.lin0, self.lin1, self.lin2, self.lin3, self.lin4 = (
            _head(stage.convs[-1].width, rngs) for stage in stages
        )
        self.config, self.remat = config, remat

    def __call__(self, a_bhwc: jax.Array, b_bhwc: jax.Array) -> jax.Array:
        """Distance [B] in float32 of pictures [B, H, W, 3] in [-1, 1].

        Its gradient is finite everywhere, also where the pictures are equal. Raises
        InputError when the shapes differ or are too small.
        """
        if a_bhwc.shape != b_bhwc.shape:
            raise InputError(
                f"LPIPS compares equal shapes, not {a_bhwc.shape} with {b_bhwc.shape}. "
                "Resize or crop one of the pictures."
            )
        heads = (self.lin0, self.lin1, self.lin2, self.lin3, self.lin4)
        distance_b = jnp.zeros(a_bhwc.shape[:1], jnp.float32)
        pairs = zip(self.activations(a_bhwc), self.activations(b_bhwc), strict=True)
        for head, (a, b) in zip(heads, pairs, strict=True):
            square = jnp.square(_unit(a) - _unit(b))
            # The head is linear, so the mean over space can be taken first: cheaper.
            mean_b11c = jnp.mean(square, (1, 2), keepdims=True)
            distance_b += head(mean_b11c)[:, 0, 0, 0]
        return distance_b

    def activations(self, x_bhwc: jax.Array) -> tuple[jax.Array, ...]:
        """The five features [B, h, w, C], not normalised, of a picture in [-1, 1].

        Raises InputError when the picture has not three channels or is too small.
        """
        least = TRUNKS[self.config.net].least
        _, h, w, c = x_bhwc.shape
        if c != 3 or min(h, w) < least:
            raise InputError(
                f"LPIPS of {self.config.net} needs 3 channels and sides of {least} "
                f"pixels or more, not {h}x{w} of {c}. Enlarge or convert the picture."
            )
        shift = jnp.asarray(SHIFT, jnp.float32).reshape(1, 1, 1, 3)
        scale = jnp.asarray(SCALE, jnp.float32).reshape(1, 1, 1, 3)
        x = (x_bhwc.astype(jnp.float32) - shift) / scale
        taps = []
        for indices in self.config.slices:
            x = recompute(functools.partial(self._stage, indices), self.remat)(x)
            taps.append(x)
        return tuple(taps)

    def _stage(self, indices: range, x: jax.Array) -> jax.Array:
        for i in indices:
            x = self.features[i](x)
        return x


def _layers(
    stages: tuple[Stage, ...], *, dtype, rngs: nnx.Rngs
) -> list[Conv | ReLU | MaxPool]:
    """torchvision's ``features`` up to the last ReLU that is compared."""
    layers: list[Conv | ReLU | MaxPool] = []
    width = 3
    for stage in stages:
        if stage.pool:
            layers.append(MaxPool(stage.pool))
        for spec in stage.convs:
            conv = Conv(
                width,
                spec.width,
                spec.kernel,
                stride=spec.stride,
                padding=spec.padding,
                dtype=dtype,
                rngs=rngs,
            )
            layers += [conv, ReLU()]
            width = spec.width
    return layers


def _head(width: int, rngs: nnx.Rngs) -> Conv:
    """A weight per channel; float32, since it sees one number per channel.

    Initial weights are positive, as LPIPS keeps them in training, so is the distance.
    """
    head = Conv(width, 1, 1, bias=False, dtype=jnp.float32, rngs=rngs)
    head.kernel = nnx.Param(jnp.abs(head.kernel[...]))
    return head


def _unit(x_bhwc: jax.Array) -> jax.Array:
    """x / (|x| + eps) over channels in float32, with a finite gradient at x = 0."""
    x = x_bhwc.astype(jnp.float32)
    square = jnp.sum(jnp.square(x), -1, keepdims=True)
    alive = square > 0  # sqrt has no gradient at 0: there the norm is a constant
    norm = jnp.where(alive, jnp.sqrt(jnp.where(alive, square, 1.0)), 0.0)
    return x / (norm + EPS)
