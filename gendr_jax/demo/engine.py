"""What the page asks for: one file and its settings to pictures on disk."""

import collections
import dataclasses
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gendr_jax import image_io
from gendr_jax.errors import InputError
from gendr_jax.image_io import Image, arrays, profiles, resize
from gendr_jax.restore.pipeline import Restorer

SHOWN = 2048  # longest side of what the page shows; the file to take away is whole
LARGEST = 100_000_000  # output pixels that are held in memory
KEPT = 8  # results that stay on disk
DROPPED = "dropped"  # below the engine's folder: what the page takes and shows
DROPPED_KEPT = 4 * KEPT  # files there
Progress = Callable[[float, str], None]


@dataclasses.dataclass(frozen=True)
class Result:
    """Files of one run.

    Attributes:
        before, after: 8-bit PNG for a browser, of equal size.
        file: the result, in the input's format where that is written.
        text: sizes and time, for people.
    """

    before: Path
    after: Path
    file: Path
    text: str


class Engine:
    """A restorer behind a lock, opened once."""

    def __init__(self, open_restorer: Callable[[Any], Restorer]):
        """open_restorer: tile ("auto", 0 or pixels) -> Restorer."""
        self._open, self._lock = open_restorer, threading.Lock()
        self._tile: Any = None
        self._restorer: Restorer | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="gendr-demo-")
        self._kept: collections.deque[Path] = collections.deque()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        """Remove all files."""
        self._folder.cleanup()

    @property
    def folder(self) -> Path:
        """Where results are."""
        return Path(self._folder.name)

    def open(self, tile: Any = "auto") -> Restorer:
        """The restorer with this tile; weights are read once.

        Raises:
            InputError: weights that cannot be read.
        """
        if self._restorer is None:
            self._restorer, self._tile = self._open(tile), tile
        elif tile != self._tile:
            self._restorer, self._tile = self._restorer.with_tile(tile), tile
        return self._restorer

    def public(self, text: str, source: Path | str) -> str:
        """What may be told on the page: names of files, not where they are."""
        text = text.replace(f"{Path(source).parent}{os.sep}", "")
        return re.sub(r"(?<![\w.])/(?:[^\s/'\",:]+/)+", "", text)

    def run(
        self,
        source: Path | str,
        *,
        scale: float,
        tile: Any,
        strength: float,
        progress: Progress = lambda part, text: None,
    ) -> Result:
        """Restore one file.

        Raises:
            InputError: a picture that cannot be read or restored.
            UsageError: a scale or tile that there is not.
        """
        source = Path(source)
        self._forget_dropped(source)
        progress(0.0, "reading")
        image = image_io.read(source)
        _require_size(image, scale)
        with self._lock:
            progress(0.05, "waiting for the networks")
            restorer = self.open(tile)
            progress(0.1, "restoring")
            restored = _restore(restorer, image, scale, progress)
        progress(0.9, "writing")
        size = restored.pixels_hwc.shape[:2]
        plain, restored = _blended(image, restored, strength)
        folder = self._new_folder()
        suffix = source.suffix.lower()
        suffix = suffix if suffix in image_io.FORMATS else ".png"
        file = folder / f"{source.stem}_x{scale:g}{suffix}"
        image_io.write(file, restored)
        before = _shown(plain, folder / "before.png")
        after = _shown(restored, folder / "after.png")
        height, width = image.pixels_hwc.shape[:2]
        text = f"{width} x {height} to {size[1]} x {size[0]} pixels"
        return Result(before, after, file, text)

    def _new_folder(self) -> Path:
        """A folder for one result; the oldest goes."""
        self._kept.append(Path(tempfile.mkdtemp(dir=self.folder)))
        if len(self._kept) > KEPT:
            shutil.rmtree(self._kept.popleft())
        return self._kept[-1]

    def _forget_dropped(self, current: Path) -> None:
        """Remove the oldest of what was dropped on the page, and of its copies."""
        copies = [p for p in (self.folder / DROPPED).rglob("*") if p.is_file()]
        copies.sort(key=lambda path: path.stat().st_mtime)
        for path in copies[: -DROPPED_KEPT or None]:
            if path != current:
                path.unlink(missing_ok=True)


def _require_size(image: Image, scale: float) -> None:
    resize.require_scale(scale)
    height, width = resize.output_size(*image.pixels_hwc.shape[:2], scale)
    if height * width > LARGEST:
        raise InputError(
            f"the result would have {width}x{height} pixels, this page makes up to "
            f"{LARGEST}. Choose a smaller scale, or use gendr restore."
        )


def _restore(
    restorer: Restorer, image: Image, scale: float, progress: Progress
) -> Image:
    def on_tile(done: int, total: int) -> None:
        progress(0.1 + 0.8 * done / total, f"restoring, tile {done} of {total}")

    return restorer.restore([image], scale, progress=on_tile)[0]


def _blended(image: Image, restored: Image, strength: float) -> tuple[Image, Image]:
    """(plain enlargement, `strength` of the restored picture and the rest of that)."""
    rgb, _ = arrays.to_unit(image)
    after, alpha = arrays.to_unit(restored)
    plain = np.clip(resize.bicubic(rgb, after.shape[:2]), 0, 1)
    mixed = plain + np.float32(strength) * (after - plain)
    return (
        arrays.from_unit(plain, alpha, restored),
        restored if strength == 1 else arrays.from_unit(mixed, alpha, restored),
    )


def _shown(image: Image, path: Path) -> Path:
    """Write what a browser shows: sRGB, 8 bits, not larger than a screen needs."""
    image = profiles.grey_in_srgb(image)
    rgb, alpha = arrays.to_unit(image)
    height, width = rgb.shape[:2]
    part = min(1.0, SHOWN / max(height, width))
    size = resize.output_size(height, width, part)
    rgb = np.clip(resize.bicubic(rgb, size), 0, 1)
    if alpha is not None:
        alpha = resize.bicubic(alpha[..., None], size)
        rgb = rgb * alpha + (1 - alpha)
    levels = np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)
    plain = Image(levels, icc=image.icc, space=image.space, bits=8)
    image_io.write(path, plain, metadata=False)
    return path
