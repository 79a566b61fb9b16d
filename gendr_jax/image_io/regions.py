"""Pictures too large to hold: regions of files, pixels on disk, files from them.

Memory stays at some rows of the picture. Disk holds each raster, and while a `Reader`
is open one uncompressed copy of its picture, unless that is a tiled TIFF or small
(libvips puts it into TMPDIR).
"""

import dataclasses
import os
import tempfile
from pathlib import Path

import numpy as np
import pyvips

from gendr_jax.image_io import loading, pillow, reading, writing
from gendr_jax.image_io.alpha import bleed
from gendr_jax.image_io.picture import MAX_PIXELS, Header, Image

CELL = 64
OPEN_FILES = Path("/proc/self/fd")  # Linux: files of this process by number
VIPS_FORMATS = {"uint8": "uchar", "uint16": "ushort"}


class Reader:
    """Regions of one picture file.

    Attributes:
        header: size, channels, alpha, dtype.
        like: the metadata, an `Image` without pixels.
    """

    header: Header
    like: Image

    def __init__(self, path: Path | str, *, max_pixels: int = MAX_PIXELS):
        """Read the header.

        Raises:
            InputError: as `image_io.read`.
        """
        self._path = Path(path)
        kind = loading.kind_of(self._path)
        if kind in loading.PILLOW:  # formats of old: small, and read whole
            whole = pillow.read(self._path, max_pixels=max_pixels)
            self._image = writing.as_vips(whole)
            empty = np.empty((0, 0, whole.pixels_hwc.shape[2]), whole.pixels_hwc.dtype)
            self.like = dataclasses.replace(whole, pixels_hwc=empty, alpha_hw=None)
        else:
            with loading.errors(self._path):
                self._image, self.like = reading.open_upright(
                    self._path, kind, max_pixels=max_pixels, random=True
                )
        self.header = reading.header(self._image)
        self._region = pyvips.Region.new(self._image)

    def read(self, top: int, left: int, height: int, width: int) -> Image:
        """The region as a picture, with the metadata of the whole.

        Colours under what is transparent are those of its surroundings.

        Raises:
            InputError: pixels that cannot be decoded.
            ValueError: a region that leaves the picture.
        """
        whole = self.header
        inside = min(top, left) >= 0 and min(height, width) > 0
        inside &= top + height <= whole.height and left + width <= whole.width
        if not inside:
            raise ValueError(
                f"region {height}x{width} at ({top}, {left}) leaves the picture of "
                f"{whole.height}x{whole.width}"
            )
        if not whole.alpha:
            pixels = self._fetch(top, left, height, width)
            return dataclasses.replace(self.like, pixels_hwc=pixels)
        # Cells of the picture, so that all regions fill what is hidden alike.
        up, before = top - top % CELL, left - left % CELL
        down = min(whole.height, -(-(top + height) // CELL) * CELL)
        after = min(whole.width, -(-(left + width) // CELL) * CELL)
        pixels = self._fetch(up, before, down - up, after - before)
        colours, alpha = reading.split(pixels, True)
        assert alpha is not None
        filled = bleed(colours.astype(np.float32), alpha.astype(np.float32))
        inner = (slice(top - up, top - up + height),)
        inner += (slice(left - before, left - before + width),)
        colours = np.rint(filled[inner]).astype(whole.dtype)
        return dataclasses.replace(
            self.like, pixels_hwc=colours, alpha_hw=alpha[inner], bled=True
        )

    def _fetch(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        with loading.errors(self._path):
            buffer = self._region.fetch(left, top, width, height)
        bands = self.header.channels + self.header.alpha
        pixels = np.frombuffer(buffer, self.header.dtype)
        return pixels.reshape(height, width, bands)


class Raster:
    """An array [H, W, C] on disk, zeros at first; gone when closed.

    Attributes:
        path: the file: C order, no header, the byte order of this machine.

    Plain reads and writes of a file rather than a memory map, whose pages would count
    as memory of this process.
    """

    def __init__(
        self,
        height: int,
        width: int,
        channels: int,
        dtype: np.dtype | type,
        *,
        folder: Path | str | None = None,
    ):
        """Make the file, in `folder` (default: TMPDIR)."""
        self.shape, self.dtype = (height, width, channels), np.dtype(dtype)
        if OPEN_FILES.is_dir():  # without a name, so that nothing outlives a kill
            self._file = tempfile.TemporaryFile(dir=folder)
            self.path = OPEN_FILES / str(self._file.fileno())
        else:
            self._file = tempfile.NamedTemporaryFile(
                prefix=".gendr-", suffix=".raw", dir=folder
            )
            self.path = Path(self._file.name)
        self._pixel = channels * self.dtype.itemsize
        self._file.truncate(height * width * self._pixel)

    def write(self, top: int, left: int, block_hwc: np.ndarray) -> None:
        """Put a block of pixels; later ones replace earlier ones."""
        height, width = block_hwc.shape[:2]
        self._require(top, left, height, width)
        block = np.ascontiguousarray(block_hwc, self.dtype)
        if width == self.shape[1]:
            self._put(block, self._offset(top, 0))
            return
        for i in range(height):
            self._put(block[i], self._offset(top + i, left))

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """A block of pixels, [height, width, C]."""
        self._require(top, left, height, width)
        block = np.empty((height, width, self.shape[2]), self.dtype)
        if width == self.shape[1]:
            self._take(block, self._offset(top, 0))
            return block
        for i in range(height):
            self._take(block[i], self._offset(top + i, left))
        return block

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def __enter__(self) -> "Raster":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _offset(self, row: int, column: int) -> int:
        return (row * self.shape[1] + column) * self._pixel

    def _put(self, rows: np.ndarray, offset: int) -> None:
        left = rows.data.cast("B")
        while left:  # one call moves 2 GiB at most
            done = os.pwrite(self._file.fileno(), left, offset)
            left, offset = left[done:], offset + done

    def _take(self, rows: np.ndarray, offset: int) -> None:
        left = rows.data.cast("B")
        while left:
            done = os.preadv(self._file.fileno(), [left], offset)
            left, offset = left[done:], offset + done

    def _require(self, top: int, left: int, height: int, width: int) -> None:
        if min(top, left, height, width) < 0 or (
            top + height > self.shape[0] or left + width > self.shape[1]
        ):
            raise ValueError(
                f"block {height}x{width} at ({top}, {left}) leaves {self.shape}"
            )


def finish(
    raster: Raster,
    path: Path | str,
    like: Image,
    *,
    metadata: bool = True,
    quality: int | None = None,
) -> tuple[str, ...]:
    """Write a raster of uint8 or uint16 as a picture file, as `image_io.write` does.

    Returns:
        What of the metadata the file cannot hold.

    Args:
        raster: colours as in `like.pixels_hwc`, then alpha (2 or 4 channels).

    Raises:
        InputError: unknown suffix, or a format that cannot hold the picture.
    """
    height, width, channels = raster.shape
    writing.require_fit(Path(path), like, height, width, alpha=channels in (2, 4))
    kind = VIPS_FORMATS[raster.dtype.name]
    pixels = pyvips.Image.rawload(
        str(raster.path),
        width,
        height,
        channels,
        format=kind,
        access="sequential",
        revalidate=True,
    )
    return writing.save(Path(path), pixels, like, metadata=metadata, quality=quality)
