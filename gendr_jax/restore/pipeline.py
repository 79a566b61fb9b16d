"""A photograph in, a larger one out: `Restorer`.

What lives here: weights on devices, one compiled program per padded size, and the way
of a picture through it. What does not: the mathematics (forward.py), files, flags,
tiles. No random numbers are drawn: equal pictures give equal results.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from gendr_jax import nets
from gendr_jax.errors import InputError, UsageError
from gendr_jax.nets import Params
from gendr_jax.restore import forward, memory, pictures, resize
from gendr_jax.restore.image_io import Image
from gendr_jax.restore.pictures import Picture
from gendr_jax.weights import folder
from gendr_jax.weights.folder import Weights
from gendr_jax.weights.locate import locate

SCALES = (1.0, 16.0)
# Padded output pixels of one untiled pass: 2048 x 2048. The full-size networks take
# 0.70 GiB at 512 x 512 and 2.0 GiB at 1024 x 1024 in float32 beside 3.4 GiB of weights
# (XLA:CPU, memory_analysis), so about 2 GiB a million pixels.
MAX_PIXELS = 2048 * 2048
DTYPES = {
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float32": "float32",
    "fp32": "float32",
}
ColorFix = Literal["adain", "none"]


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a restorer takes.

    Attributes:
        scales: least and greatest scale; any number between, 4 is what it learnt.
        size_multiple: enlarged pictures are padded to multiples of this, and cropped.
        max_pixels: of a padded output.
        tiling: "none": a picture is one pass.
        parameters: of VAE and UNet together.
        dtype: of computation.
    """

    scales: tuple[float, float]
    size_multiple: int
    max_pixels: int
    tiling: str
    parameters: int
    dtype: str


