"""Restore a file into another one, by tiles, for pictures larger than memory.

Memory is needed for a row of tiles, disk for two rasters: the float32 picture before
colour correction, and the final one.
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
    progress: Progress = lambda final, total: None,
) -> tuple[Layout, tuple[str, ...]]:
    """Restore one file into another; equals restoring in memory up to rounding.

    Args:
        restorer: with tiles, as `tile=0` needs the full picture in memory.
        scale: output size is round(scale * side) exactly.
        metadata: keep EXIF, XMP and IPTC.
        quality: as for `image_io.write`.
        max_input_pixels: refuse larger inputs.
        folder: for temporary files; default TMPDIR.
        progress: (done, total) tiles.

    Returns:
        The layout of tiles, and names of metadata that the format cannot store.

    Raises:
        InputError: a picture that cannot be read, restored or written.
    """
    reader = Reader(source, max_pixels=max_input_pixels)
    header = reader.header
    size = restorer.output_size(header.height, header.width, scale)
    plan = restorer.layout(*size)
    if not plan.tiled:
        picture = reader.read(0, 0, header.height, header.width)
        (restored,) = restorer.restore([picture], scale)
        lost = image_io.write(target, restored, metadata=metadata, quality=quality)
        return plan, lost
    channels = header.channels + header.alpha
    like, from_hw = reader.like, (header.height, header.width)

    def colours(*region: int) -> np.ndarray:
        return arrays.to_unit(reader.read(*region))[0]

    def opacity(*region: int) -> np.ndarray:
        alpha_hw = arrays.to_unit(reader.read(*region))[1]
        assert alpha_hw is not None
        return alpha_hw[..., None]

    def enlarged(top: int, left: int, height: int, width: int) -> np.ndarray:
        region = (top, left, height, width)
        return np.clip(resize.bicubic_region(colours, from_hw, size, region), 0, 1)

    with (
        Raster(*size, 3, np.float32, folder=folder) as store,
        Raster(*size, channels, header.dtype, folder=folder) as final,
    ):

        def emit(top: int, left: int, rgb_hwc: np.ndarray) -> None:
            alpha_hw = None
            if header.alpha:
                region = (top, left, *rgb_hwc.shape[:2])
                alpha_hw = resize.bicubic_region(opacity, from_hw, size, region)[..., 0]
            block = arrays.from_unit(rgb_hwc, alpha_hw, like)
            layers = [block.pixels_hwc]
            if block.alpha_hw is not None:
                layers.append(block.alpha_hw[..., None])
            final.write(top, left, np.concatenate(layers, axis=-1))

        plan = restorer.tile_picture(size, enlarged, store, emit, progress)
        lost = finish(final, target, like, metadata=metadata, quality=quality)
    return plan, lost
