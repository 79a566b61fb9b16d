"""A picture file to a larger one, neither of which is ever held in memory.

Memory stays at a row of tiles, disk holds the uncorrected picture in float32 and the
finished one.
"""

from pathlib import Path

import numpy as np

from gendr_jax import image_io
from gendr_jax.image_io import arrays, resize
from gendr_jax.image_io.regions import Raster, Reader, finish
from gendr_jax.restore.pipeline import Restorer
from gendr_jax.restore.tiled import Progress
from gendr_jax.restore.tiling import Layout


def restore_file(
    restorer: Restorer,
    source: Path | str,
    target: Path | str,
    scale: float = 4,
    *,
    metadata: bool = True,
    quality: int | None = None,
    max_input_pixels: int = image_io.MAX_PIXELS,
    folder: Path | str | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[Layout, tuple[str, ...]]:
    """Restore one file into another; equal to the way through memory but for rounding.

    Args:
        restorer: with tiles, as `tile=0` holds the whole picture.
        scale: output size is round(scale * side) exactly.
        metadata: keep EXIF, XMP and IPTC.
        quality: as for `image_io.write`.
        max_input_pixels: refuse larger inputs.
        folder: for temporary files; default TMPDIR.
        progress: (done, total) tiles.

    Returns:
        How it was cut, and what of the metadata the file cannot hold.

    Raises:
        InputError: a picture that cannot be read, restored or written.
    """
    reader = Reader(source, max_pixels=max_input_pixels)
    header = reader.header
    size = restorer.output_size(header.height, header.width, scale)
    plan = restorer.layout(*size)
    if not plan.tiled:
        whole = reader.read(0, 0, header.height, header.width)
        (restored,) = restorer.restore([whole], scale)
        lost = image_io.write(target, restored, metadata=metadata, quality=quality)
        return plan, lost
    channels = header.channels + header.alpha
    like, from_hw = reader.like, (header.height, header.width)

    def colours(*part: int) -> np.ndarray:
        return arrays.to_unit(reader.read(*part))[0]

    def opacity(*part: int) -> np.ndarray:
        alpha_hw = arrays.to_unit(reader.read(*part))[1]
        assert alpha_hw is not None
        return alpha_hw[..., None]

    def enlarged(top: int, left: int, height: int, width: int) -> np.ndarray:
        part = (top, left, height, width)
        return np.clip(resize.bicubic_region(colours, from_hw, size, part), 0, 1)

    with (
        Raster(*size, 3, np.float32, folder=folder) as store,
        Raster(*size, channels, header.dtype, folder=folder) as done,
    ):

        def emit(top: int, left: int, rgb_hwc: np.ndarray) -> None:
            alpha_hw = None
            if header.alpha:
                part = (top, left, *rgb_hwc.shape[:2])
                alpha_hw = resize.bicubic_region(opacity, from_hw, size, part)[..., 0]
            block = arrays.from_unit(rgb_hwc, alpha_hw, like)
            layers = [block.pixels_hwc]
            if block.alpha_hw is not None:
                layers.append(block.alpha_hw[..., None])
            done.write(top, left, np.concatenate(layers, axis=-1))

        plan = restorer.tile_picture(size, enlarged, store, emit, progress)
        lost = finish(done, target, like, metadata=metadata, quality=quality)
    return plan, lost
