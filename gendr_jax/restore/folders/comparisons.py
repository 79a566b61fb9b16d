"""What `gendr restore` writes beside results: before and after in one picture."""

import os
from pathlib import Path

import numpy as np

from gendr_jax import image_io
from gendr_jax.errors import UsageError
from gendr_jax.image_io import Image, arrays, profiles, resize, sheets
from gendr_jax.restore.folders.naming import Job


def path(folder: Path, job: Job) -> Path:
    """A PNG in another folder, at the result's place, its format in its name."""
    place = folder / job.relative
    return place.with_name(f"{place.stem}{place.suffix.replace('.', '_')}.png")


def require_apart(jobs: list[Job], folders: list[Path], report: str | None) -> None:
    """Refuse places where these pictures, or the report, would replace another file.

    Raises:
        UsageError: with the file.
    """
    taken = {os.path.realpath(p) for job in jobs for p in (job.source, job.target)}
    for folder in folders:
        try:
            is_file = folder.exists() and not folder.is_dir()
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be looked at ({error.strerror}). Name another folder."
            ) from error
        if is_file:
            raise UsageError(f"{folder} is a file, there must be a folder. Name one.")
        for job in jobs:
            place = path(folder, job)
            if (real := os.path.realpath(place)) in taken:
                raise UsageError(
                    f"{place} would be written twice, or replace an input. "
                    f"Name another folder than {folder}."
                )
            taken.add(real)
    if report is not None and os.path.realpath(report) in taken:
        raise UsageError(
            f"--report {report} would replace a picture of this run. Name another file."
        )


def compare(source: Image, restored: Image, path: Path, layout: str) -> None:
    """Write the plain enlargement and the result, "side" by side or "split"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # What is written is RGB, which no profile of grey fits.
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
    """uint8 levels, transparent parts on white."""
    if alpha_hw is not None:
        alpha = resize.bicubic(alpha_hw[..., None], size)
        rgb_hwc = rgb_hwc * alpha + (1 - alpha)
    return np.rint(np.clip(rgb_hwc, 0, 1) * 255).astype(np.uint8)
