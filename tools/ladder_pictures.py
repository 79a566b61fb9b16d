"""The pictures that ladder.py measures on: pairs, of each the middle."""

import re
from pathlib import Path

import jax
import numpy as np

from gendr_jax import nets
from gendr_jax.data import decode
from gendr_jax.errors import UsageError
from gendr_jax.image_io.resize import bicubic
from gendr_jax.models.vae import VAE
from gendr_jax.train.stages import samples
from gendr_jax.weights.folder import Weights

SCALE = 4
Pictures = list[np.ndarray]


def pairs(where: Path, side: int, most: int) -> tuple[Pictures, Pictures]:
    """The middles of LR/ and HR/, partners by name but for an ending _LR4 or _HR."""
    low, high = (
        {re.sub(r"_(LR|HR)\d*$", "", p.stem): p for p in sorted((where / k).iterdir())}
        for k in ("LR", "HR")
    )
    if low.keys() != high.keys() or not low:
        odd = sorted(low.keys() ^ high.keys())
        raise UsageError(f"{where}: {len(low)} pictures in LR, partners lack: {odd}.")
    names = list(low)[:: -(-len(low) // most)]
    return (
        [middle(decode.read(low[name]), side // SCALE, 1) for name in names],
        [middle(decode.read(high[name]), side, SCALE) for name in names],
    )


def middle(pixels_hwc: np.ndarray, side: int, unit: int) -> np.ndarray:
    """The middle `side` x `side`, from a whole pixel of the small picture on."""
    if not side:
        return pixels_hwc
    top, left = (max((n - side) // 2 // unit * unit, 0) for n in pixels_hwc.shape[:2])
    return pixels_hwc[top : top + side, left : left + side]


def side_by_side(pictures: Pictures) -> np.ndarray:
    """Pictures of one size as one, four in a row; what fills no row is left out."""
    across = min(4, len(pictures))
    rows = [
        np.concatenate(pictures[i : i + across], axis=1)
        for i in range(0, len(pictures) - across + 1, across)
    ]
    return np.concatenate(rows, axis=0)


def enlarged(low_hwc: np.ndarray) -> np.ndarray:
    height, width = (SCALE * n for n in low_hwc.shape[:2])
    up_hwc = bicubic(low_hwc.astype(np.float32) / 255.0, (height, width))
    return np.round(np.clip(up_hwc, 0, 1) * 255).astype(np.uint8)


def recoded(weights: Weights, pictures: Pictures) -> Pictures:
    """What the autoencoder alone makes of pictures: no student is better."""
    config = weights.configs["vae"]
    vae = nets.build(VAE, config)
    encode, decoded = samples.encoder(vae, config), samples.decoder(vae, config)
    again = jax.jit(lambda params, x_bhwc: decoded(params, encode(params, x_bhwc)))
    results = []
    for picture in pictures:
        x_bhwc = picture[None].astype(np.float32) / 127.5 - 1.0
        y_hwc = np.asarray(again(weights.params["vae"], x_bhwc))[0]
        results.append(np.round((np.clip(y_hwc, -1, 1) + 1) * 127.5).astype(np.uint8))
    return results
