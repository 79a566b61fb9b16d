"""Pictures for the report: a thumbnail of each, and crops where methods differ most.

Crops are at 1:1 and without loss. There are CROPS of them at most, of the pictures
that most methods have and on which they differ most, and no more than fit in BYTES.
"""

import heapq
import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image as Pil

from gendr_jax.evaluate.measuring import Seen

SIDE = 192  # of a crop, in pixels of results
STEP = 16  # of the places that are tried
CROPS = 24
BYTES = 12_000_000
THUMB, THUMBS = 96, 500  # longer side; how many
INPUT, TRUTH = "input", "truth"


@dataclass(frozen=True)
class Crop:
    """One place of one picture, by every method.

    Attributes:
        name: of the picture.
        box: left, top, width, height as parts of the picture.
        size: width and height in pixels of results.
        panels: {label: WebP file}; INPUT has fewer pixels than the others.
    """

    name: str
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    panels: dict[str, bytes]


@dataclass(frozen=True)
class Cut:
    """A crop whose panels are still pixels; most never become files."""

    name: str
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    panels: dict[str, np.ndarray]

    def encoded(self) -> Crop:
        files = {label: webp(pixels) for label, pixels in self.panels.items()}
        return Crop(self.name, self.box, self.size, files)


@dataclass
class Gallery:
    """Collects while items are measured: `add` is shown each of them once.

    What is kept stays pixels until the end: where many pictures tie, each of them takes
    the place of another one, and to encode them would take longer than to measure.

    Attributes:
        thumbs: {picture: JPEG file}, of the first THUMBS.
    """

    crops_kept: int = CROPS
    thumbs: dict[str, bytes] = field(default_factory=dict)
    _heap: list[tuple[int, float, str, Cut]] = field(default_factory=list)

    def add(self, seen: Seen) -> None:
        """Look at one item."""
        if not seen.results:
            return
        name = seen.item.name
        shown = seen.gt if seen.gt is not None else next(iter(seen.results.values()))
        if len(self.thumbs) < THUMBS:
            self.thumbs[name] = thumbnail(shown)
        if not self.crops_kept:
            return
        difference, top, left = worst(seen)
        rank = (len(seen.results), difference, name)
        if len(self._heap) < self.crops_kept:
            heapq.heappush(self._heap, (*rank, cut(seen, top, left)))
        elif rank > self._heap[0][:3]:
            heapq.heapreplace(self._heap, (*rank, cut(seen, top, left)))

    @property
    def crops(self) -> list[Crop]:
        """The most different first, and at least that one."""
        order = sorted(self._heap, key=lambda one: one[:3], reverse=True)
        kept, room = [], BYTES
        for *_, pixels in order:
            one = pixels.encoded()
            room -= sum(map(len, one.panels.values()))
            if kept and room < 0:
                break
            kept.append(one)
        return kept


def worst(seen: Seen) -> tuple[float, int, int]:
    """(difference in levels, top, left) of the place to show.

    Where the methods differ most from their mean; a single one is held against the
    truth, or where there is none against its own mean, which finds detail.
    """
    lumas = [_luma(x) for x in seen.results.values()]
    if len(lumas) == 1 and seen.gt is not None:
        lumas.append(_luma(seen.gt))
    stack = np.stack(lumas)
    middle = stack.mean(axis=0) if len(stack) > 1 else stack.mean()
    spread_hw = ((stack - middle) ** 2).mean(axis=0)
    height, width = (min(SIDE, n) for n in spread_hw.shape)
    sums = np.pad(spread_hw, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    tops = _places(spread_hw.shape[0], height)
    lefts = _places(spread_hw.shape[1], width)
    t, l = np.meshgrid(tops, lefts, indexing="ij")  # noqa: E741
    inside = (
        sums[t + height, l + width]
        - sums[t, l + width]
        - sums[t + height, l]
        + sums[t, l]
    )
    row, column = np.unravel_index(np.argmax(inside), inside.shape)
    difference = float(np.sqrt(max(0.0, inside[row, column]) / (height * width)))
    return difference, int(tops[row]), int(lefts[column])


def cut(seen: Seen, top: int, left: int) -> Cut:
    """The pixels there, copied; the input is cut at the same place of the scene."""
    rows, columns = seen.item.size_hw
    height, width = min(SIDE, rows), min(SIDE, columns)
    panels = {}
    if seen.lr is not None:
        y, x = seen.lr.shape[0] / rows, seen.lr.shape[1] / columns
        panels[INPUT] = to_8_bits(
            seen.lr[
                round(top * y) : max(round((top + height) * y), round(top * y) + 1),
                round(left * x) : max(round((left + width) * x), round(left * x) + 1),
            ]
        ).copy()
    pictures = dict(seen.results) | ({} if seen.gt is None else {TRUTH: seen.gt})
    for label, picture in pictures.items():
        part = picture[top : top + height, left : left + width]
        panels[label] = to_8_bits(part).copy()
    box = (left / columns, top / rows, width / columns, height / rows)
    return Cut(seen.item.name, box, (width, height), panels)


def webp(pixels_hwc: np.ndarray) -> bytes:
    """Without loss, of 8 bits."""
    out = io.BytesIO()
    Pil.fromarray(to_8_bits(pixels_hwc)).save(out, "WEBP", lossless=True, method=4)
    return out.getvalue()


def thumbnail(pixels_hwc: np.ndarray) -> bytes:
    """A small JPEG."""
    picture, out = Pil.fromarray(to_8_bits(pixels_hwc)), io.BytesIO()
    picture.thumbnail((THUMB, THUMB), Pil.Resampling.BICUBIC, reducing_gap=3.0)
    picture.save(out, "JPEG", quality=80)
    return out.getvalue()


def _places(side: int, length: int) -> np.ndarray:
    """Multiples of STEP, and the last place that there is."""
    return np.unique(np.append(np.arange(0, side - length + 1, STEP), side - length))


def _luma(pixels_hwc: np.ndarray) -> np.ndarray:
    """Levels 0 to 255, near enough to compare by."""
    return to_8_bits(pixels_hwc).astype(np.float32) @ np.asarray(
        [0.299, 0.587, 0.114], np.float32
    )


def to_8_bits(pixels_hwc: np.ndarray) -> np.ndarray:
    """Of 8 or 16 bits, rounded."""
    if pixels_hwc.dtype == np.uint8:
        return np.ascontiguousarray(pixels_hwc)
    return ((pixels_hwc.astype(np.uint32) + 128) // 257).astype(np.uint8)
