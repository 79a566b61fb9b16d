"""Target sizes, bicubic resizing and mirrored borders, on the host.

In numpy and Pillow rather than JAX, because each size of picture would compile another
program. Values agree with `jax.image.resize(..., "cubic")`,
which training uses, to float32 rounding (tests/restore/test_pipeline.py).
"""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pil

from gendr_jax.errors import InputError, UsageError

# Padded sizes are multiples of this. The networks reduce by 8 and then halve three
# times, so 64 keeps all feature maps even, as in training. It is coarse enough for a
# folder of mixed sizes to share few compiled programs; larger steps would put more
# mirrored content into the group norms and cost more time than they save, as programs
# are cached on disk.
BUCKET = 64
# Smallest and largest scale, any number between; networks are trained for 4.
SCALES = (1.0, 16.0)


@dataclass(frozen=True)
class Target:
    """Size of results: exactly one of these; the other side keeps the proportions.

    Attributes:
        scale: factor on both sides.
        width, height, longest_side: in pixels, exactly.
        megapixels: millions of pixels, rounded to integer sides.
    """

    scale: float | None = None
    width: int | None = None
    height: int | None = None
    longest_side: int | None = None
    megapixels: float | None = None

    def __post_init__(self) -> None:
        sizes = {k: v for k, v in vars(self).items() if v is not None}
        if len(sizes) != 1:
            raise UsageError(
                f"{len(sizes)} target sizes are given ({', '.join(sizes) or 'none'}), "
                "one is needed. Choose scale, width, height, longest side or "
                "megapixels."
            )
        ((name, value),) = sizes.items()
        if not 0 < value < float("inf"):
            raise UsageError(f"{name} is {value}, it must be above 0. Change it.")
        if self.scale is not None:
            require_scale(self.scale)

    def scale_of(self, height: int, width: int, name: str = "the picture") -> float:
        """The scale for a picture of this size; `output_size` then gives the target.

        Raises:
            InputError: the target is smaller than the picture, or far too large.
        """
        if self.scale is not None:
            return self.scale
        if self.width is not None:
            scale = self.width / width
        elif self.height is not None:
            scale = self.height / height
        elif self.longest_side is not None:
            scale = self.longest_side / max(height, width)
        else:
            assert self.megapixels is not None
            scale = (self.megapixels * 1e6 / (height * width)) ** 0.5
        if scale < 1:
            rows, columns = output_size(height, width, scale)
            raise InputError(
                f"{name} is {width}x{height}, larger than the target {columns}x{rows}."
                " Choose a larger target, or reduce it by other means."
            )
        if scale > SCALES[1]:
            raise InputError(
                f"{name} is {width}x{height}, the target is {scale:.1f} times larger, "
                f"the limit is {SCALES[1]:g}. Choose a smaller target."
            )
        return scale


def require_scale(scale: float) -> None:
    """Refuse a scale out of range.

    Raises:
        UsageError: with the range.
    """
    low, high = SCALES
    if not isinstance(scale, numbers.Real) or not low <= scale <= high:
        raise UsageError(
            f"scale is {scale!r}, not in {low:g} to {high:g}. Choose one in this range."
        )


def output_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """(height, width) after enlargement: round(scale * side), exact for any parity."""
    return max(1, round(scale * height)), max(1, round(scale * width))


def bicubic(x_hwc: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Bicubic resize (Keys a=-0.5) of float32 values, not clipped. [h, w, C]."""
    if x_hwc.shape[:2] == tuple(size_hw):
        return x_hwc.astype(np.float32)
    height, width = x_hwc.shape[:2]
    return _resized_box(x_hwc, size_hw, (0, 0, width, height))


def bicubic_region(
    read: Callable[[int, int, int, int], np.ndarray],
    from_hw: tuple[int, int],
    size_hw: tuple[int, int],
    region: tuple[int, int, int, int],
) -> np.ndarray:
    """A region of `bicubic(x_hwc, size_hw)`, from the pixels that it depends on.

    Args:
        read: (top, left, height, width) -> float32 pixels of the input.
        from_hw: (height, width) of the input.
        size_hw: (height, width) of the full result, larger or smaller.
        region: (top, left, height, width) of the result.
    """
    starts, lengths, boxes = [], [], []
    for side, size, offset, length in zip(
        from_hw, size_hw, region[:2], region[2:], strict=True
    ):
        step = side / size
        # The kernel reaches two input pixels, or two output pixels in a reduction,
        # where Pillow stretches it; one more for rounding.
        reach = math.ceil(2 * max(1.0, step)) + 1
        start = max(0, int(offset * step) - reach)
        end = min(side, int((offset + length) * step) + reach + 1)
        starts.append(start)
        lengths.append(end - start)
        boxes.append((offset * step - start, (offset + length) * step - start))
    x_hwc = read(*starts, *lengths)
    if tuple(from_hw) == tuple(size_hw):
        top, left = region[0] - starts[0], region[1] - starts[1]
        return x_hwc[top : top + region[2], left : left + region[3]].astype(np.float32)
    (top, bottom), (left, right) = boxes
    return _resized_box(x_hwc, region[2:], (left, top, right, bottom))


def mirrored_region(
    read: Callable[[int, int, int, int], np.ndarray],
    from_hw: tuple[int, int],
    region: tuple[int, int, int, int],
) -> np.ndarray:
    """A region of a picture that is continued beyond its edges by reflection.

    Beyond the first reflection it is reflected again; a single row or column is
    repeated.

    Args:
        read: (top, left, height, width) -> pixels of the picture.
        from_hw: (height, width) of the picture.
        region: (top, left, height, width), which may reach outside.
    """
    inside, outside = [], []
    for side, offset, length in zip(from_hw, region[:2], region[2:], strict=True):
        start, end = max(offset, 0), min(offset + length, side)
        inside.append((start, end - start))
        outside.append((start - offset, offset + length - end))
    (top, height), (left, width) = inside
    x_hwc = read(top, left, height, width)
    return np.pad(x_hwc, (*outside, (0, 0)), mode="reflect")


def _resized_box(
    x_hwc: np.ndarray, size_hw: tuple[int, int], box: tuple[float, float, float, float]
) -> np.ndarray:
    """The box (left, top, right, bottom), in fractions of pixels too, resized."""
    height, width = size_hw
    planes = [
        Pil.fromarray(np.ascontiguousarray(x_hwc[..., c], np.float32)).resize(
            (width, height), Pil.Resampling.BICUBIC, box=box
        )
        for c in range(x_hwc.shape[-1])
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)
