"""Pictures for the report: thumbnails, and crops where methods differ most.

Crops are at 1:1 and lossless: at most CROPS, of the pictures that most methods have and
on which they differ most, and at most BYTES in total.
"""

import heapq
import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image as Pil

from gendr_jax.evaluate.measuring import ItemPixels

SIDE = 192  # of a crop, in pixels of results
STEP = 16  # of the crop positions that are compared
CROPS = 24
BYTES = 12_000_000
THUMB, THUMBS = 96, 500  # longer side; how many
INPUT, TRUTH = "input", "truth"


@dataclass(frozen=True)
class Crop:
    """One crop of one picture, by every method.

    Attributes:
        name: of the picture.
        box: left, top, width, height as fractions of the picture.
        size: width and height in pixels of results.
        panels: {label: WebP file}; INPUT has fewer pixels than the others.
    """

    name: str
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    panels: dict[str, bytes]


@dataclass(frozen=True)
class PixelCrop:
    """A crop whose panels are not encoded yet; most never are."""

    name: str
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    panels: dict[str, np.ndarray]

    def encoded(self) -> Crop:
        files = {label: webp(pixels) for label, pixels in self.panels.items()}
        return Crop(self.name, self.box, self.size, files)


@dataclass
class Gallery:
    """Collects thumbnails and crops while items are measured, by `add`.

    Crops stay pixels until the end: they may be replaced many times, and encoding each
    would take longer than measuring.

    Attributes:
        thumbs: {picture: JPEG file}, of the first THUMBS.
    """

    crops_kept: int = CROPS
    thumbs: dict[str, bytes] = field(default_factory=dict)
    _heap: list[tuple[int, float, str, PixelCrop]] = field(default_factory=list)

    def add(self, pixels: ItemPixels) -> None:
        """Add the thumbnail of one item, and its crop if it ranks high enough."""
        if not pixels.results:
            return
        name = pixels.item.name
        thumb_source = (
            pixels.gt if pixels.gt is not None else next(iter(pixels.results.values()))
        )
        if len(self.thumbs) < THUMBS:
            self.thumbs[name] = thumbnail(thumb_source)
        if not self.crops_kept:
            return
        difference, top, left = most_different(pixels)
        rank = (len(pixels.results), difference, name)
        if len(self._heap) < self.crops_kept:
            heapq.heappush(self._heap, (*rank, crop_at(pixels, top, left)))
        elif rank > self._heap[0][:3]:
            heapq.heapreplace(self._heap, (*rank, crop_at(pixels, top, left)))

    @property
    def crops(self) -> list[Crop]:
        """Encoded crops, the most different first, at least one and up to BYTES."""
        order = sorted(self._heap, key=lambda one: one[:3], reverse=True)
        kept, room = [], BYTES
        for *_, pixels in order:
            one = pixels.encoded()
            room -= sum(map(len, one.panels.values()))
            if kept and room < 0:
                break
            kept.append(one)
        return kept


def most_different(pixels: ItemPixels) -> tuple[float, int, int]:
    """(difference in levels, top, left) of the crop to show.

    Where the methods differ most from their mean; a single method is compared with the
    ground truth, or without one with its own mean, which finds detail.
    """
    lumas = [_luma(x) for x in pixels.results.values()]
    if len(lumas) == 1 and pixels.gt is not None:
        lumas.append(_luma(pixels.gt))
    stack = np.stack(lumas)
    reference = stack.mean(axis=0) if len(stack) > 1 else stack.mean()
    spread_hw = ((stack - reference) ** 2).mean(axis=0)
    height, width = (min(SIDE, n) for n in spread_hw.shape)
    # Summed-area table: the sum of every window from four of its corners.
    sums = np.pad(spread_hw, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    tops = _positions(spread_hw.shape[0], height)
    lefts = _positions(spread_hw.shape[1], width)
    t, l = np.meshgrid(tops, lefts, indexing="ij")  # noqa: E741
    window_sums = (
        sums[t + height, l + width]
        - sums[t, l + width]
        - sums[t + height, l]
        + sums[t, l]
    )
    row, column = np.unravel_index(np.argmax(window_sums), window_sums.shape)
    difference = float(np.sqrt(max(0.0, window_sums[row, column]) / (height * width)))
    return difference, int(tops[row]), int(lefts[column])


def crop_at(pixels: ItemPixels, top: int, left: int) -> PixelCrop:
    """Copies of the pixels at a position; of the input at the corresponding one."""
    rows, columns = pixels.item.size_hw
    height, width = min(SIDE, rows), min(SIDE, columns)
    panels = {}
    if pixels.lr is not None:
        y, x = pixels.lr.shape[0] / rows, pixels.lr.shape[1] / columns
        panels[INPUT] = to_8_bits(
            pixels.lr[
                round(top * y) : max(round((top + height) * y), round(top * y) + 1),
                round(left * x) : max(round((left + width) * x), round(left * x) + 1),
            ]
        ).copy()
    pictures = dict(pixels.results) | ({} if pixels.gt is None else {TRUTH: pixels.gt})
    for label, picture in pictures.items():
        crop_hwc = picture[top : top + height, left : left + width]
        panels[label] = to_8_bits(crop_hwc).copy()
    box = (left / columns, top / rows, width / columns, height / rows)
    return PixelCrop(pixels.item.name, box, (width, height), panels)


def webp(pixels_hwc: np.ndarray) -> bytes:
    """A lossless WebP file of 8 bits."""
    out = io.BytesIO()
    Pil.fromarray(to_8_bits(pixels_hwc)).save(out, "WEBP", lossless=True, method=4)
    return out.getvalue()


def thumbnail(pixels_hwc: np.ndarray) -> bytes:
    """A small JPEG file."""
    picture, out = Pil.fromarray(to_8_bits(pixels_hwc)), io.BytesIO()
    picture.thumbnail((THUMB, THUMB), Pil.Resampling.BICUBIC, reducing_gap=3.0)
    picture.save(out, "JPEG", quality=80)
    return out.getvalue()


def _positions(side: int, length: int) -> np.ndarray:
    """Crop positions along one side: multiples of STEP, and the last position."""
    return np.unique(np.append(np.arange(0, side - length + 1, STEP), side - length))


def _luma(pixels_hwc: np.ndarray) -> np.ndarray:
    """Luma in 0 to 255, of 8-bit pixels."""
    return to_8_bits(pixels_hwc).astype(np.float32) @ np.asarray(
        [0.299, 0.587, 0.114], np.float32
    )


def to_8_bits(pixels_hwc: np.ndarray) -> np.ndarray:
    """Pixels of 8 or 16 bits as 8 bits, rounded."""
    if pixels_hwc.dtype == np.uint8:
        return np.ascontiguousarray(pixels_hwc)
    return ((pixels_hwc.astype(np.uint32) + 128) // 257).astype(np.uint8)
