"""NIQE's parameters: read from a file, fitted to a folder, or saved.

    .npz   ours, and BasicSR's niqe_pris_params.npz: mu_pris_param, cov_pris_param.
           Ours also have their provenance; BasicSR can read them
    .mat   modelparameters.mat of the MATLAB release: mu_prisparam, cov_prisparam
    DIR    photographs: fitted when opened, in a tenth of a second each

This package contains no parameters.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gendr_jax import image_io, picture_walk
from gendr_jax.errors import InputError, UsageError
from gendr_jax.metrics.naturalness import FEATURES, Pristine, fit_niqe, gaussian_taps
from gendr_jax.metrics.psnr_ssim import Range
from gendr_jax.weights.sha256 import file_sha256

MEAN = ("mu_pris_param", "mu_prisparam")
_log = logging.getLogger(__name__)
COVARIANCE = ("cov_pris_param", "cov_prisparam")


def open_niqe(path: Path, *, luma: Range = "full") -> Pristine:
    """The parameters of a file, or fitted from a folder.

    Raises:
        InputError: missing, without parameters, damaged, or too few photographs.
    """
    if path.is_dir():
        return fit_folder(path, luma=luma)
    if not path.is_file():
        raise InputError(
            f"{path} does not exist. Give a folder of photographs, or a file of NIQE's "
            "parameters (.npz, .mat)."
        )
    arrays = _mat(path) if path.suffix == ".mat" else _npz(path)
    mean_d = _array(path, arrays, MEAN, (FEATURES,))
    covariance_dd = _array(path, arrays, COVARIANCE, (FEATURES, FEATURES))
    provenance = {"file": path.name, "sha256": file_sha256(path)}
    if "provenance" in arrays:
        provenance |= json.loads(str(arrays["provenance"]))
    return Pristine(mean_d, covariance_dd, provenance)


def fit_folder(folder: Path, *, luma: Range = "full") -> Pristine:
    """`fit_niqe` of every picture below a folder, in the order of their names.

    `provenance` has the counts, and one sha256 over the digests and names of the files.
    """
    walked = picture_walk.walk(folder, image_io.PICTURE_SUFFIXES)
    for line in walked.left_out.values():
        _log.warning("left out %s", line)
    files = sorted(folder / name for name in walked.names)
    if not files:
        raise InputError(f"{folder} has no pictures. Give a folder of photographs.")
    listing = hashlib.sha256()
    current = folder

    def pictures() -> Iterator[np.ndarray]:
        nonlocal current
        for path in files:
            current = path
            name = os.fsencode(path.relative_to(folder).as_posix())
            listing.update(f"{file_sha256(path)}  ".encode() + name + b"\n")
            yield image_io.read(path).pixels_hwc

    try:
        fitted = fit_niqe(pictures(), luma=luma)
    except InputError as error:
        message = str(error)
        raise InputError(
            message if str(current) in message else f"{current}: {message}"
        ) from error
    fitted.provenance["sha256_of_files"] = listing.hexdigest()
    return fitted


def save_niqe(path: Path, pristine: Pristine) -> None:
    """Write an .npz atomically."""
    if path.suffix != ".npz":
        raise UsageError(f"{path} does not end in .npz. Rename it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    taps = gaussian_taps()
    try:
        np.savez(
            temporary,
            mu_pris_param=pristine.mean_d[None],
            cov_pris_param=pristine.covariance_dd,
            gaussian_window=np.outer(taps, taps),  # BasicSR reads it
            provenance=json.dumps(pristine.provenance, sort_keys=True),
        )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def described(pristine: Pristine) -> str:
    """The provenance of the parameters in a few words, for the protocol."""
    provenance = pristine.provenance
    if "pictures" in provenance:
        listing = str(provenance.get("sha256_of_files", ""))[:12]
        return (
            f"fitted on {provenance['pictures']} pictures ({listing or 'of no files'})"
        )
    digest = str(provenance.get("sha256", ""))[:12]
    return f"{provenance.get('file', 'no file')} ({digest})"


def _npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile and numpy raise many types on damage
        raise InputError(
            f"{path} is not an .npz file of arrays ({error}). Copy it again."
        ) from error


def _mat(path: Path) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UsageError(
            f"{path} is a MATLAB file, which needs scipy. pip install scipy."
        ) from error
    try:
        return loadmat(path)
    except Exception as error:  # scipy raises many types on damage
        raise InputError(
            f"{path} is not a MATLAB file ({error}). Copy it again."
        ) from error


def _array(
    path: Path, arrays: dict[str, Any], names: tuple[str, ...], shape: tuple[int, ...]
) -> np.ndarray:
    name = next((name for name in names if name in arrays), None)
    if name is None:
        present = ", ".join(n for n in arrays if not n.startswith("__")) or "nothing"
        raise InputError(
            f"{path} has {present}, not {names[0]}. Give parameters of NIQE."
        )
    array = np.asarray(arrays[name])
    if array.size != np.prod(shape) or array.dtype.kind != "f":
        raise InputError(
            f"{path}: {name} has shape {array.shape} and dtype {array.dtype}, expected "
            f"floats of {shape}. Give parameters of NIQE, not of another metric."
        )
    if not np.isfinite(array).all():
        raise InputError(f"{path}: {name} has NaN or Inf. Copy it again.")
    return array.astype(np.float64).reshape(shape)
