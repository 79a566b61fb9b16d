"""Options of `Restorer` and checks of its weights and mesh."""

import dataclasses
import math
import numbers
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gendr_jax.errors import InputError, UsageError
from gendr_jax.nets import Params
from gendr_jax.restore import forward
from gendr_jax.restore.color import ColorFix
from gendr_jax.restore.forward import RESTORERS, Recipe
from gendr_jax.weights.folder import Weights

DTYPES = {
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float32": "float32",
    "fp32": "float32",
}
Tile = Literal["auto"] | int


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments of `Restorer.from_pretrained`, documented there."""

    dtype: str
    color_fix: ColorFix
    color_fix_strength: float
    strength: float
    tile: Tile
    tile_overlap: int | None
    batch: int
    max_pixels: int
    pad_cfg: float = 1.0

    def __post_init__(self):
        for name, known in (
            ("dtype", tuple(DTYPES)),
            ("color_fix", get_args(ColorFix)),
        ):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name} is {getattr(self, name)!r}, not one of "
                    f"{', '.join(known)}. Choose one."
                )
        for name in ("color_fix_strength", "strength"):
            value = getattr(self, name)
            in_range = isinstance(value, numbers.Real) and 0 <= value <= 1
            _require(name, value, in_range, "0 to 1")
        in_range = isinstance(self.pad_cfg, numbers.Real) and 0 <= self.pad_cfg <= 100
        _require("pad_cfg", self.pad_cfg, in_range, "0 to 100")
        is_tile = self.tile == "auto" or _is_count(self.tile, 0)
        _require("tile", self.tile, is_tile, '"auto", 0, or pixels')
        is_overlap = self.tile_overlap is None or _is_count(self.tile_overlap, 0)
        _require("tile_overlap", self.tile_overlap, is_overlap, "0 or more pixels")
        for name in ("batch", "max_pixels"):
            value = getattr(self, name)
            _require(name, value, _is_count(value, 1), "1 or more")


def require_restorer(weights: Weights) -> None:
    """Refuse weights that cannot restore.

    Raises:
        InputError: another kind, or networks that do not fit together.
    """
    if weights.kind not in RESTORERS:
        raise InputError(
            f"these are weights of kind {weights.kind}, restoring needs one of "
            f"{', '.join(RESTORERS)}. Give a folder that stage distill, adc or pix "
            "wrote."
        )
    unet, vae = weights.configs["unet"], weights.configs.get("vae")
    channels = unet.in_channels, unet.out_channels
    pixels = 3 * math.isqrt(unet.in_channels // 3) ** 2
    if weights.kind == "pix":
        if channels != (pixels, pixels):
            raise InputError(
                f"the UNet takes {channels[0]} channels and gives {channels[1]}, kind "
                "pix has 3 times a square for both. Give a folder that stage pix wrote."
            )
        return
    if vae is None:
        raise InputError(
            f"weights of kind {weights.kind} lack a VAE. Give their complete folder."
        )
    latent = vae.latent_channels
    if channels != (pixels if weights.kind == "adc" else latent, latent):
        raise InputError(
            f"the UNet takes {unet.in_channels} channels and gives "
            f"{unet.out_channels}, the VAE has {latent}. Combine networks of one "
            "training."
        )


def require_pad_cfg(weights: Weights, pad_cfg: float) -> None:
    """Refuse PadCFG for weights that do not support it.

    Raises:
        UsageError: weights of another kind, or without a negative prompt.
    """
    if pad_cfg == 1:
        return
    if weights.kind != "pix":
        raise UsageError(
            f"pad_cfg={pad_cfg:g} is for weights of kind pix, these are of kind "
            f"{weights.kind}. Leave it at 1."
        )
    if "negative" not in weights.prompt:
        raise UsageError(
            f"pad_cfg={pad_cfg:g} needs a negative prompt, which these weights lack. "
            "Leave it at 1."
        )


def require_mesh(mesh: Any) -> None:
    """Refuse values that are not a mesh, such as the text of --mesh.

    Raises:
        UsageError: with the call that makes one.
    """
    if mesh is not None and not isinstance(mesh, Mesh):
        raise UsageError(
            f"mesh is {mesh!r}, not None or a jax.sharding.Mesh. "
            'Make one by gendr_jax.sharding.make_mesh("data=2").'
        )
    if mesh is not None and mesh.shape.get("model", 1) > 1:
        raise UsageError(
            f"the mesh has model={mesh.shape['model']}, restoring has the axes data "
            'and space. Make it by gendr_jax.sharding.make_mesh("data=2,space=4").'
        )


def require_space(space: int, multiple: int) -> None:
    """Refuse a split of rows that does not divide every padded height.

    Raises:
        UsageError: with both numbers.
    """
    if multiple % space:
        raise UsageError(
            f"mesh axis space is {space}, padded heights are multiples of {multiple}. "
            f"Give a divisor of {multiple}, and the other devices to data."
        )


def host_params(weights: Weights, recipe: Recipe) -> Params:
    """Weights and prompt for passes, kernels cast to the compute dtype."""

    def convert(leaf: np.ndarray) -> np.ndarray:
        # Biases and norms are small, and added in float32 inside norms.
        dtype = recipe.dtype if leaf.ndim > 1 else "float32"
        return leaf.astype(jnp.dtype(dtype), copy=False)

    trees = {name: weights.params[name] for name in forward.networks(recipe)}
    prompts = ("positive",) if recipe.pad_cfg == 1 else ("positive", "negative")
    trees["prompt"] = {name: weights.prompt[name] for name in prompts}
    return jax.tree.map(convert, trees)


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _require(name: str, value: Any, is_valid: bool, range_: str) -> None:
    if not is_valid:
        raise UsageError(f"{name} is {value!r}, not {range_}. Change it.")