class Restorer:
    """Weights on devices and compiled programs; call it with pictures."""

    def __init__(
        self,
        weights: Weights,
        *,
        dtype: str = "bfloat16",
        mesh: Mesh | None = None,
        color_fix: ColorFix = "adain",
        max_pixels: int = MAX_PIXELS,
    ):
        """Place weights that are in memory; see `from_pretrained` for the arguments."""
        _check(weights, dtype, color_fix)
        vae, unet = weights.configs["vae"], weights.configs["unet"]
        self.spec = Spec(
            scales=SCALES,
            size_multiple=forward.size_multiple(vae, unet),
            max_pixels=max_pixels,
            tiling="none",
            parameters=sum(nets.count(weights.params[n]) for n in ("unet", "vae")),
            dtype=DTYPES[dtype],
        )
        if mesh is None:
            self._weights_at = SingleDeviceSharding(jax.devices()[0])
            self._batch_at = self._weights_at
            self.batch_size = 1
        else:
            self._weights_at = NamedSharding(mesh, PartitionSpec())
            self._batch_at = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
            self.batch_size = mesh.size
        self._params = self._place(weights)
        self._pass = jax.jit(
            forward.make_pass(
                vae,
                unet,
                prediction=weights.prediction,
                t_star=weights.t_star,
                dtype=self.spec.dtype,
                color_fix=color_fix,
            )
        )
        self._compiled: dict[tuple[int, int], Any] = {}

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | Path,
        dtype: str = "bfloat16",
        mesh: Mesh | None = None,
        *,
        color_fix: ColorFix = "adain",
        max_pixels: int = MAX_PIXELS,
    ) -> "Restorer":
        """Read a weights folder of ours.

        Args:
            path_or_name: the folder, or a Hub id where huggingface_hub is installed.
            dtype: of computation, "bfloat16" or "float32" (also "bf16", "fp32").
            mesh: devices to spread a list of pictures over, one picture a device; None
                is the first device.
            color_fix: "adain" or "none".
            max_pixels: refuse padded outputs above this many pixels.

        Raises:
            InputError: no such folder, damaged, or not the weights of a restorer.
            UsageError: unknown dtype or colour fix.
        """
        weights = folder.load(
            locate(path_or_name), components=("unet", "vae", "prompt")
        )
        options = {"color_fix": color_fix, "max_pixels": max_pixels}
        return cls(weights, dtype=dtype, mesh=mesh, **options)

    def __call__(
        self, image: Picture | Sequence[Picture], scale: float = 4
    ) -> Picture | list[Picture]:
        """Restore a picture, or a list of them, and return the same kind.

        Args:
            image: HWC (1, 3 or 4 channels) or HW array, uint8, uint16 or float in
                [0, 1]; PIL image (palettes come back as RGB, turned upright); or a list
                of those, of any sizes.
            scale: output size is round(scale * side) exactly.

        Raises:
            InputError: a picture that is not handled, too large, or for which the
                networks' output is not finite.
            UsageError: scale out of range.
        """
        if isinstance(image, list | tuple):
            taken = [pictures.take(one) for one in image]
            restored = self.restore(taken, scale)
            return [pictures.give(*pair) for pair in zip(restored, image, strict=True)]
        return pictures.give(self.restore([pictures.take(image)], scale)[0], image)

    def restore(self, images: Sequence[Image], scale: float = 4) -> list[Image]:
        """As `__call__`, for pictures as `image_io.read` gives them."""
        sizes = [self.padded_size(image, scale) for image in images]
        done: list[Image | None] = [None] * len(images)
        # Equal sizes side by side, to fill batches and to compile each size once.
        order = sorted(range(len(images)), key=lambda i: sizes[i])
        while order:
            size = sizes[order[0]]
            batch = [i for i in order[: self.batch_size] if sizes[i] == size]
            order = order[len(batch) :]
            outputs = self._run([images[i] for i in batch], scale, size)
            for i, output in zip(batch, outputs, strict=True):
                done[i] = output
        return done

    def padded_size(self, image: Image, scale: float) -> tuple[int, int]:
        """(height, width) of the pass that this picture takes.

        Raises:
            UsageError: scale out of range.
            InputError: the output is above `spec.max_pixels`.
        """
        low, high = self.spec.scales
        if not low <= scale <= high:
            raise UsageError(
                f"scale is {scale}, it can be {low:g} to {high:g}. Choose one of those."
            )
        height, width = resize.output_size(*image.pixels_hwc.shape[:2], scale)
        padded = resize.bucket(height, width, self.spec.size_multiple)
        if padded[0] * padded[1] > self.spec.max_pixels:
            raise InputError(
                f"the output would be {width}x{height} ({padded[0] * padded[1]} pixels "
                f"when padded), the limit of one pass is {self.spec.max_pixels}. Use a "
                "smaller scale, or raise max_pixels (--max-pixels) if memory allows."
            )
        return padded

    def is_compiled(self, size_hw: tuple[int, int]) -> bool:
        """Whether a picture of this padded size runs without compiling."""
        return size_hw in self._compiled

    def _run(
        self, images: list[Image], scale: float, size: tuple[int, int]
    ) -> list[Image]:
        program = self._program(size)
        up_bhwc = np.zeros((self.batch_size, *size, 3), np.float32)
        hw_b2 = np.ones((self.batch_size, 2), np.int32)
        alphas = []
        for i, image in enumerate(images):
            rgb, alpha = pictures.to_unit(image)
            hw_b2[i] = hw = resize.output_size(*rgb.shape[:2], scale)
            up_bhwc[i] = resize.pad(np.clip(resize.bicubic(rgb, hw), 0, 1), size)
            alphas.append(None if alpha is None else _enlarged(alpha, hw))
        arguments = jax.device_put((up_bhwc, hw_b2), self._batch_at)
        what = f"a pass of {size[1]}x{size[0]} pixels"
        memory.require(program, self._batch_at, what)
        with memory.errors(what):
            sr_bhwc, finite_b = jax.device_get(program(self._params, *arguments))
        if not all(finite_b[: len(images)]):
            raise InputError(
                f"the networks' output is not finite in {self.spec.dtype}. "
                "Use float32 (--dtype fp32), or check the weights."
            )
        return [
            pictures.from_unit(sr_bhwc[i, : hw_b2[i, 0], : hw_b2[i, 1]], alphas[i], one)
            for i, one in enumerate(images)
        ]

    def _program(self, size: tuple[int, int]) -> Any:
        if size not in self._compiled:
            at, batch = self._batch_at, self.batch_size
            up_bhwc = jax.ShapeDtypeStruct((batch, *size, 3), jnp.float32, sharding=at)
            hw_b2 = jax.ShapeDtypeStruct((batch, 2), jnp.int32, sharding=at)
            lowered = self._pass.lower(self._params, up_bhwc, hw_b2)
            self._compiled[size] = lowered.compile()
        return self._compiled[size]

    def _place(self, weights: Weights) -> Params:
        """Weights and prompt on the devices; kernels in the dtype of computation."""

        def convert(leaf: np.ndarray) -> np.ndarray:
            # Biases and norms are small, and added in float32 inside norms.
            dtype = self.spec.dtype if leaf.ndim > 1 else "float32"
            return leaf.astype(jnp.dtype(dtype))

        trees = {name: weights.params[name] for name in ("unet", "vae")}
        trees["prompt"] = {"positive": weights.prompt["positive"]}
        return jax.device_put(jax.tree.map(convert, trees), self._weights_at)


def _check(weights: Weights, dtype: str, color_fix: str) -> None:
    for what, value, known in (
        ("dtype", dtype, tuple(DTYPES)),
        ("color_fix", color_fix, get_args(ColorFix)),
    ):
        if value not in known:
            names = ", ".join(known)
            raise UsageError(f"{what} is {value!r}, known are {names}. Choose one.")
    if weights.kind != "restorer":
        raise InputError(
            f"these are weights of kind {weights.kind}, restoring needs a restorer. "
            "Name a folder that the distill stage wrote."
        )
    latent = weights.configs["vae"].latent_channels
    unet = weights.configs["unet"]
    if (unet.in_channels, unet.out_channels) != (latent, latent):
        raise InputError(
            f"the UNet takes {unet.in_channels} channels and gives "
            f"{unet.out_channels}, the VAE has {latent}. Combine networks of one "
            "training."
        )


def _enlarged(alpha_hw: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    return resize.bicubic(alpha_hw[..., None], size_hw)[..., 0]
