"""Single weights files of other programs, recognised by the names of their tensors.

Known are LDM/CompVis checkpoints (whole, or one of their networks), DINOv2's original
files, LPIPS and DISTS and their trunks, and adapters.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from gendr_jax.errors import InputError, UsageError
from gendr_jax.weights.foreign import dinov2, dists, ldm, lora, lpips
from gendr_jax.weights.foreign.components import Component
from gendr_jax.weights.foreign.open_file import PICKLES, SAFETENSORS
from gendr_jax.weights.foreign.tensors import OpenFile, Tensor

# Latent scale of Stable Diffusion's own autoencoder, which no LDM file records.
SD_SCALE = 0.18215
EMA = ("auto", "yes", "no")


@dataclasses.dataclass(frozen=True)
class Hints:
    """What a user may have to say of a file because the file does not.

    Attributes:
        ema: of an LDM file, the averaged weights: where present, always, never.
        prediction: "eps" or "v"; scaling_factor, shift_factor: of an autoencoder.
        variant: of several files in a component folder ("fp16").
    """

    ema: Literal["auto", "yes", "no"] = "auto"
    prediction: str | None = None
    scaling_factor: float | None = None
    shift_factor: float | None = None
    variant: str = ""


@dataclasses.dataclass(frozen=True)
class Adapter:
    """LoRA tensors, not interpreted: that takes the network they adapt."""

    tensors: Mapping[str, Tensor]
    peft_config: dict[str, Any] | None
    metadata: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Found:
    """What a source holds.

    Attributes:
        format: in words.
        components: the networks by kind.
        files: that were opened.
        prediction: "eps", "v", or None where nothing says it.
        adapter: LoRA tensors, if that is what it is.
        left_out: how many tensors of what meaning are not read.
        settings: of a folder that we exported.
        notes: facts for provenance.
    """

    format: str
    components: dict[str, Component] = dataclasses.field(default_factory=dict)
    files: list[Path] = dataclasses.field(default_factory=list)
    prediction: str | None = None
    adapter: Adapter | None = None
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)


def is_weights(path: Path) -> bool:
    """Whether a file's name is that of a weights file."""
    return path.is_file() and path.suffix in SAFETENSORS + PICKLES


def recognise(file: OpenFile, hints: Hints) -> Found:
    """What the names in a file say it is.

    Raises:
        InputError: none of the known formats.
    """
    names = file.tensors.keys()
    starts = {name.split(".")[0] for name in names}
    if any(n.startswith((ldm.UNET_PREFIX, ldm.VAE_PREFIX)) for n in names):
        return _ldm(file, hints)
    if lora.recognise(names):
        return adapters(file, hints, None)
    if {"input_blocks", "time_embed"} <= starts:
        return _ldm(_prefixed(file, ldm.UNET_PREFIX), hints)
    if any(n.startswith(("encoder.down.", "decoder.up.")) for n in names):
        return _ldm(_prefixed(file, ldm.VAE_PREFIX), hints)
    if {"patch_embed", "pos_embed", "blocks"} <= starts:
        return _dinov2(file)
    if dists.recognise(names):  # first: its trunk may be that of LPIPS
        return _dists(file)
    if lpips.recognise(names):
        return _lpips(file)
    if starts & {"down_blocks", "embeddings", "encoder"}:
        raise InputError(
            f"{file.path} holds tensors of a component folder without its config.json. "
            "Name the folder that has both."
        )
    some = ", ".join(sorted(names)[:3]) or "nothing"
    raise InputError(
        f"{file.path} holds {len(names)} tensors of no known network ({some}...). "
        "Known: LDM, DINOv2, LPIPS, DISTS, LoRA, and component folders."
    )


def adapters(file: OpenFile, hints: Hints, config: dict[str, Any] | None) -> Found:
    """LoRA tensors; ``config`` is PEFT's adapter_config.json."""
    spelling = lora.recognise(file.tensors.keys())
    if spelling is None:
        raise InputError(f"{file.path} holds no LoRA tensors. Name an adapter file.")
    return Found(
        format=f"{spelling} LoRA",
        files=[file.path],
        adapter=Adapter(file.tensors, config, file.metadata),
        left_out=lora.left_out(file.tensors.keys()),
    )


def _prefixed(file: OpenFile, prefix: str) -> OpenFile:
    """A bare network as it stands in a whole checkpoint."""
    tensors = {prefix + name: tensor for name, tensor in file.tensors.items()}
    return dataclasses.replace(file, tensors=tensors)


