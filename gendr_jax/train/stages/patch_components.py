"""Initial weights of an autoencoder's linear path: PCA of patches of photographs.

PCA is the linear autoencoder of least mean square error. Every latent channel has mean
0 and variance 1 over the patches, so that the diffusion model needs no scaling.
Deterministic: equal patches give equal weights.
"""

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from gendr_jax.errors import UsageError
from gendr_jax.models.vae import SURE, VAEConfig
from gendr_jax.nets import Params

BATCHES = 64  # of the run's own data


def from_batches(config: VAEConfig, batches: Iterable[Any]) -> Params:
    """Weights of ``models.vae.LinearPath`` from the first batches of photographs.

    Raises:
        UsageError: latents have more channels than the patches have numbers.
    """
    pixels = config.in_channels * config.factor**2
    if config.latent_channels > pixels:
        raise UsageError(
            f"vae.latent_channels={config.latent_channels} is more than the {pixels} "
            f"numbers of a patch of {config.factor} pixels. Lower it."
        )
    count, total, products = 0, np.zeros(pixels), np.zeros((pixels, pixels))
    for batch in itertools.islice(batches, BATCHES):
        patches = _patches(np.asarray(batch["hq"], np.float64) / 127.5 - 1, config)
        count += len(patches)
        total += patches.sum(0)
        products += patches.T @ patches
    mean = total / count
    return components(config, mean, products / count - np.outer(mean, mean))


def components(config: VAEConfig, mean: np.ndarray, covariance: np.ndarray) -> Params:
    """The weights from mean and covariance of patches in [-1, 1]."""
    c = config.latent_channels
    variances, vectors = np.linalg.eigh(covariance)  # ascending
    variances, vectors = variances[::-1][:c], vectors[:, ::-1][:, :c]
    # The sign of an eigenvector is arbitrary: the largest entry is positive.
    largest = np.abs(vectors).argmax(0)
    vectors = vectors * np.sign(vectors[largest, range(c)])
    std = np.sqrt(np.maximum(variances, 1e-8))
    down, up = vectors / std, vectors.T * std[:, None]
    zeros = np.zeros_like(down)
    bias = np.concatenate([-mean @ down, np.full(c, SURE)])
    return {
        "down": {
            "kernel": _conv(np.concatenate([down, zeros], 1)),
            "bias": _float32(bias),
        },
        "up": {"kernel": _conv(up), "bias": _float32(mean)},
    }


def _patches(x_bhwc: np.ndarray, config: VAEConfig) -> np.ndarray:
    """All patches as rows, in the order of ``layers.space_to_channel``."""
    side = config.factor
    b, h, w, c = x_bhwc.shape
    x = x_bhwc.reshape(b, h // side, side, w // side, side, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side * side * c)


def _conv(matrix: np.ndarray) -> np.ndarray:
    return _float32(matrix)[None, None]


def _float32(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32)
