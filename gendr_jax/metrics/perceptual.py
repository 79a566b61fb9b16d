"""LPIPS, DISTS and DINOv2 distances of pictures: networks with converted weights.

    lpips      LPIPS 0.1 of pictures in [-1, 1]; AlexNet or VGG16, as the weights are
    dists      DISTS of pictures in [0, 1], not reduced first (the authors' demo
               reduces the shorter side to 256 pixels, the published tables do not)
    dino       mean over patches of 1 - cos(f, g),  f, g DINOv2's patch tokens      (1)
    dino-mean  1 - cos(mean over patches of f, mean over patches of g)              (2)

(1) depends on positions, (2) on content alone. For DINOv2 pictures are resized
(antialiased bicubic) to the nearest multiples of a patch of 14 pixels, at most 1036 a
side.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gendr_jax import nets
from gendr_jax.api import load_component
from gendr_jax.errors import InputError
from gendr_jax.image_io import arrays, resize
from gendr_jax.losses.alignment import IMAGENET_MEAN, IMAGENET_STD
from gendr_jax.models.dinov2 import DINOv2
from gendr_jax.models.dists import DISTS
from gendr_jax.models.lpips import LPIPS
from gendr_jax.weights.sha256 import sha256

PASS_PIXELS = 1 << 20  # pixels of a pass: more would only need more memory
DINO_LONGEST = 1036  # twice its training size; attention grows as the fourth power

Pictures = list[np.ndarray]
Measure = Callable[[Pictures, Pictures], list[float]]
Distance = Callable[[nets.Params, jax.Array, jax.Array], jax.Array]


def open_lpips(path: Path) -> tuple[Measure, str]:
    """(function of two lists of pictures of one shape, description of its weights).

    Args:
        path: as `api.load_component`: a weights folder of ours, a folder with the files
            of trunk and heads, or a file.

    Raises:
        InputError: no LPIPS weights at the path, or damaged ones.
    """
    config, params = load_component(path, "lpips")
    net = nets.build(LPIPS, config)

    def distance(p: nets.Params, x: jax.Array, y: jax.Array) -> jax.Array:
        return net.bind(p)(2 * x - 1, 2 * y - 1)

    return _in_passes(distance, params, _unit), _description(config.net, params)


def open_dists(path: Path) -> tuple[Measure, str]:
    """As `open_lpips`: VGG16 and alpha, beta in two files, or in one."""
    config, params = load_component(path, "dists")
    net = nets.build(DISTS, config)

    def distance(p: nets.Params, x: jax.Array, y: jax.Array) -> jax.Array:
        return net.bind(p)(x, y)

    return _in_passes(distance, params, _unit), _description("VGG16", params)


def open_dinov2(path: Path, over: Literal["patches", "mean"]) -> tuple[Measure, str]:
    """As `open_lpips`: a component folder, the original file, or ours."""
    config, params = load_component(path, "dinov2")
    net = nets.build(DINOv2, config)

    def distance(p: nets.Params, x: jax.Array, y: jax.Array) -> jax.Array:
        f, g = (net.bind(p)(_normalised(v)).astype(jnp.float32) for v in (x, y))
        if over == "mean":
            f, g = (jnp.mean(v, axis=1, keepdims=True) for v in (f, g))
        return jnp.mean(1.0 - _cosine(f, g), axis=1)

    def prepare(picture: np.ndarray) -> np.ndarray:
        return _multiple_of_patch(picture, config.patch_size)

    network = f"DINOv2 of width {config.hidden_size}"
    return _in_passes(distance, params, prepare), _description(network, params)


def _in_passes(
    distance: Distance, params: nets.Params, prepare: Callable[[np.ndarray], np.ndarray]
) -> Measure:
    """Measure pairs in passes of one shape; the last pass is padded by repetition."""
    params = jax.device_put(params)

    @jax.jit
    def apply(p: nets.Params, x: jax.Array, y: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):  # float32 also on a TPU
            return distance(p, x, y)

    def measure(sr: Pictures, gt: Pictures) -> list[float]:
        _require_pairs(sr, gt)
        distances: list[float] = []
        for start in range(0, len(sr), size := _pass_size(sr)):
            sr_batch, gt_batch = (
                [prepare(picture) for picture in side[start : start + size]]
                for side in (sr, gt)
            )
            count = len(sr_batch)
            x, y = (np.stack(s + s[-1:] * (size - count)) for s in (sr_batch, gt_batch))
            distances += np.asarray(apply(params, x, y), np.float64)[:count].tolist()
        return distances

    return measure


def _require_pairs(sr: Pictures, gt: Pictures) -> None:
    for a, b in zip(sr, gt, strict=True):
        if a.shape[:2] != b.shape[:2]:
            raise InputError(
                f"sr has shape {a.shape} and gt {b.shape}. Compare pictures of one "
                "size: crop or resize one of them."
            )


def _pass_size(sr: Pictures) -> int:
    if not sr:
        return 1
    height, width = sr[0].shape[:2]
    return min(len(sr), max(1, PASS_PIXELS // (height * width)))


def _unit(picture: np.ndarray) -> np.ndarray:
    """Three channels, float32 in [0, 1]."""
    return arrays.to_unit(arrays.take(picture))[0]


def _multiple_of_patch(picture: np.ndarray, patch: int) -> np.ndarray:
    x_hwc = _unit(picture)
    factor = min(1.0, DINO_LONGEST / max(x_hwc.shape[:2]))
    height, width = (
        patch * max(1, round(side * factor / patch)) for side in x_hwc.shape[:2]
    )
    return resize.bicubic(x_hwc, (height, width))


def _normalised(x_bhwc: jax.Array) -> jax.Array:
    mean, std = (
        jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 3)
        for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (x_bhwc - mean) / std


def _cosine(f_bld: jax.Array, g_bld: jax.Array) -> jax.Array:
    lengths = jnp.linalg.norm(f_bld, axis=-1) * jnp.linalg.norm(g_bld, axis=-1)
    return jnp.sum(f_bld * g_bld, axis=-1) / jnp.maximum(lengths, 1e-12)


def _description(network: str, params: Any) -> str:
    """The network and the digest of its weights, for the protocol."""
    return f"{network}, sha256 {sha256(params)[:12]}"
