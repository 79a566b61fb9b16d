"""Restores one file for the page, and writes previews and the result to disk."""

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

PREVIEW_SIDE = 2048  # longest side of previews; the download has full size
MAX_PIXELS = 100_000_000  # of the output, which is restored in memory
MAX_RESULTS = 8  # results that are kept on disk
DROPPED = "dropped"  # subfolder for uploaded files and their copies
MAX_DROPPED = 4 * MAX_RESULTS  # files there
Progress = Callable[[float, str], None]


@dataclasses.dataclass(frozen=True)
class Result:
    """Files of one run.

    Attributes:
        before, after: 8-bit PNG for a browser, of equal size.
        file: the result, in the input's format if it can be written, else PNG.
        text: sizes, for the page.
    """

    before: Path
    after: Path
    file: Path
    text: str


class Engine:
    """A restorer that is opened once and used by one call at a time."""

    def __init__(self, open_restorer: Callable[[Any], Restorer]):
        """open_restorer: tile ("auto", 0 or pixels) -> Restorer."""
        self._open, self._lock = open_restorer, threading.Lock()
        self._tile: Any = None
        self._restorer: Restorer | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="gendr-demo-")
        self._result_folders: collections.deque[Path] = collections.deque()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        """Remove all files."""
        self._folder.cleanup()

    @property
    def folder(self) -> Path:
        """The folder of results."""
        return Path(self._folder.name)

    def open(self, tile: Any = "auto") -> Restorer:
        """The restorer with this tile size; weights are read once.

        Raises:
            InputError: weights that cannot be read.
        """
        if self._restorer is None:
            self._restorer, self._tile = self._open(tile), tile
        elif tile != self._tile:
            self._restorer, self._tile = self._restorer.with_tile(tile), tile
        return self._restorer

    def public(self, text: str, source: Path | str) -> str:
        """A message for the page, without the folders of files."""
        text = text.replace(f"{Path(source).parent}{os.sep}", "")
        return re.sub(r"(?<![\w.])/(?:[^\s/'\",:]+/)+", "", text)

    def run(
        self,
        source: Path | str,
        *,
        scale: float,
        tile: Any,
        strength: float,
        progress: Progress = lambda fraction, text: None,
    ) -> Result:
        """Restore one file.

        Raises:
            InputError: a picture that cannot be read or restored.
            UsageError: a scale or tile out of range.
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
        before = _write_preview(plain, folder / "before.png")
        after = _write_preview(restored, folder / "after.png")
        height, width = image.pixels_hwc.shape[:2]
        text = f"{width} x {height} to {size[1]} x {size[0]} pixels"
        return Result(before, after, file, text)

    def _new_folder(self) -> Path:
        """A folder for one result; the oldest one is deleted."""
        self._result_folders.append(Path(tempfile.mkdtemp(dir=self.folder)))
        if len(self._result_folders) > MAX_RESULTS:
            shutil.rmtree(self._result_folders.popleft())
        return self._result_folders[-1]

    def _forget_dropped(self, current: Path) -> None:
        """Delete the oldest uploaded files and their copies."""
        copies = [p for p in (self.folder / DROPPED).rglob("*") if p.is_file()]
        copies.sort(key=lambda path: path.stat().st_mtime)
        for path in copies[: -MAX_DROPPED or None]:
            if path != current:
                path.unlink(missing_ok=True)


def _require_size(image: Image, scale: float) -> None:
    resize.require_scale(scale)
    height, width = resize.output_size(*image.pixels_hwc.shape[:2], scale)
    if height * width > MAX_PIXELS:
        raise InputError(
            f"the result would have {width}x{height} pixels, the limit of this page is "
            f"{MAX_PIXELS}. Choose a smaller scale, or use gendr restore."
        )


def _restore(
    restorer: Restorer, image: Image, scale: float, progress: Progress
) -> Image:
    def on_tile(done: int, total: int) -> None:
        progress(0.1 + 0.8 * done / total, f"restoring, tile {done} of {total}")

    return restorer.restore([image], scale, progress=on_tile)[0]


def _blended(image: Image, restored: Image, strength: float) -> tuple[Image, Image]:
    """(bicubic enlargement, its blend with the restored picture by `strength`)."""
    rgb, _ = arrays.to_unit(image)
    after, alpha = arrays.to_unit(restored)
    plain = np.clip(resize.bicubic(rgb, after.shape[:2]), 0, 1)
    mixed = plain + np.float32(strength) * (after - plain)
    return (
        arrays.from_unit(plain, alpha, restored),
        restored if strength == 1 else arrays.from_unit(mixed, alpha, restored),
    )


def _write_preview(image: Image, path: Path) -> Path:
    """Write a preview for the browser: sRGB, 8 bits, up to PREVIEW_SIDE."""
    image = profiles.grey_in_srgb(image)
    rgb, alpha = arrays.to_unit(image)
    height, width = rgb.shape[:2]
    preview_scale = min(1.0, PREVIEW_SIDE / max(height, width))
    size = resize.output_size(height, width, preview_scale)
    rgb = np.clip(resize.bicubic(rgb, size), 0, 1)
    if alpha is not None:
        alpha = resize.bicubic(alpha[..., None], size)
        rgb = rgb * alpha + (1 - alpha)
    levels = np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)
    preview = Image(levels, icc=image.icc, space=image.space, bits=8)
    image_io.write(path, preview, metadata=False)
    return path
