"""Names of adapter tensors in files of PEFT, diffusers, kohya's scripts and LyCORIS.

What lives here: who wrote a file, and a name taken apart into layer, adapter and part.
What does not: numbers (``lora.py``, ``lycoris.py``), settings (``peft_settings.py``).
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
Parts = dict[str, Tensor]  # by the names of ``lycoris.PARTS``

PREFIX: dict[Format, str] = {
    "peft": "base_model.model.",
    "diffusers": "unet.",
    "kohya": "lora_unet_",
}
HALVES = {
    "lora_A": "down",
    "lora_B": "up",
    "lora_down": "down",
    "lora_up": "up",
    "lora_mid": "mid",
}
MAGNITUDE = {"lora_magnitude_vector": "magnitude"}
# Parts that are the last word of a name; norms have their differences under w_ and b_.
SINGLE = {
    **{name: name for name in (*lycoris.LOHA, *lycoris.LOKR, *lycoris.DIFF)},
    "dora_scale": "dora_scale",
    "lora_magnitude_vector": "magnitude",
    "w_norm": "diff",
    "b_norm": "diff_b",
}
# One of these makes a file one of adapters.
MARKS = ("down", "up", "hada_w1_a", "lokr_w1", "lokr_w1_a", "lokr_w2", "diff")
UNREAD = {"oft_": "OFT", "boft": "BOFT", "on_input": "IA3", "a1.weight": "GLoRA"}
HINTS = 8  # a search for the nearest name takes a while; a foreign file has hundreds


def recognise(stored: Iterable[str]) -> Format | None:
    """Who wrote tensors of these names; None: they are no LoRA that we know."""
    stored = list(stored)
    if any(name.startswith(PREFIX["peft"]) for name in stored):
        return "peft"
    if any(name.startswith((PREFIX["kohya"], "lora_te")) for name in stored):
        return "kohya"
    parsed = [parse(name) for name in stored]
    marks = {found.part for found in parsed if found} & set(MARKS)
    return "diffusers" if marks else None


def left_out(stored: Iterable[str]) -> dict[str, int]:
    """{group: count} of the tensors for text encoders, which we have none of."""
    groups = (_text_group(name) for name in stored)
    return dict(Counter(group for group in groups if group))


def spellings(
    kind: Format, modules: list[str], ldm: Layout | None = None
) -> dict[str, str]:
    """{name in the file: module}; kohya's joins diffusers' or LDM's with "_"."""
    if kind != "kohya":
        return {name: name for name in modules}
    index = {name.replace(".", "_"): name for name in modules}
    for name in modules:
        place = (ldm or {}).get(f"{name}.weight")
        if place is not None and place.rows is None:
            index[place.name.removesuffix(".weight").replace(".", "_")] = name
    return index


@dataclasses.dataclass(frozen=True)
class Name:
    """A tensor's name taken apart: layer, the adapter's own name, and the part."""

    module: str
    adapter: str
    part: str


def by_module(
    tensors: Mapping[str, Tensor], kind: Format, index: Mapping[str, str]
) -> tuple[dict[tuple[str, str], Parts], list[str]]:
    """{(module, adapter): {part: tensor}} and what has no place there."""
    found: dict[tuple[str, str], Parts] = {}
    problems, strange = [], {}
    for name in sorted(tensors):
        if _text_group(name):
            continue
        said = parse(name.removeprefix(PREFIX[kind]))
        module = None if said is None else index.get(said.module)
        if said is None:
            problems.append(f"{name} is no part of a LoRA pair{_algebra_hint(name)}")
        elif module is None:
            strange.setdefault(said.module, name)
        else:
            parts = found.setdefault((module, said.adapter), {})
            if said.part in parts:
                problems.append(f"{name} and {parts[said.part].name} are the same")
            parts[said.part] = tensors[name]
    for number, (spelled, name) in enumerate(strange.items()):
        near = difflib.get_close_matches(spelled, index, 1) if number < HINTS else ()
        hint = f" (nearest: {near[0]})" if near else ""
        problems.append(f"{name}: the base has no layer {spelled}{hint}")
    return found, problems


def _algebra_hint(name: str) -> str:
    word = next((w for mark, w in UNREAD.items() if mark in name), None)
    return f" ({word} is not supported)" if word else ""


def _text_group(name: str) -> str | None:
    first = name.partition(".")[0]
    if first.startswith("lora_te"):
        return "_".join(first.split("_")[:2])
    return first if first.startswith("text_encoder") else None


def parse(name: str) -> Name | None:
    """The name without its prefix, taken apart; None: it is of no adapter."""
    *module, last = [part for part in name.split(".") if part != "processor"]
    if last == "alpha":
        return Name(_plain(module), "", last)
    if last in SINGLE:
        return Name(_plain(module), "", SINGLE[last])
    if module and module[-1] in HALVES | MAGNITUDE and last != "weight":
        return _half(module, last)  # lora_magnitude_vector.default, without .weight
    if last != "weight" or len(module) < 2:
        return None
    adapter = module.pop() if module[-2] in HALVES | MAGNITUDE else ""
    if not adapter and module[-1] in ("down", "up") and module[-2].endswith("lora"):
        part = module.pop()
        return Name(_plain(module), "", part)
    return _half(module, adapter)


def _half(module: list[str], adapter: str) -> Name | None:
    part = (HALVES | MAGNITUDE).get(module[-1])
    adapter = "" if adapter == "default" else adapter  # PEFT's own name of an adapter
    return None if part is None else Name(".".join(module[:-1]), adapter, part)


def _plain(module: list[str]) -> str:
    """["attn1", "to_out_lora"] -> "attn1.to_out.0", ["ff", "lora"] -> "ff"."""
    *parent, last = module or [""]
    if last == "lora":
        return ".".join(parent)
    layer = last.removesuffix("_lora")
    return ".".join([*parent, "to_out.0" if last == "to_out_lora" else layer])