def _ldm(file: OpenFile, hints: Hints) -> Found:
    rest = dict(file.tensors)
    left_out: Counter[str] = Counter()
    unet = _take(rest, ldm.UNET_PREFIX)
    vae = _take(rest, ldm.VAE_PREFIX)
    unet, averaged = _averaged(file, rest, unet, hints.ema, left_out)
    for name in list(vae):
        _drop(ldm.VAE_PREFIX + name, vae, name, left_out)
    for name in list(rest):
        _drop(name, rest, name, left_out)
    problems = tuple(f"unexpected {name}" for name in sorted(rest))
    components = {}
    if unet:
        config = ldm.unet_config(_shapes(unet))
        layout = ldm.unet_layout(config)
        components["unet"] = Component(
            "unet", config, layout, unet, str(file.path), problems
        )
    if vae:
        shapes = _shapes(vae)
        factor = _latent_scale(file, shapes, hints)
        config = ldm.vae_config(
            shapes, scaling_factor=factor, shift_factor=hints.shift_factor or 0.0
        )
        layout = ldm.vae_layout(config)
        extra = () if unet else problems
        components["vae"] = Component("vae", config, layout, vae, str(file.path), extra)
    return Found(
        format="LDM checkpoint",
        components=components,
        files=[file.path],
        prediction=hints.prediction or _prediction(file.metadata),
        left_out=dict(left_out),
        notes={"ema": averaged} if unet else {},
    )


def _take(rest: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it, removed from ``rest``."""
    names = [name for name in rest if name.startswith(prefix)]
    return {name.removeprefix(prefix): rest.pop(name) for name in names}


def _drop(whole: str, tensors: dict, name: str, left_out: Counter[str]) -> None:
    word = ldm.dropped(whole)
    if word is not None:
        del tensors[name]
        left_out[word] += 1


def _averaged(
    file: OpenFile,
    rest: dict[str, Tensor],
    unet: dict[str, Tensor],
    wanted: str,
    left_out: Counter[str],
) -> tuple[dict[str, Tensor], bool]:
    """The UNet's moving average in place of its last weights, where it is wanted."""
    names = {name: ldm.ema_name(ldm.UNET_PREFIX + name) for name in unet}
    present = [name for name, ema in names.items() if ema in rest]
    averages = {name: rest.pop(names[name]) for name in present}
    if wanted == "yes" and not averages:
        raise InputError(
            f"{file.path} holds no averaged weights (model_ema.*). Leave --ema away."
        )
    use = bool(averages) and wanted != "no"
    if use and len(present) != len(unet):
        lost = sorted(unet.keys() - set(present))
        raise InputError(
            f"{file.path} averages {len(present)} of {len(unet)} UNet tensors, not "
            f"{lost[0]}. Take --ema no, or another copy."
        )
    if averages:
        left_out["weights without averaging" if use else "averaged weights"] = len(unet)
    return (averages if use else unet), use


def _latent_scale(file: OpenFile, shapes: Mapping[str, Any], hints: Hints) -> float:
    if hints.scaling_factor is not None:
        return hints.scaling_factor
    channels = shapes.get("decoder.conv_in.weight", (0, 0))[1]
    if channels == 4:
        return SD_SCALE
    raise UsageError(
        f"{file.path} does not say the latent scale of its autoencoder of {channels} "
        "channels. Give --scaling-factor (and --shift-factor) from its model card."
    )


def _prediction(metadata: Mapping[str, Any]) -> str | None:
    """What a file says of it: by its metadata (modelspec), never by a guess."""
    said = str(metadata.get("modelspec.prediction_type", "")).lower()
    return {"epsilon": "eps", "eps": "eps", "v": "v", "v_prediction": "v"}.get(said)


def _dinov2(file: OpenFile) -> Found:
    config = dinov2.config(_shapes(file.tensors))
    layout = dinov2.layout(config)
    component = Component("dinov2", config, layout, file.tensors, str(file.path))
    return Found("DINOv2 hub file", {"dinov2": component}, [file.path])


def _lpips(file: OpenFile) -> Found:
    spelling = lpips.recognise(file.tensors.keys())
    dropout = lpips.has_dropout(file.tensors.keys())
    tensors, left_out = _without(file.tensors, lpips.left_out)
    config = lpips.config(_shapes(tensors))
    layout = lpips.layout(config, spelling, dropout=dropout)
    component = Component("lpips", config, layout, tensors, str(file.path))
    return Found(
        f"{spelling} LPIPS", {"lpips": component}, [file.path], left_out=left_out
    )


def _dists(file: OpenFile) -> Found:
    spelling = dists.recognise(file.tensors.keys())
    tensors, left_out = _without(file.tensors, dists.left_out)
    config = dists.config(_shapes(tensors), spelling)
    layout = dists.layout(config, spelling)
    component = Component("dists", config, layout, tensors, str(file.path))
    return Found(
        f"{spelling} DISTS", {"dists": component}, [file.path], left_out=left_out
    )


def _without(
    tensors: Mapping[str, Tensor], reason: Callable[[str], str | None]
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """(what is read, how many of what meaning are not)."""
    left_out = Counter(word for word in map(reason, tensors) if word is not None)
    return {n: t for n, t in tensors.items() if reason(n) is None}, dict(left_out)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}
