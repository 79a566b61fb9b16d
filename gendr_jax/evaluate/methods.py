"""Methods to compare, by the source of their pictures: files, bicubic, a restorer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gendr_jax import image_io
from gendr_jax.errors import InputError
from gendr_jax.image_io import resize

Make = Callable[[list[np.ndarray], tuple[int, int]], list[np.ndarray]]
BICUBIC = "bicubic (Keys a = -0.5) of the low-quality pictures, clipped and rounded"


@dataclass(frozen=True)
class Method:
    """A method that is compared.

    Attributes:
        name: in tables.
        source: description, for files of results.
        files: {reference stem: file}; empty if pictures are computed.
        make: low-quality pictures of one size and the size of results -> results.
    """

    name: str
    source: str
    files: dict[str, Path]
    make: Make | None = None


def read(path: Path) -> np.ndarray:
    """The picture as RGB, HWC uint8 or uint16; grey as three equal channels.

    Raises:
        InputError: the file cannot be read, or some of its pixels are transparent.
    """
    image = image_io.read(path)
    pixels = image.pixels_hwc
    if image.alpha_hw is not None and image.alpha_hw.min() < np.iinfo(pixels.dtype).max:
        raise InputError(
            f"{path} has transparent pixels, which metrics do not support. Flatten it "
            "onto a background."
        )
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def bicubic(name: str) -> Method:
    """Bicubic enlargement, the baseline of every table."""
    return Method(name, BICUBIC, {}, _enlarge)


def restored(name: str, weights: str, dtype: str | None) -> Method:
    """The results of `gendr restore` with these weights and its defaults.

    Raises:
        InputError: weights that cannot be read.
    """
    import jax

    from gendr_jax.restore.pipeline import Restorer

    dtype_name = dtype or ("fp32" if jax.default_backend() == "cpu" else "bf16")
    restorer = Restorer.from_pretrained(weights, dtype_name)

    def make(lows: list[np.ndarray], size_hw: tuple[int, int]) -> list[np.ndarray]:
        scale = size_hw[0] / lows[0].shape[0]
        return restorer(lows, scale=scale)

    return Method(
        name, f"gendr restore --weights {weights} --dtype {dtype_name}", {}, make
    )


def _enlarge(lows: list[np.ndarray], size_hw: tuple[int, int]) -> list[np.ndarray]:
    results = []
    for low in lows:
        max_level = np.iinfo(low.dtype).max
        enlarged = resize.bicubic(low.astype(np.float32) / max_level, size_hw)
        results.append(np.rint(np.clip(enlarged, 0, 1) * max_level).astype(low.dtype))
    return results
