"""One network found in foreign files: what it is, whether it fits, and its arrays."""

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
THREADS = 2  # one reads while the other transposes; more would hold more tensors


@dataclasses.dataclass(frozen=True)
class Component:
    """A network in files, not read yet.

    Attributes:
        kind: which network.
        config: its configuration.
        layout: where each of our tensors stands in the files.
        tensors: what the files hold for it, by their names.
        where: for messages: the file or folder.
        problems: found while opening, beside those that ``check`` finds.
        left_out: how many tensors of what meaning are not read.
        averaged: these are averages of the weights of training.
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
        """Names, shapes and dtypes of the directory; nothing is read.

        Raises:
            InputError: all that is missing, unexpected, misshapen or no float.
        """
        found = {name: tensor.shape for name, tensor in self.tensors.items()}
        odd = [
            f"{name} has dtype {tensor.dtype}"
            for name, tensor in self.tensors.items()
            if tensor.dtype.name not in EXPONENT
        ]
        expected = layouts.foreign_shapes(self.layout)
        problems = [*self.problems, *odd, *differences(found, expected)]
        remedy = REMEDIES.get(self.kind, REMEDY)
        refuse(problems, f"{self.kind} in {self.where}", remedy)


def build(kind: Kind, config: Any, where: str) -> nets.Net:
    """The declared network; a configuration it cannot have is the file's mistake."""
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
        mesh: give jax arrays spread over it (by the rule of FSDP); no device ever holds
            more than its part. None: numpy arrays.

    Raises:
        InputError: as ``check``; and every tensor with NaN or Inf in it, those that
            overflow ``dtype`` included.
    """
    component.check()
    flat = nets.flatten(component.net.abstract)
    shapes = names.torch_shapes(component.net.abstract)
    if mesh is not None:
        placed = nets.flatten(tree_shardings(component.net.abstract, mesh))
    problems: list[str] = []

    def one(path: names.Path) -> tuple[names.Path, Any]:
        name = names.torch_name(path)
        raw = layouts.gather(
            component.layout, shapes, name, lambda n: component.tensors[n].read()
        )
        array = cast(raw, dtype)
        if not all_finite(array):
            overflow = raw is not array and all_finite(raw)
            cause = f"overflows {array.dtype}" if overflow else "has NaN or Inf"
            problems.append(f"{name} {cause}")
        array = np.ascontiguousarray(array.transpose(names.param_axes(path, raw.ndim)))
        if mesh is None:
            return path, array
        return path, jax.make_array_from_callback(
            array.shape, placed[path], lambda index: array[index]
        )

    with ThreadPoolExecutor(THREADS) as pool:
        arrays = dict(_eager(pool, one, flat))
    if problems:
        raise InputError(
            f"{component.kind} in {component.where}: {len(problems)} tensors cannot be "
            f"used: {listed(sorted(problems))}. Take another copy or another dtype."
        )
    return nets.unflatten(arrays)


def _eager(pool: ThreadPoolExecutor, function: Any, items: Any) -> Iterator[Any]:
    """``pool.map``, but the first error ends the work that waits."""
    try:
        yield from pool.map(function, items)
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise


def cast(array: np.ndarray, dtype: Any) -> np.ndarray:
    """In another dtype, rounding to nearest even; the array itself where it has it."""
    if dtype is None or array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):  # an overflow is named by the caller
        if (array.dtype, np.dtype(dtype).name) == (np.float64, "bfloat16"):
            array = _to_odd(array)
        return array.astype(dtype)


def _to_odd(array: np.ndarray) -> np.ndarray:
    """float64 to float32 so that a second rounding gives what one would have given.

    ml_dtypes goes to bfloat16 through float32. Cut towards zero, with the last bit set
    where anything was cut, no number lies on an edge that it was not on before.
    """
    near = array.astype(np.float32)
    away = np.abs(near.astype(np.float64)) > np.abs(array)
    cut = np.where(away, np.nextafter(near, np.float32(0)), near)
    inexact = cut.astype(np.float64) != array
    return (cut.view(np.uint32) | inexact).view(np.float32)


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Every name that is missing (with the nearest stray), unexpected, or misshapen."""
    strays = sorted(found.keys() - expected.keys())
    lost = sorted(expected.keys() - found.keys())
    shared = sorted(found.keys() & expected.keys())
    return [
        *(f"missing {name}{_nearest(name, strays)}" for name in lost),
        *(f"unexpected {name}" for name in strays),
        *(
            f"{name} has shape {found[name]}, expected {expected[name]}"
            for name in shared
            if found[name] != expected[name]
        ),
    ]


def _nearest(name: str, strays: list[str]) -> str:
    # A whole foreign file would be compared with a whole network otherwise.
    if len(strays) > 50:
        return ""
    near = difflib.get_close_matches(name, strays, n=1, cutoff=0.8)
    return f" (nearest: {near[0]})" if near else ""


def refuse(problems: list[str], what: str, remedy: str = REMEDY) -> None:
    """Raise one InputError with the problems, if there are any."""
    if problems:
        raise InputError(
            f"{what}: {len(problems)} tensors do not fit: {listed(problems)}. {remedy}"
        )
