"""What an adapter of any algebra adds to one weight: LoRA, LoHa, LoKr, DoRA, diffs.

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
What does not live here: names in files (``lora.py``), files.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from gendr_jax.weights.foreign.layouts import Shape
from gendr_jax.weights.foreign.tensors import EXPONENT, Tensor

Algebra = Literal["LoRA", "LoHa", "LoKr", "diff"]
Parts = Mapping[str, Tensor]

LORA = ("down", "up", "mid")
LOHA = tuple(f"hada_{n}" for n in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2"))
LOKR = tuple(
    f"lokr_{n}" for n in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t1", "t2")
)
DIFF = ("diff", "diff_b", "set_weight", "set_bias")
# DoRA's norms: PEFT's, one an output; LyCORIS', whose shape says the axis.
MAGNITUDES = ("magnitude", "dora_scale")
PARTS = (*LORA, *LOHA, *LOKR, *DIFF, *MAGNITUDES, "alpha")
TUCKER = "ij...,jr,ip->pr..."


def algebra(parts: Mapping[str, Any]) -> Algebra | None:
    """Which of the equations these parts belong to; None: halves are missing."""
    names = parts.keys() - {"alpha", *MAGNITUDES}
    if {"down", "up"} <= names <= set(LORA):
        return "LoRA"
    if {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} <= names <= set(LOHA):
        both = {"hada_t1", "hada_t2"} & names
        return "LoHa" if len(both) != 1 else None
    if names <= set(LOKR) and all(_factor(names, w) for w in ("w1", "w2")):
        return "LoKr"
    return "diff" if names and names <= set(DIFF) else None


def _factor(names: set[str], which: str) -> bool:
    product = {f"lokr_{which}_a", f"lokr_{which}_b"}
    return f"lokr_{which}" in names or product <= names


def rank(parts: Parts) -> int | None:
    """The rank that alpha is divided by; None where there is none."""
    kind = algebra(parts)
    if kind == "LoRA":
        return parts["down"].shape[0] if parts["down"].shape else 0
    if kind == "LoHa":
        return parts["hada_w1_b"].shape[0]
    if kind == "LoKr":
        for which in ("w2", "w1"):  # the second's counts where both are products
            if f"lokr_{which}" not in parts:
                return parts[f"lokr_{which}_b"].shape[0]
    return None


def problem(parts: Parts, weight: Shape, bias: Shape | None) -> str:
    """Why these parts do not fit a layer of these shapes; "" when they do."""
    kind = algebra(parts)
    if kind is None:
        kinds = sorted(parts)
        return f"has {', '.join(kinds)}, which is no complete adapter"
    for name, tensor in parts.items():
        if tensor.dtype.name not in EXPONENT:
            return f"has {name} of dtype {tensor.dtype}, expected a float"
    try:
        return _misfit(kind, parts, weight, bias)
    except (ValueError, IndexError):
        shapes = ", ".join(f"{n} {t.shape}" for n, t in sorted(parts.items()))
        return f"has shapes that do not multiply: {shapes}"


def _misfit(kind: Algebra, parts: Parts, weight: Shape, bias: Shape | None) -> str:
    if kind == "diff":
        for name, tensor in parts.items():
            wanted = bias if name in ("diff_b", "set_bias") else weight
            if name != "alpha" and (
                wanted is None or _core(tensor.shape) != _core(wanted)
            ):
                return f"has {name} {tensor.shape}, the layer has {wanted}"
        return ""
    # Without memory: arrays of one element, broadcast to the shapes.
    empty = {
        n: np.broadcast_to(np.zeros((), np.float32), t.shape)
        for n, t in parts.items()
        if n not in ("alpha", *MAGNITUDES)
    }
    made = _shape(kind, empty, len(weight))
    if _core(made) != _core(weight) and (
        kind == "LoRA" or math.prod(made) != math.prod(weight)
    ):
        return f"makes {made}, the layer is {weight}"
    for name in MAGNITUDES:
        if name in parts and magnitude_axis(name, parts[name].shape, weight) is None:
            return f"has {name} {parts[name].shape}, the layer is {weight}"
    return ""


def _shape(kind: Algebra, parts: Mapping[str, np.ndarray], ndim: int) -> Shape:
    if kind == "LoRA":
        down, up = parts["down"].shape, parts["up"].shape
        inner = parts["mid"].shape if "mid" in parts else (up[1], down[0])
        if (up[1], down[0]) != inner[:2]:
            raise ValueError("ranks differ")
        return (up[0], *down[1:2], *(inner[2:] if "mid" in parts else down[2:]))
    if kind == "LoHa":
        one, two = (_product_shape(parts, f"hada_{w}") for w in ("w1", "w2"))
        if one != two:
            raise ValueError("factors differ")
        return one
    one, two = (_factor_shape(parts, w) for w in ("w1", "w2"))
    one = (*one, *(1 for _ in two[len(one) :]))
    return tuple(a * b for a, b in zip(one, two, strict=True))


def _factor_shape(parts: Mapping[str, np.ndarray], which: str) -> Shape:
    whole = parts.get(f"lokr_{which}")
    return _product_shape(parts, f"lokr_{which}") if whole is None else whole.shape


def _product_shape(parts: Mapping[str, np.ndarray], stem: str) -> Shape:
    a, b = parts[f"{stem}_a"].shape, parts[f"{stem}_b"].shape
    core = parts.get(stem.replace("_w", "_t"))
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
    parts: Mapping[str, np.ndarray], scale: float, weight: np.ndarray
) -> np.ndarray:
    """What equations (1)-(5) add to a weight, float32, in its shape."""
    kind = algebra(parts)
    p = {name: array.astype(np.float32) for name, array in parts.items()}
    if kind == "diff":
        if "set_weight" in p:
            return p["set_weight"].reshape(weight.shape) - weight.astype(np.float32)
        found = p.get("diff")
        return (
            np.zeros(weight.shape, np.float32)
            if found is None
            else found.reshape(weight.shape)
        )
    if kind == "LoRA":
        made = _lora(p, weight.ndim)
    elif kind == "LoHa":
        made = _product(p, "hada_w1") * _product(p, "hada_w2")
    else:
        one, two = (_kronecker_factor(p, w) for w in ("w1", "w2"))
        one = one.reshape(*one.shape, *(1 for _ in two.shape[one.ndim :]))
        made = np.kron(one, two)
    return np.float32(scale) * made.reshape(weight.shape)


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
    whole = p.get(f"lokr_{which}")
    return _product(p, f"lokr_{which}") if whole is None else whole


@dataclasses.dataclass(frozen=True, eq=False)
class Change:
    """One adapter of one layer, not read yet.

    Attributes:
        algebra: for people.
        parts: its tensors by our names (``PARTS``).
        alpha: scale = alpha / rank; None: the scale is 1.
    """

    algebra: Algebra
    parts: Parts
    alpha: float | None

    @property
    def scale(self) -> float:
        size = rank(self.parts)
        return 1.0 if self.alpha is None or size is None else self.alpha / size

    def applied(self, weight: np.ndarray, strength: float) -> np.ndarray:
        """Equations (1)-(6) on a torch weight; dtype kept."""
        arrays = {n: t.read() for n, t in self.parts.items() if n != "alpha"}
        if strength == 1.0 and "set_weight" in arrays:  # its bits, not a rounded sum
            return arrays["set_weight"].reshape(weight.shape).astype(weight.dtype)
        magnitudes = {n: arrays.pop(n) for n in MAGNITUDES if n in arrays}
        base = weight.astype(np.float32)
        whole = difference(arrays, self.scale, weight)
        for name, magnitude in magnitudes.items():
            axis = magnitude_axis(name, magnitude.shape, weight.shape)
            others = tuple(a for a in range(weight.ndim) if a != axis)
            changed = base + whole
            norm = np.sqrt((changed**2).sum(axis=others, keepdims=True))
            m = magnitude.astype(np.float32).reshape(norm.shape)
            whole = changed * (m / norm) - base
        return (base + np.float32(strength) * whole).astype(weight.dtype)

    def applied_to_bias(self, bias: np.ndarray, strength: float) -> np.ndarray:
        """The bias with its difference; as it was where there is none."""
        base = bias.astype(np.float32)
        if strength == 1.0 and "set_bias" in self.parts:
            return self.parts["set_bias"].read().astype(bias.dtype)
        if "set_bias" in self.parts:
            whole = self.parts["set_bias"].read().astype(np.float32) - base
        elif "diff_b" in self.parts:
            whole = self.parts["diff_b"].read().astype(np.float32)
        else:
            return bias
        return (base + np.float32(strength) * whole).astype(bias.dtype)
