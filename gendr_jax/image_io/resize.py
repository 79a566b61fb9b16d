"""Sizes on the host: exact bicubic enlargement and padding to the network's multiple.

In numpy and Pillow rather than JAX, because every picture has another size and each
would compile another program. Values agree with `jax.image.resize(..., "cubic")`,
which training uses, to float32 rounding (tests/restore/test_pipeline.py).
"""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pil

from gendr_jax.errors import InputError, UsageError

# Padded sizes are multiples of this. The networks halve eight-pixel cells three times
# more, so 64 keeps all maps even, as in training; and it is coarse enough for a folder
# of mixed sizes to share few compiled programs, while larger steps would put more
# mirrored content into the group normalisation and cost more time than they save:
# programs are kept on disk between runs.
BUCKET = 64
# Least and greatest scale; any number between, 4 is what networks learn.
SCALES = (1.0, 16.0)


@dataclass(frozen=True)
class Target:
    """How large results shall be; one of these, the other side follows in proportion.

    Attributes:
        scale: times larger.
        width, height, longest_side: in pixels, exactly.
        megapixels: millions of pixels, as near as whole sides allow.
    """

    scale: float | None = None
    width: int | None = None
    height: int | None = None
    longest_side: int | None = None
    megapixels: float | None = None

    def __post_init__(self) -> None:
        given = {k: v for k, v in vars(self).items() if v is not None}
        if len(given) != 1:
            raise UsageError(
                f"a size is given {len(given)} times ({', '.join(given) or 'none'}), "
                "it takes one. Choose scale, width, height, longest side or megapixels."
            )
        ((name, value),) = given.items()
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
                f"{name} is {width}x{height}, larger than the {columns}x{rows} asked "
                "for. Ask for more, or reduce it by other means."
            )
        if scale > SCALES[1]:
            raise InputError(
                f"{name} is {width}x{height}, what is asked for is {scale:.1f} times "
                f"larger, the limit is {SCALES[1]:g}. Ask for less."
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
            f"scale is {scale!r}, it can be {low:g} to {high:g}. Choose one of those."
        )


def output_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """(height, width) after enlargement: round(scale * side), exact for any parity."""
    return max(1, round(scale * height)), max(1, round(scale * width))


def bicubic(x_hwc: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Bicubic resize (Keys a=-0.5) of float32 values, not clipped. [h, w, C]."""
    if x_hwc.shape[:2] == tuple(size_hw):
        return x_hwc.astype(np.float32)
    height, width = x_hwc.shape[:2]
    return _resized(x_hwc, size_hw, (0, 0, width, height))


def bicubic_region(
    read: Callable[[int, int, int, int], np.ndarray],
    from_hw: tuple[int, int],
    size_hw: tuple[int, int],
    part: tuple[int, int, int, int],
) -> np.ndarray:
    """A part of `bicubic(x_hwc, size_hw)` from the pixels that it depends on.

    Args:
        read: (top, left, height, width) -> float32 pixels of the input.
        from_hw: (height, width) of the input.
        size_hw: of the whole result, larger or smaller.
        part: (top, left, height, width) within the result.
    """
    starts, lengths, boxes = [], [], []
    for side, size, at, length in zip(
        from_hw, size_hw, part[:2], part[2:], strict=True
    ):
        step = side / size
        # The kernel reaches two pixels, of the result where that is smaller; one more
        # guards against rounding.
        reach = math.ceil(2 * max(1.0, step)) + 1
        start = max(0, int(at * step) - reach)
        end = min(side, int((at + length) * step) + reach + 1)
        starts.append(start)
        lengths.append(end - start)
        boxes.append((at * step - start, (at + length) * step - start))
    x_hwc = read(*starts, *lengths)
    if tuple(from_hw) == tuple(size_hw):
        top, left = part[0] - starts[0], part[1] - starts[1]
        return x_hwc[top : top + part[2], left : left + part[3]].astype(np.float32)
    (top, bottom), (left, right) = boxes
    return _resized(x_hwc, part[2:], (left, top, right, bottom))


def mirrored_region(
    read: Callable[[int, int, int, int], np.ndarray],
    from_hw: tuple[int, int],
    part: tuple[int, int, int, int],
) -> np.ndarray:
    """A part of a picture that continues beyond its edges as its mirror image.

    A picture smaller than what is mirrored is mirrored again and again; one of a
    single row or column repeats it.

    Args:
        read: (top, left, height, width) -> pixels of the picture.
        from_hw: (height, width) of the picture.
        part: (top, left, height, width), which may lie partly outside.
    """
    inside, outside = [], []
    for side, at, length in zip(from_hw, part[:2], part[2:], strict=True):
        start, end = max(at, 0), min(at + length, side)
        inside.append((start, end - start))
        outside.append((start - at, at + length - end))
    (top, height), (left, width) = inside
    x_hwc = read(top, left, height, width)
    return np.pad(x_hwc, (*outside, (0, 0)), mode="reflect")


def _resized(
    x_hwc: np.ndarray, size_hw: tuple[int, int], box: tuple[float, float, float, float]
) -> np.ndarray:
    """What lies in the box (left, top, right, bottom), at another size."""
    height, width = size_hw
    planes = [
        Pil.fromarray(np.ascontiguousarray(x_hwc[..., c], np.float32)).resize(
            (width, height), Pil.Resampling.BICUBIC, box=box
        )
        for c in range(x_hwc.shape[-1])
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)
