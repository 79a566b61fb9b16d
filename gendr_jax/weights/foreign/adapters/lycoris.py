"""The equations of LoRA, LoHa, LoKr, DoRA and differences, applied to one weight.

With scale s = alpha / rank (1 where a file has no alpha and no rank), torch's layout
[O, I, ...] and float32:

    LoRA   s up down                        up [O,r], down [r,I,...]             (1)
    CP     s sum_mn up_im mid_mn down_nj    mid [r,r,h,w] between 1x1 halves     (2)
    LoHa   s (w1_a w1_b) * (w2_a w2_b)      elementwise; of CP, w = (2)          (3)
    LoKr   s w1 (x) w2                      Kronecker; each full or a product    (4)
    diff   the difference itself                                                 (5)
    DoRA   W' = (W + d) m / ||W + d||       d any of (1)-(4), norm per output
                                            (PEFT) or per input (m [1,I,...])    (6)

A strength f gives W + f (W' - W). Equal to PEFT's, LyCORIS' and ComfyUI's arithmetic.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from gendr_jax.weights.foreign.layouts import Shape
from gendr_jax.weights.foreign.tensors import EXPONENT, Tensor

Algebra = Literal["LoRA", "LoHa", "LoKr", "diff"]
AdapterTensors = Mapping[str, Tensor]

LORA = ("down", "up", "mid")
LOHA = tuple(f"hada_{n}" for n in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2"))
LOKR = tuple(
    f"lokr_{n}" for n in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t1", "t2")
)
DIFF = ("diff", "diff_b", "set_weight", "set_bias")
# DoRA's norms: PEFT's, one an output; LyCORIS', whose shape says the axis.
MAGNITUDES = ("magnitude", "dora_scale")
TENSOR_NAMES = (*LORA, *LOHA, *LOKR, *DIFF, *MAGNITUDES, "alpha")
TUCKER = "ij...,jr,ip->pr..."  # core, second and first factor -> weight


def algebra(tensors: Mapping[str, Any]) -> Algebra | None:
    """The algebra of these tensors; None: some are missing, or of different ones."""
    names = tensors.keys() - {"alpha", *MAGNITUDES}
    if {"down", "up"} <= names <= set(LORA):
        return "LoRA"
    if {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} <= names <= set(LOHA):
        tucker_cores = {"hada_t1", "hada_t2"} & names
        return "LoHa" if len(tucker_cores) != 1 else None
    if names <= set(LOKR) and all(_factor(names, w) for w in ("w1", "w2")):
        return "LoKr"
    return "diff" if names and names <= set(DIFF) else None


def _factor(names: set[str], which: str) -> bool:
    product = {f"lokr_{which}_a", f"lokr_{which}_b"}
    return f"lokr_{which}" in names or product <= names


def rank(tensors: AdapterTensors) -> int | None:
    """The rank that alpha is divided by; None where there is none."""
    kind = algebra(tensors)
    if kind == "LoRA":
        return tensors["down"].shape[0] if tensors["down"].shape else 0
    if kind == "LoHa":
        return tensors["hada_w1_b"].shape[0]
    if kind == "LoKr":
        for which in ("w2", "w1"):  # the second's counts where both are products
            if f"lokr_{which}" not in tensors:
                return tensors[f"lokr_{which}_b"].shape[0]
    return None


def problem(tensors: AdapterTensors, weight: Shape, bias: Shape | None) -> str:
    """Why these tensors do not fit a layer of these shapes; "" when they do."""
    kind = algebra(tensors)
    if kind is None:
        names = sorted(tensors)
        return f"has {', '.join(names)}, which is no complete adapter"
    for name, tensor in tensors.items():
        if tensor.dtype.name not in EXPONENT:
            return f"has {name} of dtype {tensor.dtype}, expected a float"
    try:
        return _misfit(kind, tensors, weight, bias)
    except (ValueError, IndexError):
        shapes = ", ".join(f"{n} {t.shape}" for n, t in sorted(tensors.items()))
        return f"has shapes that do not multiply: {shapes}"


def _misfit(
    kind: Algebra, tensors: AdapterTensors, weight: Shape, bias: Shape | None
) -> str:
    if kind == "diff":
        for name, tensor in tensors.items():
            expected = bias if name in ("diff_b", "set_bias") else weight
            if name != "alpha" and (
                expected is None or _core(tensor.shape) != _core(expected)
            ):
                return f"has {name} {tensor.shape}, the layer has {expected}"
        return ""
    # Arrays of one element, broadcast to the shapes: they take no memory.
    empty = {
        n: np.broadcast_to(np.zeros((), np.float32), t.shape)
        for n, t in tensors.items()
        if n not in ("alpha", *MAGNITUDES)
    }
    shape = _shape(kind, empty, len(weight))
    if _core(shape) != _core(weight) and (
        kind == "LoRA" or math.prod(shape) != math.prod(weight)
    ):
        return f"makes {shape}, the layer is {weight}"
    for name in MAGNITUDES:
        if (
            name in tensors
            and magnitude_axis(name, tensors[name].shape, weight) is None
        ):
            return f"has {name} {tensors[name].shape}, the layer is {weight}"
    return ""


def _shape(kind: Algebra, tensors: Mapping[str, np.ndarray], ndim: int) -> Shape:
    if kind == "LoRA":
        down, up = tensors["down"].shape, tensors["up"].shape
        inner = tensors["mid"].shape if "mid" in tensors else (up[1], down[0])
        if (up[1], down[0]) != inner[:2]:
            raise ValueError("ranks differ")
        return (up[0], *down[1:2], *(inner[2:] if "mid" in tensors else down[2:]))
    if kind == "LoHa":
        first, second = (_product_shape(tensors, f"hada_{w}") for w in ("w1", "w2"))
        if first != second:
            raise ValueError("factors differ")
        return first
    first, second = (_factor_shape(tensors, w) for w in ("w1", "w2"))
    first = (*first, *(1 for _ in second[len(first) :]))
    return tuple(a * b for a, b in zip(first, second, strict=True))


def _factor_shape(tensors: Mapping[str, np.ndarray], which: str) -> Shape:
    full = tensors.get(f"lokr_{which}")
    return _product_shape(tensors, f"lokr_{which}") if full is None else full.shape


def _product_shape(tensors: Mapping[str, np.ndarray], stem: str) -> Shape:
    a, b = tensors[f"{stem}_a"].shape, tensors[f"{stem}_b"].shape
    core = tensors.get(stem.replace("_w", "_t"))
    if core is None:
        if len(a) != 2 or a[1] != b[0]:
            raise ValueError("ranks differ")
        return (a[0], *b[1:])
    if core.shape[:2] != (a[0], b[0]):
        raise ValueError("ranks differ")
    return (a[1], b[1], *core.shape[2:])


def _core(shape: Shape) -> Shape:
    """A 1x1 convolution and a linear layer hold the same numbers."""
    return tuple(shape[:2]) if all(size == 1 for size in shape[2:]) else tuple(shape)


def magnitude_axis(name: str, magnitude: Shape, weight: Shape) -> int | None:
    """0: one number an output; 1: one an input ([1, I, ...]); None: it fits neither."""
    size = math.prod(magnitude)
    if name == "magnitude" or magnitude[:1] == weight[:1]:
        return 0 if size == weight[0] else None
    return 1 if len(weight) > 1 and size == weight[1] else None


def difference(
    tensors: Mapping[str, np.ndarray], scale: float, weight: np.ndarray
) -> np.ndarray:
    """What equations (1)-(5) add to a weight, float32, in its shape."""
    kind = algebra(tensors)
    arrays = {name: array.astype(np.float32) for name, array in tensors.items()}
    if kind == "diff":
        if "set_weight" in arrays:
            return arrays["set_weight"].reshape(weight.shape) - weight.astype(
                np.float32
            )
        diff = arrays.get("diff")
        return (
            np.zeros(weight.shape, np.float32)
            if diff is None
            else diff.reshape(weight.shape)
        )
    if kind == "LoRA":
        added = _lora(arrays, weight.ndim)
    elif kind == "LoHa":
        added = _product(arrays, "hada_w1") * _product(arrays, "hada_w2")
    else:
        first, second = (_kronecker_factor(arrays, w) for w in ("w1", "w2"))
        first = first.reshape(*first.shape, *(1 for _ in second.shape[first.ndim :]))
        added = np.kron(first, second)
    return np.float32(scale) * added.reshape(weight.shape)


def _lora(p: Mapping[str, np.ndarray], ndim: int) -> np.ndarray:
    down, up = p["down"], p["up"]
    up = up.reshape(up.shape[:2])
    if "mid" in p:
        down = down.reshape(down.shape[:2])
        return np.einsum("mn...,im,nj->ij...", p["mid"], up, down, optimize=True)
    return (up @ down.reshape(down.shape[0], -1)).reshape(up.shape[0], *down.shape[1:])


def _product(p: Mapping[str, np.ndarray], stem: str) -> np.ndarray:
    a, b = p[f"{stem}_a"], p[f"{stem}_b"]
    core = p.get(stem.replace("_w", "_t"))
    if core is None:
        return np.tensordot(a, b, axes=1)
    return np.einsum(TUCKER, core, b, a, optimize=True)


def _kronecker_factor(p: Mapping[str, np.ndarray], which: str) -> np.ndarray:
    full = p.get(f"lokr_{which}")
    return _product(p, f"lokr_{which}") if full is None else full


@dataclasses.dataclass(frozen=True, eq=False)
class Change:
    """One adapter of one layer, not read yet.

    Attributes:
        algebra: which equation.
        tensors: by the names in ``TENSOR_NAMES``.
        alpha: scale = alpha / rank; None: the scale is 1.
    """

    algebra: Algebra
    tensors: AdapterTensors
    alpha: float | None

    @property
    def scale(self) -> float:
        size = rank(self.tensors)
        return 1.0 if self.alpha is None or size is None else self.alpha / size

    def applied(self, weight: np.ndarray, strength: float) -> np.ndarray:
        """Equations (1)-(6) on a torch weight; dtype kept."""
        arrays = {n: t.read() for n, t in self.tensors.items() if n != "alpha"}
        # At strength 1 exactly the new weight, not base + (new - base).
        if strength == 1.0 and "set_weight" in arrays:
            return arrays["set_weight"].reshape(weight.shape).astype(weight.dtype)
        magnitudes = {n: arrays.pop(n) for n in MAGNITUDES if n in arrays}
        # In float32, rounded once at the end to the weight's dtype.
        base = weight.astype(np.float32)
        delta = difference(arrays, self.scale, weight)
        for name, magnitude in magnitudes.items():
            axis = magnitude_axis(name, magnitude.shape, weight.shape)
            others = tuple(a for a in range(weight.ndim) if a != axis)
            changed = base + delta
            # DoRA rescales W + d to the learnt norms; what it changes is the new delta.
            norm = np.sqrt((changed**2).sum(axis=others, keepdims=True))
            target_norm = magnitude.astype(np.float32).reshape(norm.shape)
            delta = changed * (target_norm / norm) - base
        return (base + np.float32(strength) * delta).astype(weight.dtype)

    def applied_to_bias(self, bias: np.ndarray, strength: float) -> np.ndarray:
        """The bias with its difference; unchanged where there is none."""
        base = bias.astype(np.float32)
        if strength == 1.0 and "set_bias" in self.tensors:
            return self.tensors["set_bias"].read().astype(bias.dtype)
        if "set_bias" in self.tensors:
            delta = self.tensors["set_bias"].read().astype(np.float32) - base
        elif "diff_b" in self.tensors:
            delta = self.tensors["diff_b"].read().astype(np.float32)
        else:
            return bias
        return (base + np.float32(strength) * delta).astype(bias.dtype)
