"""Pictures larger than memory: read regions of a file, a raster on disk, write it.

Memory is needed for some rows of the picture only. Disk (TMPDIR) is needed for each
raster and, while a `Reader` is open, for an uncompressed copy of its picture, unless
that is small or a tiled TIFF.
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

BLEED_BLOCK = 64  # pixels a side; transparent pixels are filled by blocks
OPEN_FILES = Path("/proc/self/fd")  # Linux: open files of this process by number
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
        file_format = loading.format_of(self._path)
        if file_format in loading.PILLOW_FORMATS:  # usually small, and decoded at once
            picture = pillow.read(self._path, max_pixels=max_pixels)
            self._image = writing.as_vips(picture)
            empty = np.empty(
                (0, 0, picture.pixels_hwc.shape[2]), picture.pixels_hwc.dtype
            )
            self.like = dataclasses.replace(picture, pixels_hwc=empty, alpha_hw=None)
        else:
            with loading.errors(self._path):
                self._image, self.like = reading.open_upright(
                    self._path, file_format, max_pixels=max_pixels, random=True
                )
        self.header = reading.header(self._image)
        self._region = pyvips.Region.new(self._image)

    def read(self, top: int, left: int, height: int, width: int) -> Image:
        """The region as a picture, with the metadata of the file.

        Transparent pixels have the colours of their surroundings.

        Raises:
            InputError: pixels that cannot be decoded.
            ValueError: a region outside the picture.
        """
        header = self.header
        is_inside = min(top, left) >= 0 and min(height, width) > 0
        is_inside &= top + height <= header.height and left + width <= header.width
        if not is_inside:
            raise ValueError(
                f"region {height}x{width} at ({top}, {left}) leaves the picture of "
                f"{header.height}x{header.width}"
            )
        if not header.alpha:
            pixels = self._fetch(top, left, height, width)
            return dataclasses.replace(self.like, pixels_hwc=pixels)
        # By blocks on a fixed grid, so that overlapping regions are filled alike.
        block_top, block_left = top - top % BLEED_BLOCK, left - left % BLEED_BLOCK
        block_bottom = min(
            header.height, -(-(top + height) // BLEED_BLOCK) * BLEED_BLOCK
        )
        block_right = min(header.width, -(-(left + width) // BLEED_BLOCK) * BLEED_BLOCK)
        pixels = self._fetch(
            block_top, block_left, block_bottom - block_top, block_right - block_left
        )
        colours, alpha = reading.split(pixels, True)
        assert alpha is not None
        filled = bleed(colours.astype(np.float32), alpha.astype(np.float32))
        region = (slice(top - block_top, top - block_top + height),)
        region += (slice(left - block_left, left - block_left + width),)
        colours = np.rint(filled[region]).astype(header.dtype)
        return dataclasses.replace(
            self.like, pixels_hwc=colours, alpha_hw=alpha[region], bled=True
        )

    def _fetch(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        with loading.errors(self._path):
            buffer = self._region.fetch(left, top, width, height)
        bands = self.header.channels + self.header.alpha
        pixels = np.frombuffer(buffer, self.header.dtype)
        return pixels.reshape(height, width, bands)


class Raster:
    """An array [H, W, C] on disk, initially zero, deleted when closed.

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
        """Create the file in `folder` (default: TMPDIR)."""
        self.shape, self.dtype = (height, width, channels), np.dtype(dtype)
        if OPEN_FILES.is_dir():  # a file without a name disappears with the process
            self._file = tempfile.TemporaryFile(dir=folder)
            self.path = OPEN_FILES / str(self._file.fileno())
        else:
            self._file = tempfile.NamedTemporaryFile(
                prefix=".gendr-", suffix=".raw", dir=folder
            )
            self.path = Path(self._file.name)
        self._pixel_bytes = channels * self.dtype.itemsize
        self._file.truncate(height * width * self._pixel_bytes)

    def write(self, top: int, left: int, block_hwc: np.ndarray) -> None:
        """Write a block of pixels; it replaces what was written before."""
        height, width = block_hwc.shape[:2]
        self._require_inside(top, left, height, width)
        block = np.ascontiguousarray(block_hwc, self.dtype)
        if width == self.shape[1]:
            self._write_bytes(block, self._offset(top, 0))
            return
        for i in range(height):
            self._write_bytes(block[i], self._offset(top + i, left))

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Read a block of pixels, [height, width, C]."""
        self._require_inside(top, left, height, width)
        block = np.empty((height, width, self.shape[2]), self.dtype)
        if width == self.shape[1]:
            self._read_bytes(block, self._offset(top, 0))
            return block
        for i in range(height):
            self._read_bytes(block[i], self._offset(top + i, left))
        return block

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def __enter__(self) -> "Raster":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _offset(self, row: int, column: int) -> int:
        return (row * self.shape[1] + column) * self._pixel_bytes

    def _write_bytes(self, rows: np.ndarray, offset: int) -> None:
        remaining = rows.data.cast("B")
        while remaining:  # one call moves 2 GiB at most
            count = os.pwrite(self._file.fileno(), remaining, offset)
            remaining, offset = remaining[count:], offset + count

    def _read_bytes(self, rows: np.ndarray, offset: int) -> None:
        remaining = rows.data.cast("B")
        while remaining:
            count = os.preadv(self._file.fileno(), [remaining], offset)
            remaining, offset = remaining[count:], offset + count

    def _require_inside(self, top: int, left: int, height: int, width: int) -> None:
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
        Names of the metadata that the format cannot store.

    Args:
        raster: colours as in `like.pixels_hwc`, then alpha (2 or 4 channels).

    Raises:
        InputError: unknown suffix, or a format that cannot store the picture.
    """
    height, width, channels = raster.shape
    writing.require_fit(Path(path), like, height, width, alpha=channels in (2, 4))
    vips_format = VIPS_FORMATS[raster.dtype.name]
    pixels = pyvips.Image.rawload(
        str(raster.path),
        width,
        height,
        channels,
        format=vips_format,
        access="sequential",
        revalidate=True,
    )
    return writing.save(Path(path), pixels, like, metadata=metadata, quality=quality)
