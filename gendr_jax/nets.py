"""Networks as pure functions of weights: build, init, bind, cast, check.

The only file that splits and merges NNX modules. Everywhere else weights are
``Params``: nested dicts of arrays with string keys, one key per attribute, so that a
path reads like the torch name. Several roles may share one ``Net``.
"""

import dataclasses
import difflib
import functools
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gendr_jax.errors import InputError, listed
from gendr_jax.models import layers
from gendr_jax.models import lora as lora_lib
from gendr_jax.models.remat import Policy

Params = dict[str, Any]
Flat = dict[tuple[str, ...], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Net:
    """One architecture without weights. ``bind`` gives a callable module."""

    config: Any
    graphdef: Any
    paths: tuple[tuple, ...]  # NNX paths (list indices are ints), in NNX order
    abstract: Params  # float32 ShapeDtypeStructs
    make: Any  # keys -> module

    def init(self, key: jax.Array) -> Params:
        """Fresh float32 weights; pure, so it can be jitted with output shardings."""
        state = nnx.state(self.make(_Keys(key)))
        flat = {_names(path): leaf for path, leaf in nnx.to_flat_state(state)}
        return unflatten({path: leaf.get_value() for path, leaf in flat.items()})

    def init_adapters(self, key: jax.Array) -> Params:
        """Fresh LoRA adapters: A ~ N(0, 1/rank^2), B = 0 (see ``models/lora.py``).

        All of A is one random draw: it compiles much faster than one draw an adapter.
        """
        flat = flatten(split_lora(self.abstract)[1])
        drawn = {path: leaf for path, leaf in flat.items() if path[-1] == "lora_a"}
        ends = list(itertools.accumulate(leaf.size for leaf in drawn.values()))
        values = jnp.split(jax.random.normal(key, (ends[-1],)), ends[:-1])
        adapters = {path: jnp.zeros(leaf.shape) for path, leaf in flat.items()}
        for (path, leaf), value in zip(drawn.items(), values, strict=True):
            adapters[path] = value.reshape(leaf.shape) / leaf.shape[-1]
        return unflatten(adapters)

    def bind(self, params: Params) -> Any:
        """The module with these weights; call it, or any of its methods.

        Runs at trace time only. A tree with other key paths is refused, with their
        names: NNX itself merges by position and would accept it.
        """
        flat = flatten(params)
        if flat.keys() != flatten(self.abstract).keys():
            check_like(params, self.abstract, what=type(self.config).__name__)
        leaves = [(path, nnx.Param(flat[_names(path)])) for path in self.paths]
        return nnx.merge(self.graphdef, nnx.from_flat_state(leaves))


def build(
    model_class: Any,
    config: Any,
    *,
    dtype: Any = "float32",
    remat: Policy = "none",
    lora: lora_lib.LoRAConfig | None = None,
    wide_grads: bool = False,
    product_grads: bool = False,
    lora_in_kernel: bool = False,
) -> Net:
    """Declare ``model_class(config)`` abstractly; no memory is allocated.

    ``dtype`` is the compute dtype; parameters are float32 until ``cast``. ``remat``
    says what the backward pass recomputes (``models/remat.py``). ``lora`` adds adapter
    parameters (``lora_a``, ``lora_b``) to the tree; see ``overlay`` and ``split_lora``.
    ``wide_grads``: gradients of kernels are summed over devices in float32.
    ``product_grads``: kernel gradients as in ``models/kernel_gradient.py``.
    ``lora_in_kernel``: base weights are merged with the adapters already, which get the
    gradient of their side path (``models/layers.py:lora_in_kernel``).

    Declaring takes seconds at full size, so equal calls share one ``Net``.
    """
    grads = (wide_grads, product_grads, lora_in_kernel)
    return _build(model_class, config, jnp.dtype(dtype), remat, lora, grads)


@functools.lru_cache(maxsize=64)
def _build(
    model_class: Any,
    config: Any,
    dtype: Any,
    remat: Policy,
    lora: lora_lib.LoRAConfig | None,
    grads: tuple[bool, bool, bool],
) -> Net:
    wide_grads, product_grads, lora_in_kernel = grads

    def make(rngs: _Keys) -> nnx.Module:
        model = model_class(config, dtype=dtype, remat=remat, rngs=rngs)
        if lora is not None and not lora_lib.attach(model, lora, rngs):
            raise ValueError(f"No layer matches the adapter targets {lora.targets}.")
        if wide_grads:
            layers.widen_grads(model)
        if product_grads:
            layers.product_grads(model)
        if lora_in_kernel:
            layers.lora_in_kernel(model)
        return model

    model = nnx.eval_shape(lambda: make(_Keys(jax.random.key(0))))
    graphdef, state = nnx.split(model)
    flat = nnx.to_flat_state(state)
    abstract = {
        _names(path): jax.ShapeDtypeStruct(
            leaf.get_value().shape, leaf.get_value().dtype
        )
        for path, leaf in flat
    }
    paths = tuple(path for path, _ in flat)
    return Net(config, graphdef, paths, unflatten(abstract), make)


def overlay(base: Params, adapters: Params | None) -> Params:
    """Base weights and one role's adapters as one tree; nothing is copied."""
    return base if adapters is None else unflatten(flatten(base) | flatten(adapters))


def split_lora(params: Params) -> tuple[Params, Params]:
    """The inverse of ``overlay``: (base, adapters)."""
    flat = flatten(params)
    adapters = {p: v for p, v in flat.items() if p[-1] in ("lora_a", "lora_b")}
    base = {p: v for p, v in flat.items() if p not in adapters}
    return unflatten(base), unflatten(adapters)


def merge_lora(base: Params, adapters: Params, scale: float) -> Params:
    """Plain weights that act as base plus adapters; for export."""
    merged = flatten(base)
    flat = flatten(adapters)
    for path in [p for p in flat if p[-1] == "lora_a"]:
        kernel, lora_b = (*path[:-1], "kernel"), (*path[:-1], "lora_b")
        merged[kernel] = lora_lib.merge_kernel(
            merged[kernel], flat[path], flat[lora_b], scale
        )
    return unflatten(merged)


def cast(params: Params, dtype: Any) -> Params:
    """Every array in another dtype; arrays that have it already are not copied."""
    target = jnp.dtype(dtype)
    return jax.tree.map(lambda x: x if x.dtype == target else x.astype(target), params)


def count(params: Params) -> int:
    """Number of parameters in the tree, which may be abstract."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def check_like(params: Params, abstract: Params, *, what: str = "weights") -> None:
    """Compare key paths, shapes and dtypes; one InputError lists all differences."""
    actual, expected = flatten(params), flatten(abstract)
    problems = []
    for path in sorted(expected.keys() - actual.keys()):
        nearest = _misspelt(path, actual.keys() - expected.keys())
        hint = f" (nearest: {'.'.join(nearest)})" if nearest else ""
        problems.append(f"missing {'.'.join(path)}{hint}")
    problems += [
        f"unexpected {'.'.join(p)}" for p in sorted(actual.keys() - expected.keys())
    ]
    for path in sorted(actual.keys() & expected.keys()):
        array, target = actual[path], expected[path]
        if tuple(array.shape) != tuple(target.shape):
            problems.append(
                f"{'.'.join(path)} has shape {array.shape}, expected {target.shape}"
            )
        elif array.dtype != target.dtype:
            problems.append(
                f"{'.'.join(path)} has dtype {array.dtype}, expected {target.dtype}"
            )
    if problems:
        raise InputError(
            f"{what}: {len(problems)} tensors do not fit: {listed(problems)}. "
            "Use weights made for this configuration, or convert them."
        )


def flatten(params: Params) -> Flat:
    """{("down_blocks", "0", ...): array} in insertion order."""
    flat: Flat = {}

    def walk(tree: Params, path: tuple[str, ...]) -> None:
        for key, value in tree.items():
            if isinstance(value, Mapping):
                walk(value, (*path, key))
            else:
                flat[(*path, key)] = value

    walk(params, ())
    return flat


def unflatten(flat: Flat) -> Params:
    """Nested dicts from paths, keys in sorted order (jax's own order for dicts)."""
    tree: Params = {}
    for path in sorted(flat):
        node = functools.reduce(lambda n, key: n.setdefault(key, {}), path[:-1], tree)
        node[path[-1]] = flat[path]
    return tree


def _misspelt(
    path: tuple[str, ...], strays: Iterable[tuple[str, ...]]
) -> tuple[str, ...] | None:
    """The stray path that differs in one similar key (a likely typo), or None."""
    best_ratio, nearest = 0.6, None
    for stray in sorted(strays):
        if len(stray) != len(path):
            continue
        pairs = [(a, b) for a, b in zip(path, stray, strict=True) if a != b]
        ratio = difflib.SequenceMatcher(None, *pairs[0]).ratio()
        if len(pairs) == 1 and ratio > best_ratio:
            best_ratio, nearest = ratio, stray
    return nearest


class _Keys:
    """The same keys as `nnx.Rngs(params=key)`, with a Python integer as the counter.

    `nnx.Rngs` counts in an array. Under tracing each increment queries that array's
    sharding, for which JAX walks over the program traced so far: most of the time of
    building a large network.
    """

    def __init__(self, key: jax.Array):
        self._key, self._count = key, 0

    def params(self) -> jax.Array:
        self._count += 1
        return jax.random.fold_in(self._key, self._count - 1)


def _names(path: tuple) -> tuple[str, ...]:
    return tuple(str(key) for key in path)
