"""`Restorer`: restores and enlarges pictures, without random numbers."""

import copy
import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, cast, overload

import numpy as np
from jax.sharding import Mesh

from gendr_jax import nets, program_cache
from gendr_jax.image_io import Image, arrays, resize
from gendr_jax.image_io.arrays import Picture
from gendr_jax.restore import options, tiled
from gendr_jax.restore.color import ColorFix
from gendr_jax.restore.forward import networks, recipe_of
from gendr_jax.restore.options import DTYPES, Options, Tile
from gendr_jax.restore.passes import Passes
from gendr_jax.restore.programs import Programs
from gendr_jax.restore.tiled import Progress
from gendr_jax.restore.tiling import Layout
from gendr_jax.weights import blend
from gendr_jax.weights.folder import Weights
from gendr_jax.weights.resolve import DEFAULT

# Limit on output pixels of tile=0 on one device: 2048 x 2048. The full-size networks
# need about 2 GiB a million pixels in float32 (XLA:CPU, memory_analysis).
MAX_PIXELS = 2048 * 2048
P = TypeVar("P", bound=Picture)


@dataclasses.dataclass(frozen=True)
class Spec:
    """Properties and limits of a restorer.

    Attributes:
        scales: smallest and largest scale, any number between; trained for 4.
        size_multiple: enlarged pictures are padded to multiples of this, and cropped.
        max_pixels: limit on the padded output with tile=0.
        tiling: "auto", "none" or the side of a tile.
        parameters: of VAE and UNet together.
        dtype: compute dtype.
    """

    scales: tuple[float, float]
    size_multiple: int
    max_pixels: int
    tiling: str
    parameters: int
    dtype: str


