"""Small pictures on disk, for tests of what is done with folders of them."""

import numpy as np
from PIL import Image as Pil


def pixels(height, width, seed=0, noise=0.0):
    """A smooth colour picture, uint8 HWC; the noise differs with the seed."""
    y, x, c = np.mgrid[:height, :width, :3]
    smooth = 127 + 90 * np.sin(x / 5.0 + c + seed % 7) * np.cos(y / (3.0 + c))
    noisy = smooth + np.random.default_rng(seed).normal(0, 1, smooth.shape) * noise
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def write(folder, names, size=(24, 32), noise=0.0):
    """Pictures of these file names; equal names and sizes are equal pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        seed = sum(name.split(".")[0].encode())
        Pil.fromarray(pixels(*size, seed, noise)).save(folder / name)
    return folder
