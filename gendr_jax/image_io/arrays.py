"""Pictures of callers (numpy, JAX, PyTorch, PIL) to `Image`, and back to their type."""

import dataclasses
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image as Pil

from gendr_jax import image_io
from gendr_jax.errors import InputError
from gendr_jax.image_io import Image
from gendr_jax.image_io.alpha import bleed


class DLPack(Protocol):
    """An array of another library that supports DLPack, such as a PyTorch tensor."""

    def __dlpack__(self, **options: Any) -> Any:
        """The capsule."""

    def __dlpack_device__(self) -> tuple[int, int]:
        """The device type and number."""


Picture = np.ndarray | jax.Array | Pil.Image | Image | DLPack

# ITU-R BT.601, as Pillow's conversion to grey.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
ROUNDING = 1e-3  # floats may exceed [0, 1] by this much, as resized pictures do


def take(picture: Picture) -> Image:
    """The picture as an `Image`; float arrays keep their dtype.

    Args: HW or HWC (1 to 4 channels; of 2 and 4 the last is opacity) uint8, uint16 or
    float array in [0, 1], bfloat16 too, of numpy, JAX, PyTorch or anything with
    `__dlpack__`; a PIL image, turned upright by its EXIF orientation; or an `Image`.

    Raises:
        InputError: another type, shape or dtype, or floats outside [0, 1].
    """
    if isinstance(picture, Image):
        return picture
    if isinstance(picture, Pil.Image):
        return image_io.from_pil(picture, "the picture")
    if isinstance(picture, jax.Array):
        picture = np.asarray(picture)
    elif not isinstance(picture, np.ndarray) and hasattr(picture, "__dlpack__"):
        picture = _from_dlpack(picture)
    if isinstance(picture, str | Path):
        raise InputError(
            f"{picture} is a path, expected a picture. Open it by PIL.Image.open, or "
            "use Restorer.restore([image_io.read(name)])."
        )
    if not isinstance(picture, np.ndarray):
        raise InputError(
            f"a picture is a {type(picture).__name__}, expected a numpy array or a "
            "PIL image. Convert it."
        )
    pixels = picture[..., None] if picture.ndim == 2 else picture
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 2, 3, 4) or 0 in pixels.shape:
        raise InputError(
            f"a picture has shape {picture.shape}, expected [H, W] or [H, W, C] with 1 "
            "to 4 channels. Move channels last; give several pictures as a list."
        )
    _require_range(pixels)
    if pixels.shape[-1] in (2, 4):
        return Image(pixels[..., :-1], pixels[..., -1])
    return Image(pixels)


def give(image: Image, like: Picture) -> Picture:
    """The picture as the type of `like`: the inverse of `take`."""
    if isinstance(like, Image):
        return image
    if isinstance(like, Pil.Image):
        return image_io.to_pil(image)
    if isinstance(like, jax.Array):
        return jnp.asarray(give(image, np.empty(like.shape, like.dtype)))
    if not isinstance(like, np.ndarray):
        return _like_tensor(image, like)
    if like.ndim == 2:
        return image.pixels_hwc[..., 0]
    if image.alpha_hw is not None:
        return np.concatenate([image.pixels_hwc, image.alpha_hw[..., None]], axis=-1)
    return image.pixels_hwc


def _like_tensor(image: Image, like: Any) -> Any:
    """A PyTorch tensor with the dtype and device of `like`; else a numpy array."""
    pixels: Any = give(image, np.empty((1,) * like.ndim))
    return like.new_tensor(_torch_dtype(pixels)) if _is_torch(like) else pixels


def _from_dlpack(picture: Any) -> np.ndarray:
    """The pixels as numpy, copied to the host if needed; does not import PyTorch."""
    try:
        if _is_torch(picture):
            picture = picture.detach().cpu().contiguous()
        # By JAX, as numpy.from_dlpack does not support bfloat16.
        return np.asarray(jax.dlpack.from_dlpack(picture))
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"a picture of type {type(picture).__name__} cannot be read by DLPack "
            f"({reason}). Convert it to a numpy array."
        ) from error


def _is_torch(picture: object) -> bool:
    return type(picture).__module__.partition(".")[0] == "torch"


def _torch_dtype(pixels: np.ndarray) -> np.ndarray:
    """In a dtype that PyTorch has: bfloat16 becomes float32."""
    is_builtin = pixels.dtype.kind in "uf" and pixels.dtype.isbuiltin == 1
    return pixels if is_builtin else pixels.astype(np.float32)


def _is_float(dtype: np.dtype) -> bool:
    """Whether it is a float dtype, bfloat16 included."""
    return bool(jnp.issubdtype(dtype, jnp.floating))


def to_unit(image: Image) -> tuple[np.ndarray, np.ndarray | None]:
    """(rgb_hwc, alpha_hw) in float32, [0, 1]; grey as three equal channels.

    Transparent pixels get the colour of their surroundings (alpha.py).
    """
    max_level = _max_level(image.pixels_hwc.dtype)
    rgb = image.pixels_hwc.astype(np.float32) / max_level
    if rgb.shape[-1] == 1:
        rgb = np.repeat(rgb, 3, axis=-1)
    if image.alpha_hw is None:
        return rgb, None
    alpha = image.alpha_hw.astype(np.float32) / max_level
    return (rgb if image.bled else bleed(rgb, alpha)), alpha


def from_unit(rgb_hwc: np.ndarray, alpha_hw: np.ndarray | None, like: Image) -> Image:
    """The inverse of `to_unit`: channels, dtype and metadata of `like`."""
    if like.pixels_hwc.shape[-1] == 1:
        rgb_hwc = (rgb_hwc @ LUMA)[..., None]
    dtype = like.pixels_hwc.dtype
    alpha = None if alpha_hw is None else _quantise(alpha_hw, dtype)
    return dataclasses.replace(
        like, pixels_hwc=_quantise(rgb_hwc, dtype), alpha_hw=alpha, bled=False
    )


def _quantise(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    x = np.clip(x, 0.0, 1.0)
    if _is_float(dtype):
        return x.astype(dtype)
    return np.rint(x * _max_level(dtype)).astype(dtype)


def _max_level(dtype: np.dtype) -> float:
    return 1.0 if _is_float(dtype) else float(np.iinfo(dtype).max)


def _require_range(pixels: np.ndarray) -> None:
    if _is_float(pixels.dtype):
        values = pixels if pixels.dtype.kind == "f" else pixels.astype(np.float32)
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            raise InputError(
                "a float picture has values that are not finite. Replace them."
            )
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise InputError(
                f"a float picture has values from {low:.4g} to {high:.4g}, expected "
                "[0, 1]. Divide by its white level."
            )
    elif pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"a picture has dtype {pixels.dtype}, expected uint8, uint16 or float in "
            "[0, 1]. Convert it."
        )