class Restorer:
    """Weights on devices and compiled programs; call it with pictures.

    Thread-safe: calls take turns on the devices. Compiled programs are cached on disk
    for other processes, see `program_cache`.

    Attributes:
        spec: its properties and limits.
        last: the layout of each picture of this thread's last call.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        dtype: str = "bfloat16",
        mesh: Mesh | None = None,
        color_fix: ColorFix = "adain",
        color_fix_strength: float = 1.0,
        strength: float = 1.0,
        tile: Tile = "auto",
        tile_overlap: int | None = None,
        batch: int = 1,
        max_pixels: int = MAX_PIXELS,
        pad_cfg: float = 1.0,
    ):
        """Move weights to the devices; see `from_pretrained` for the arguments.

        On a CPU the arrays of `weights` may not be copied: do not change them.
        """
        self._options = Options(
            dtype,
            color_fix,
            color_fix_strength,
            strength,
            tile,
            tile_overlap,
            batch,
            max_pixels,
            pad_cfg,
        )
        program_cache.enable(replace=False)
        options.require_mesh(mesh)
        options.require_restorer(weights)
        options.require_pad_cfg(weights, pad_cfg)
        recipe = recipe_of(weights, DTYPES[dtype], pad_cfg)
        self.spec = Spec(
            scales=resize.SCALES,
            size_multiple=recipe.size_multiple,
            max_pixels=max_pixels,
            tiling="none" if tile == 0 else str(tile),
            parameters=sum(nets.count(weights.params[n]) for n in networks(recipe)),
            dtype=recipe.dtype,
        )
        self._calls, self._turn = threading.local(), threading.RLock()
        params = options.host_params(weights, recipe)
        self._programs = Programs(recipe, params, mesh, batch)
        self.batch_size = self._programs.batch_size
        options.require_space(self._programs.space, recipe.size_multiple)
        self._passes = Passes(self._programs, self._options)

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | Path = DEFAULT,
        dtype: str = "bfloat16",
        mesh: Mesh | None = None,
        *,
        color_fix: ColorFix = "adain",
        color_fix_strength: float = 1.0,
        strength: float = 1.0,
        tile: Tile = "auto",
        tile_overlap: int | None = None,
        batch: int = 1,
        max_pixels: int = MAX_PIXELS,
        pad_cfg: float = 1.0,
        fidelity: float | None = None,
        faithful: str | Path | None = None,
    ) -> "Restorer":
        """Load weights: a weights folder, or one safetensors file.

        Args:
            path_or_name: the folder or file, the name of packaged weights, or a Hub id
                if huggingface_hub is installed.
            dtype: compute dtype, "bfloat16" or "float32" (also "bf16", "fp32").
            mesh: devices; None: the first one. Pictures of a list and tiles of a
                picture are distributed over all axes but `space`; over `space` each
                picture is split by rows, without tiles.
            color_fix: "adain", "wavelet", "lab" or "none".
            color_fix_strength: 0 keeps the networks' colours, 1 applies it fully.
            strength: 1 is the restored picture, 0 the bicubic enlargement.
            tile: side of tiles in output pixels; 0: no tiles; "auto": the largest of a
                few sizes that memory allows. After running out of memory a smaller one
                is tried, except with 0.
            tile_overlap: output pixels that neighbours share; None: a quarter.
            batch: pictures of equal size in one pass on a device.
            pad_cfg: guidance for weights of kind "pix", by two passes with different
                padding (eq. 36); 1: none.
            max_pixels: with tile=0, refuse padded outputs above this many pixels (for
                each device of `space`).
            fidelity: blend with second weights of the same architecture: 0 is
                `path_or_name`, 1 the second.
            faithful: the second weights, named as the first.

        Raises:
            InputError: no such folder, damaged, or not weights of a restorer.
            UsageError: unknown dtype or colour fix, or numbers out of range.
        """
        weights = blend.load(path_or_name, fidelity, faithful)
        return cls(
            weights,
            dtype=dtype,
            mesh=mesh,
            color_fix=color_fix,
            color_fix_strength=color_fix_strength,
            strength=strength,
            tile=tile,
            tile_overlap=tile_overlap,
            batch=batch,
            max_pixels=max_pixels,
            pad_cfg=pad_cfg,
        )

    @overload
    def __call__(self, image: Sequence[P], scale: float = 4) -> list[P]: ...

    @overload
    def __call__(self, image: P, scale: float = 4) -> P: ...

    def __call__(
        self, image: Picture | Sequence[Picture], scale: float = 4
    ) -> Picture | list[Picture]:
        """Restore a picture, or a list of them, and return the same type.

        Args:
            image: HWC (1 to 4 channels; of 2 and 4 the last is opacity) or HW array of
                numpy, JAX or PyTorch, uint8, uint16 or float in [0, 1]; PIL image
                (palettes come back as RGB, turned upright, with profile and EXIF); or a
                list of those, of any sizes.
            scale: output size is round(scale * side) exactly.

        Raises:
            InputError: a picture that is not supported or too large, or an output of
                the networks that is not finite or empty.
            UsageError: scale out of range.
        """
        if isinstance(image, list | tuple):
            taken = [arrays.take(one) for one in image]
            restored = self.restore(taken, scale)
            return [arrays.give(*pair) for pair in zip(restored, image, strict=True)]
        one = cast(Picture, image)  # `take` refuses other types
        return arrays.give(self.restore([arrays.take(one)], scale)[0], one)

    def restore(
        self,
        images: Sequence[Image],
        scale: float = 4,
        *,
        progress: Progress = lambda done, total: None,
    ) -> list[Image]:
        """As `__call__`, for pictures from `image_io.read`.

        progress(done, total) is called after every tile of a tiled picture.
        """
        sizes = [self.output_size(*x.pixels_hwc.shape[:2], scale) for x in images]
        plans = [self.layout(*size) for size in sizes]
        with self._turn:
            restored = self._passes.restore(images, plans, progress)
        self._calls.last = plans
        return restored

    @property
    def last(self) -> list[Layout]:
        """The layout of each picture of this thread's last call."""
        return getattr(self._calls, "last", [])

    def with_tile(self, tile: Tile) -> "Restorer":
        """A restorer with another tile size that shares weights and programs.

        Raises:
            UsageError: not a tile size.
        """
        other = copy.copy(self)
        other._options = dataclasses.replace(self._options, tile=tile)
        tiling = "none" if tile == 0 else str(tile)
        other.spec = dataclasses.replace(self.spec, tiling=tiling)
        other._passes = Passes(self._programs, other._options)
        other._calls = threading.local()
        return other

    def warm_up(self, sizes_hw: Sequence[tuple[int, int]], scale: float = 4) -> None:
        """Compile the programs for pictures of these sizes in advance.

        Sizes share programs: the sides of outputs are rounded up to one of eight
        (64, 128, 192, 256, 384, 512, 768, 1024 pixels with networks that need multiples
        of 64), and larger outputs are cut into tiles.

        Args:
            sizes_hw: height and width of inputs.
        """
        for height, width in sizes_hw:
            plan = self.layout(*self.output_size(height, width, scale))
            with self._turn:
                self._passes.warm_up(plan)

    def output_size(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """(height, width) of the output for an input of this size.

        Raises:
            UsageError: scale out of range.
        """
        resize.require_scale(scale)
        return resize.output_size(height, width, scale)

    def layout(self, height: int, width: int) -> Layout:
        """The first layout that is tried for an output of this size.

        Raises:
            InputError: tiles are not allowed, and one pass exceeds `spec.max_pixels`.
        """
        return next(self._passes.layouts(height, width))

    def stage_seconds(self, pass_hw: tuple[int, int]) -> dict[str, float]:
        """Seconds of encoder, unet, decoder and colour of a pass, run separately."""
        return self._programs.stage_seconds(pass_hw, self._options.color_fix)

    def tile_picture(
        self,
        size_hw: tuple[int, int],
        enlarged: tiled.Enlarged,
        store: tiled.Store,
        emit: Callable[[int, int, np.ndarray], None],
        progress: Progress = lambda done, total: None,
    ) -> Layout:
        """Restore a picture of any size by tiles, reading and writing by functions.

        Args:
            size_hw: of the output.
            enlarged: (top, left, height, width) -> region of the bicubic enlargement.
            store: storage for float32 pixels of the output.
            emit: takes the final pixels, (top, left, rgb_hwc), each once.

        Returns:
            The layout that was used, which may depend on free memory.
        """
        with self._turn:
            return self._passes.tile_picture(size_hw, enlarged, store, emit, progress)
