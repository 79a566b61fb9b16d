"""Names of adapter tensors in files of PEFT, diffusers, kohya's scripts and LyCORIS.

A name is parsed into the layer, the adapter's own name and the tensor's name in
``lycoris.py``.
"""

import dataclasses
import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

from gendr_jax.weights.foreign.adapters import lycoris
from gendr_jax.weights.foreign.layouts import Layout
from gendr_jax.weights.foreign.tensors import Tensor

Format = Literal["peft", "diffusers", "kohya"]
AdapterTensors = dict[str, Tensor]  # by the names of ``lycoris.TENSOR_NAMES``

PREFIX: dict[Format, str] = {
    "peft": "base_model.model.",
    "diffusers": "unet.",
    "kohya": "lora_unet_",
}
FACTORS = {
    "lora_A": "down",
    "lora_B": "up",
    "lora_down": "down",
    "lora_up": "up",
    "lora_mid": "mid",
}
MAGNITUDE = {"lora_magnitude_vector": "magnitude"}
# Tensors named by the last word; differences of norms are under w_norm and b_norm.
LAST_WORDS = {
    **{name: name for name in (*lycoris.LOHA, *lycoris.LOKR, *lycoris.DIFF)},
    "dora_scale": "dora_scale",
    "lora_magnitude_vector": "magnitude",
    "w_norm": "diff",
    "b_norm": "diff_b",
}
# A file with one of these tensors is an adapter file.
ADAPTER_TENSORS = ("down", "up", "hada_w1_a", "lokr_w1", "lokr_w1_a", "lokr_w2", "diff")
UNSUPPORTED = {"oft_": "OFT", "boft": "BOFT", "on_input": "IA3", "a1.weight": "GLoRA"}
MAX_HINTS = 8  # searching the nearest name is slow, and a foreign file has hundreds


def recognise(names: Iterable[str]) -> Format | None:
    """The program that wrote tensors of these names; None: not a known LoRA format."""
    names = list(names)
    if any(name.startswith(PREFIX["peft"]) for name in names):
        return "peft"
    if any(name.startswith((PREFIX["kohya"], "lora_te")) for name in names):
        return "kohya"
    parsed = [parse(name) for name in names]
    adapter_tensors = {
        parsed_name.tensor for parsed_name in parsed if parsed_name
    } & set(ADAPTER_TENSORS)
    return "diffusers" if adapter_tensors else None


def left_out(names: Iterable[str]) -> dict[str, int]:
    """{group: count} of the tensors for text encoders, which are not read."""
    groups = (_text_group(name) for name in names)
    return dict(Counter(group for group in groups if group))


def spellings(
    kind: Format, modules: list[str], ldm: Layout | None = None
) -> dict[str, str]:
    """{name in the file: module}; kohya joins diffusers' or LDM's name with "_"."""
    if kind != "kohya":
        return {name: name for name in modules}
    index = {name.replace(".", "_"): name for name in modules}
    for name in modules:
        stored = (ldm or {}).get(f"{name}.weight")
        if stored is not None and stored.rows is None:
            index[stored.name.removesuffix(".weight").replace(".", "_")] = name
    return index


@dataclasses.dataclass(frozen=True)
class Name:
    """A parsed name: layer, the adapter's own name, and a name of ``lycoris``."""

    module: str
    adapter: str
    tensor: str


def group_by_module(
    tensors: Mapping[str, Tensor], kind: Format, module_of_name: Mapping[str, str]
) -> tuple[dict[tuple[str, str], AdapterTensors], list[str]]:
    """({(module, adapter): {name: tensor}}, problems with the other tensors)."""
    grouped: dict[tuple[str, str], AdapterTensors] = {}
    problems, unknown_layers = [], {}
    for name in sorted(tensors):
        if _text_group(name):
            continue
        parsed = parse(name.removeprefix(PREFIX[kind]))
        module = None if parsed is None else module_of_name.get(parsed.module)
        if parsed is None:
            problems.append(f"{name} is no tensor of a LoRA pair{_algebra_hint(name)}")
        elif module is None:
            unknown_layers.setdefault(parsed.module, name)
        else:
            adapter_tensors = grouped.setdefault((module, parsed.adapter), {})
            if parsed.tensor in adapter_tensors:
                problems.append(
                    f"{name} and {adapter_tensors[parsed.tensor].name} are the same"
                )
            adapter_tensors[parsed.tensor] = tensors[name]
    for number, (layer, name) in enumerate(unknown_layers.items()):
        near = (
            difflib.get_close_matches(layer, module_of_name, 1)
            if number < MAX_HINTS
            else ()
        )
        hint = f" (nearest: {near[0]})" if near else ""
        problems.append(f"{name}: the base has no layer {layer}{hint}")
    return grouped, problems


def _algebra_hint(name: str) -> str:
    algebra = next(
        (algebra for mark, algebra in UNSUPPORTED.items() if mark in name), None
    )
    return f" ({algebra} is not supported)" if algebra else ""


def _text_group(name: str) -> str | None:
    first = name.partition(".")[0]
    if first.startswith("lora_te"):
        return "_".join(first.split("_")[:2])
    return first if first.startswith("text_encoder") else None


def parse(name: str) -> Name | None:
    """Parse a name without its prefix; None: it is of no adapter."""
    *module, leaf = [word for word in name.split(".") if word != "processor"]
    if leaf == "alpha":
        return Name(_layer_name(module), "", leaf)
    if leaf in LAST_WORDS:
        return Name(_layer_name(module), "", LAST_WORDS[leaf])
    # PEFT names magnitudes lora_magnitude_vector.ADAPTER, without .weight.
    if module and module[-1] in FACTORS | MAGNITUDE and leaf != "weight":
        return _factor_name(module, leaf)
    if leaf != "weight" or len(module) < 2:
        return None
    adapter = module.pop() if module[-2] in FACTORS | MAGNITUDE else ""
    if not adapter and module[-1] in ("down", "up") and module[-2].endswith("lora"):
        factor = module.pop()
        return Name(_layer_name(module), "", factor)
    return _factor_name(module, adapter)


def _factor_name(module: list[str], adapter: str) -> Name | None:
    tensor = (FACTORS | MAGNITUDE).get(module[-1])
    adapter = "" if adapter == "default" else adapter  # "default" is PEFT's own
    return None if tensor is None else Name(".".join(module[:-1]), adapter, tensor)


def _layer_name(module: list[str]) -> str:
    """["attn1", "to_out_lora"] -> "attn1.to_out.0", ["ff", "lora"] -> "ff"."""
    *parent, last = module or [""]
    if last == "lora":
        return ".".join(parent)
    layer = last.removesuffix("_lora")
    return ".".join([*parent, "to_out.0" if last == "to_out_lora" else layer])
