"""REPA: alignment of a UNet feature map with DINOv2 patch tokens.

The usual grid: the map after the UNet's first down block is H/16 x W/16 for an
H x W image; DINOv2 with 14-pixel patches gives as many tokens on 7H/8 x 7W/8 pixels.
"""

import jax
import jax.numpy as jnp
import numpy as np

from gendr_jax.diffusion import at_least_fp32
from gendr_jax.errors import UsageError

PATCH = 14  # pixels per DINOv2 token
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])
IMAGENET_STD = np.array([0.229, 0.224, 0.225])
NORM_EPS = 1e-12
CUBIC_A = -0.75  # Keys' parameter in torch; jax.image.resize has -0.5


def repa(tokens_bld: jax.Array, target_bld: jax.Array) -> jax.Array:
    """-mean_L <h / |h|, y / |y|>, eq. 22 (REPA, `loss.py`).

    Args:
      tokens_bld: projected features, row-major tokens.
      target_bld: DINOv2 tokens of the clean image; receives no gradient.

    Returns:
      loss_b in [-1, 1], shape [B].

    Raises:
      UsageError: token grids or widths differ.
    """
    if tokens_bld.shape != target_bld.shape:
        raise UsageError(
            f"REPA tokens have shape {tokens_bld.shape}, the DINOv2 target has "
            f"{target_bld.shape}. Bring the feature map to the target's grid with "
            "match_grid and set the projector's output width to DINOv2's width."
        )
    h = _normalize(at_least_fp32(tokens_bld))
    y = _normalize(jax.lax.stop_gradient(at_least_fp32(target_bld)))
    return -jnp.mean(jnp.sum(h * y, axis=-1), axis=-1)


def _normalize(x_bld: jax.Array) -> jax.Array:
    """x / max(|x|, eps); written on |x|^2, whose derivative exists at zero."""
    square = jnp.sum(jnp.square(x_bld), axis=-1, keepdims=True)
    return x_bld * jax.lax.rsqrt(jnp.maximum(square, NORM_EPS**2))


def match_grid(feature_bhwc: jax.Array, hw: tuple[int, int]) -> jax.Array:
    """Bilinear resize of a feature map to the token grid `hw`, eq. 24.

    align_corners False, antialiased when shrinking; unchanged where grids agree.
    """
    b, h, w, c = feature_bhwc.shape
    if (h, w) == tuple(hw):
        return feature_bhwc
    return jax.image.resize(
        at_least_fp32(feature_bhwc), (b, *hw, c), "linear", antialias=True
    )


def dino_input(x_bhwc: jax.Array, grid_hw: tuple[int, int]) -> jax.Array:
    """The input of DINOv2 for `grid_hw` tokens, eq. 23 (REPA, `train.py`).

    ImageNet normalisation, then bicubic resize equal to
    torch.nn.functional.interpolate(mode="bicubic", align_corners=False).

    Args:
      x_bhwc: RGB in [-1, 1].
      grid_hw: tokens per column and row; (H/16, W/16) for the usual feature map.

    Returns:
      [B, 14 grid_h, 14 grid_w, 3], ImageNet-normalised, float32 or better.

    Raises:
      UsageError: not three channels.
    """
    x_bhwc = at_least_fp32(x_bhwc)
    if x_bhwc.shape[-1] != 3:
        raise UsageError(
            f"DINOv2 input has {x_bhwc.shape[-1]} channels, it needs 3 (RGB). "
            "Convert the image to RGB."
        )
    shape, dtype = (1, 1, 1, 3), x_bhwc.dtype
    mean = jnp.asarray(IMAGENET_MEAN.reshape(shape), dtype)
    std = jnp.asarray(IMAGENET_STD.reshape(shape), dtype)
    x_bhwc = (0.5 * x_bhwc + 0.5 - mean) / std
    return resize_bicubic(x_bhwc, (PATCH * grid_hw[0], PATCH * grid_hw[1]))


def resize_bicubic(x_bhwc: jax.Array, hw: tuple[int, int]) -> jax.Array:
    """Bicubic resize as torch does it: a = -0.75, no antialias, replicated border."""
    _, h, w, _ = x_bhwc.shape
    rows = jnp.asarray(_cubic_matrix(h, hw[0]), x_bhwc.dtype)
    columns = jnp.asarray(_cubic_matrix(w, hw[1]), x_bhwc.dtype)
    highest = jax.lax.Precision.HIGHEST
    x_bhwc = jnp.einsum("oh,bhwc->bowc", rows, x_bhwc, precision=highest)
    return jnp.einsum("ow,bhwc->bhoc", columns, x_bhwc, precision=highest)


def _cubic_matrix(size: int, new_size: int) -> np.ndarray:
    """[new_size, size] weights of one axis, pixel centres at half integers."""
    centre = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
    first = np.floor(centre).astype(int) - 1
    matrix = np.zeros((new_size, size))
    for tap in range(4):
        weight = _keys_kernel(np.abs(centre - (first + tap)))
        column = np.clip(first + tap, 0, size - 1)
        np.add.at(matrix, (np.arange(new_size), column), weight)
    return matrix


def _keys_kernel(x: np.ndarray) -> np.ndarray:
    a = CUBIC_A
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
