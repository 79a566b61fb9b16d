"""Before/after pictures of `gendr restore --compare`."""

import os
from pathlib import Path

import numpy as np

from gendr_jax import image_io
from gendr_jax.errors import UsageError
from gendr_jax.image_io import Image, arrays, profiles, resize, sheets
from gendr_jax.restore.folders.naming import PicturePaths


def path(folder: Path, paths: PicturePaths) -> Path:
    """A PNG in `folder` with the result's relative path, its suffix in the name."""
    result_path = folder / paths.relative
    return result_path.with_name(
        f"{result_path.stem}{result_path.suffix.replace('.', '_')}.png"
    )


def require_apart(
    todo: list[PicturePaths], folders: list[Path], report: str | None
) -> None:
    """Refuse comparison or report paths that would replace another file.

    Raises:
        UsageError: with the file.
    """
    taken = {
        os.path.realpath(p) for paths in todo for p in (paths.source, paths.target)
    }
    for folder in folders:
        try:
            is_file = folder.exists() and not folder.is_dir()
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be read ({error.strerror}). Give another folder."
            ) from error
        if is_file:
            raise UsageError(f"{folder} is a file, not a folder. Give a folder.")
        for paths in todo:
            comparison_path = path(folder, paths)
            if (real := os.path.realpath(comparison_path)) in taken:
                raise UsageError(
                    f"{comparison_path} would be written twice, or replace an input. "
                    f"Give another folder than {folder}."
                )
            taken.add(real)
    if report is not None and os.path.realpath(report) in taken:
        raise UsageError(
            f"--report {report} would replace a picture of this run. Give another file."
        )


def compare(source: Image, restored: Image, path: Path, layout: str) -> None:
    """Write the bicubic enlargement and the result, "side" by side or "split"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The comparison is RGB, for which a grey profile is invalid.
    source, restored = profiles.grey_in_srgb(source), profiles.grey_in_srgb(restored)
    rgb, alpha = arrays.to_unit(source)
    size = restored.pixels_hwc.shape[:2]
    before = _on_white(resize.bicubic(rgb, size), alpha, size)
    after = _on_white(*arrays.to_unit(restored), size)
    if layout == "split":
        sheet = sheets.split(before, after)
    else:
        sheet = sheets.strip({"bicubic": before, "restored": after})
    pixels = np.asarray(sheet)
    image_io.write(path, Image(pixels, icc=restored.icc, space=restored.space, bits=8))


def _on_white(
    rgb_hwc: np.ndarray, alpha_hw: np.ndarray | None, size: tuple[int, int]
) -> np.ndarray:
    """uint8 levels, composited on white."""
    if alpha_hw is not None:
        alpha = resize.bicubic(alpha_hw[..., None], size)
        rgb_hwc = rgb_hwc * alpha + (1 - alpha)
    return np.rint(np.clip(rgb_hwc, 0, 1) * 255).astype(np.uint8)
