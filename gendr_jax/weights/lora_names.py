"""The names of LoRA tensors in the files of PEFT, diffusers and kohya's scripts.

    peft       base_model.model.<module>.lora_A.weight
    diffusers  unet.<module>.lora_A.weight, .lora.down.weight, or, the oldest,
               unet.<attention>.processor.to_q_lora.down.weight; the prefix may lack
    kohya      lora_unet_<module, "_" for ".">.lora_down.weight; the module is
               diffusers' or LDM's

What lives here: from such a name to a module of ours and the part it plays, by the list
of real modules. What does not: shapes, ranks and numbers (``lora_files.py``).
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

from gendr_jax.weights.layouts import Layout
from gendr_jax.weights.tensors import Tensor

Format = Literal["peft", "diffusers", "kohya"]
Parts = dict[str, Tensor]  # "down", "up" and perhaps "alpha"

PREFIX: dict[Format, str] = {
    "peft": "base_model.model.",
    "diffusers": "unet.",
    "kohya": "lora_unet_",
}
HALVES = {"lora_A": "down", "lora_B": "up", "lora_down": "down", "lora_up": "up"}
HINTS = 8  # a search for the nearest name takes a while; a foreign file has hundreds


def recognise(stored: Iterable[str]) -> Format | None:
    """Who wrote tensors of these names; None: they are no LoRA that we know."""
    stored = list(stored)
    if any(name.startswith(PREFIX["peft"]) for name in stored):
        return "peft"
    if any(name.startswith((PREFIX["kohya"], "lora_te")) for name in stored):
        return "kohya"
    parsed = [_parse(name) for name in stored]
    halves = [found for found in parsed if found and found[1] != "alpha"]
    return "diffusers" if halves else None


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
    for name in modules if ldm is not None else ():
        place = ldm.get(f"{name}.weight")
        if place is not None and place.rows is None:
            index[place.name.removesuffix(".weight").replace(".", "_")] = name
    return index


def by_module(
    tensors: Mapping[str, Tensor], kind: Format, index: Mapping[str, str]
) -> tuple[dict[str, Parts], list[str]]:
    """{module: {"down", "up", "alpha": tensor}} and what has no place there."""
    found: dict[str, Parts] = {}
    problems, strange = [], {}
    for name in sorted(tensors):
        if _text_group(name):
            continue
        spelled, part = _parse(name.removeprefix(PREFIX[kind])) or (None, None)
        module = index.get(spelled)
        if part is None:
            problems.append(f"{name} is no part of a LoRA pair")
        elif module is None:
            strange.setdefault(spelled, name)
        elif part in found.setdefault(module, {}):
            problems.append(f"{name} and {found[module][part].name} are the same")
        else:
            found[module][part] = tensors[name]
    for number, (spelled, name) in enumerate(strange.items()):
        near = difflib.get_close_matches(spelled, index, 1) if number < HINTS else ()
        hint = f" (nearest: {near[0]})" if near else ""
        problems.append(f"{name}: the base has no layer {spelled}{hint}")
    return found, problems


def _text_group(name: str) -> str | None:
    first = name.partition(".")[0]
    if first.startswith("lora_te"):
        return "_".join(first.split("_")[:2])
    return first if first.startswith("text_encoder") else None


def _parse(name: str) -> tuple[str, str] | None:
    """(module, "down" | "up" | "alpha") of a name without prefix; None: neither."""
    *module, last = [part for part in name.split(".") if part != "processor"]
    if last == "alpha":
        return _plain(module), last
    if last != "weight" or len(module) < 2:
        return None
    if module[-1] == "default":  # PEFT's name of the adapter, in unsaved state dicts
        module.pop()
    half = module.pop()
    if half in ("down", "up") and module and module[-1].endswith("lora"):
        return _plain(module), half
    return (".".join(module), HALVES[half]) if half in HALVES else None


def _plain(module: list[str]) -> str:
    """["attn1", "to_out_lora"] -> "attn1.to_out.0", ["ff", "lora"] -> "ff"."""
    *parent, last = module or [""]
    if last == "lora":
        return ".".join(parent)
    layer = last.removesuffix("_lora")
    return ".".join([*parent, "to_out.0" if last == "to_out_lora" else layer])
