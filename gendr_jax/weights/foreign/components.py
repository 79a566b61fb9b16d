"""One network in foreign files: check names and shapes, then read its arrays."""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, Literal

import jax
import numpy as np

from gendr_jax import nets
from gendr_jax.errors import InputError, listed
from gendr_jax.models.dinov2 import DINOv2
from gendr_jax.models.dists import DISTS
from gendr_jax.models.lpips import LPIPS
from gendr_jax.models.unet import UNet
from gendr_jax.models.vae import VAE
from gendr_jax.sharding import tree_shardings
from gendr_jax.weights.foreign import layouts, names
from gendr_jax.weights.foreign.layouts import Layout
from gendr_jax.weights.foreign.tensors import EXPONENT, Tensor, all_finite

Kind = Literal["unet", "vae", "dinov2", "lpips", "dists"]

MODELS = {"unet": UNet, "vae": VAE, "dinov2": DINOv2, "lpips": LPIPS, "dists": DISTS}
REMEDY = "Use the weights that belong to this configuration."
REMEDIES = {  # of networks that come in two files
    "lpips": "Put the files of the trunk and of the heads into one folder; name it.",
    "dists": "Put VGG16's file and weights.pt (alpha, beta) into one folder; name it.",
}
THREADS = 2  # one reads while the other transposes; more would need more memory


@dataclasses.dataclass(frozen=True)
class Component:
    """A network in files, not read yet.

    Attributes:
        kind: which network.
        config: its configuration.
        layout: from our names to the files' tensors.
        tensors: by their names in the files.
        where: the file or folder, for messages.
        problems: of opening the files; ``check`` adds its own.
        left_out: {meaning: number} of tensors that are not read.
        averaged: these are averages (EMA) of the weights of training.
    """

    kind: Kind
    config: Any
    layout: Layout
    tensors: Mapping[str, Tensor]
    where: str
    problems: tuple[str, ...] = ()
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    averaged: bool = False

    @cached_property
    def net(self) -> nets.Net:
        return build(self.kind, self.config, self.where)

    def check(self) -> None:
        """Compare names, shapes and dtypes with the network; no array is read.

        Raises:
            InputError: every tensor that is missing, unexpected, misshapen or no float.
        """
        shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        not_float = [
            f"{name} has dtype {tensor.dtype}"
            for name, tensor in self.tensors.items()
            if tensor.dtype.name not in EXPONENT
        ]
        expected = layouts.foreign_shapes(self.layout)
        problems = [*self.problems, *not_float, *differences(shapes, expected)]
        remedy = REMEDIES.get(self.kind, REMEDY)
        refuse(problems, f"{self.kind} in {self.where}", remedy)


def build(kind: Kind, config: Any, where: str) -> nets.Net:
    """The declared network; an impossible configuration is an error of the file."""
    try:
        return nets.build(MODELS[kind], config)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def read(
    component: Component, *, dtype: Any = None, mesh: jax.sharding.Mesh | None = None
) -> nets.Params:
    """The weights of a component, checked.

    Args:
        dtype: of the result, rounding to nearest even; None keeps each tensor's own.
        mesh: return jax arrays sharded over it by the default rules; no device ever
            holds more than its shards. None: numpy arrays.

    Raises:
        InputError: as ``check``; and every tensor with NaN or Inf in it, those that
            overflow ``dtype`` included.
    """
    component.check()
    flat = nets.flatten(component.net.abstract)
    shapes = names.torch_shapes(component.net.abstract)
    if mesh is not None:
        shardings = nets.flatten(tree_shardings(component.net.abstract, mesh))
    problems: list[str] = []

    # Callbacks give each device its shards only; the full array is freed at once.
    def read_one(path: names.Path) -> tuple[names.Path, Any]:
        name = names.torch_name(path)
        torch_array = layouts.gather(
            component.layout, shapes, name, lambda n: component.tensors[n].read()
        )
        array = cast(torch_array, dtype)
        if not all_finite(array):
            overflow = torch_array is not array and all_finite(torch_array)
            cause = f"overflows {array.dtype}" if overflow else "has NaN or Inf"
            problems.append(f"{name} {cause}")
        array = np.ascontiguousarray(
            array.transpose(names.param_axes(path, torch_array.ndim))
        )
        if mesh is None:
            return path, array
        return path, jax.make_array_from_callback(
            array.shape, shardings[path], lambda index: array[index]
        )

    with ThreadPoolExecutor(THREADS) as pool:
        arrays = dict(_eager(pool, read_one, flat))
    if problems:
        raise InputError(
            f"{component.kind} in {component.where}: {len(problems)} tensors cannot be "
            f"used: {listed(sorted(problems))}. Take another copy or another dtype."
        )
    return nets.unflatten(arrays)


def _eager(pool: ThreadPoolExecutor, function: Any, items: Any) -> Iterator[Any]:
    """``pool.map``, but the first error cancels the pending work."""
    try:
        yield from pool.map(function, items)
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise


def cast(array: np.ndarray, dtype: Any) -> np.ndarray:
    """The array in another dtype, rounded to nearest even; itself if it has it."""
    if dtype is None or array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):  # an overflow is named by the caller
        if (array.dtype, np.dtype(dtype).name) == (np.float64, "bfloat16"):
            array = _to_odd(array)
        return array.astype(dtype)


def _to_odd(array: np.ndarray) -> np.ndarray:
    """float64 to float32, rounded to odd: a second rounding is then as good as one.

    ml_dtypes converts to bfloat16 through float32, which would round twice. Truncated
    towards zero, with the last bit set where bits were lost, no number becomes a tie
    that was none.
    """
    nearest = array.astype(np.float32)
    rounded_up = np.abs(nearest.astype(np.float64)) > np.abs(array)
    truncated = np.where(rounded_up, np.nextafter(nearest, np.float32(0)), nearest)
    inexact = truncated.astype(np.float64) != array
    return (truncated.view(np.uint32) | inexact).view(np.float32)


def differences(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Every name that is missing (with the nearest stray), unexpected, or misshapen."""
    unexpected = sorted(actual.keys() - expected.keys())
    missing = sorted(expected.keys() - actual.keys())
    shared = sorted(actual.keys() & expected.keys())
    return [
        *(f"missing {name}{_nearest(name, unexpected)}" for name in missing),
        *(f"unexpected {name}" for name in unexpected),
        *(
            f"{name} has shape {actual[name]}, expected {expected[name]}"
            for name in shared
            if actual[name] != expected[name]
        ),
    ]


def _nearest(name: str, unexpected: list[str]) -> str:
    # get_close_matches is slow: with a file of another network it would take minutes.
    if len(unexpected) > 50:
        return ""
    near = difflib.get_close_matches(name, unexpected, n=1, cutoff=0.8)
    return f" (nearest: {near[0]})" if near else ""


def refuse(problems: list[str], what: str, remedy: str = REMEDY) -> None:
    """Raise one InputError with the problems, if there are any."""
    if problems:
        raise InputError(
            f"{what}: {len(problems)} tensors do not fit: {listed(problems)}. {remedy}"
        )
