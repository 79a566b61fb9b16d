"""Single weights files of other programs, recognised by the names of their tensors.

Known are LDM/CompVis checkpoints (complete, or one of their networks), DINOv2's
original files, LPIPS and DISTS and their trunks, and adapters.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from gendr_jax.errors import InputError, UsageError, listed
from gendr_jax.weights.foreign import averages, dinov2, dists, ldm, lpips, scheduler
from gendr_jax.weights.foreign.adapters import lora_names, osediff
from gendr_jax.weights.foreign.components import Component
from gendr_jax.weights.foreign.open_file import PICKLES, SAFETENSORS
from gendr_jax.weights.foreign.tensors import OpenFile, Tensor

# Latent scale of Stable Diffusion's own autoencoder, which no LDM file records.
SD_SCALE = 0.18215
Prediction = Literal["eps", "v"]
EMA = ("auto", "yes", "no")
MARKERS = ("v_pred", "ztsnr")


@dataclasses.dataclass(frozen=True)
class Hints:
    """Flags for what a file does not say itself.

    Attributes:
        ema: whether averaged weights are read: where present, always, never.
        prediction: "eps" or "v"; scaling_factor, shift_factor: of an autoencoder.
        variant: of several files in a component folder ("fp16").
    """

    ema: Literal["auto", "yes", "no"] = "auto"
    prediction: Prediction | None = None
    scaling_factor: float | None = None
    shift_factor: float | None = None
    variant: str = ""


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Adapters, not yet interpreted: that needs the network they adapt.

    Attributes:
        tensors: for the UNet.
        peft_config, metadata: settings in the same folder or file.
        vae_tensors: for the autoencoder.
        alpha: the default of the program that wrote them, where no file has one.
        t_star: the timestep of the one step that they were trained for.
    """

    tensors: Mapping[str, Tensor]
    peft_config: dict[str, Any] | None = None
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    vae_tensors: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    alpha: float | None = None
    t_star: int | None = None


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a source holds.

    Attributes:
        format: its name, for reports.
        components: the networks by kind.
        files: that were opened.
        prediction: "eps", "v", or None where no file says it.
        adapter: LoRA tensors, if it has any.
        left_out: {meaning: number} of tensors that are not read.
        settings: of a folder that `gendr convert` exported.
        notes: entries for the provenance.
    """

    format: str
    components: dict[str, Component] = dataclasses.field(default_factory=dict)
    files: list[Path] = dataclasses.field(default_factory=list)
    prediction: Prediction | None = None
    adapter: Adapter | None = None
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)


def is_weights(path: Path) -> bool:
    """Whether a file has the suffix of a weights file."""
    return path.is_file() and path.suffix in SAFETENSORS + PICKLES


def recognise(file: OpenFile, hints: Hints) -> Contents:
    """Recognise a file by its tensor names.

    Raises:
        InputError: none of the known formats.
    """
    if osediff.recognise(file):
        return _osediff(file)
    file, averaged = averages.chosen(file, hints.ema)
    # A state dict of averages has no further averages under LDM's names.
    remaining_hints = dataclasses.replace(hints, ema="auto") if averaged else hints
    contents = _recognised(file, remaining_hints)
    notes = {"ema": True} if averaged else {}
    return dataclasses.replace(
        contents,
        left_out=file.left_out | contents.left_out,
        notes=contents.notes | notes,
    )


def _recognised(file: OpenFile, hints: Hints) -> Contents:
    names = file.tensors.keys()
    top_names = {name.split(".")[0] for name in names}
    # From full prefixes to names that several formats share: the order matters.
    if any(n.startswith((ldm.UNET_PREFIX, ldm.VAE_PREFIX)) for n in names):
        return _ldm(file, hints)
    if lora_names.recognise(names):
        return adapters(file, None)
    if {"input_blocks", "time_embed"} <= top_names:
        return _ldm(_prefixed(file, ldm.UNET_PREFIX), hints)
    if any(n.startswith(("encoder.down.", "decoder.up.")) for n in names):
        return _ldm(_prefixed(file, ldm.VAE_PREFIX), hints)
    if {"patch_embed", "pos_embed", "blocks"} <= top_names:
        return _dinov2(file)
    if dists.recognise(names):  # before LPIPS, whose trunk may be the same VGG16
        return _dists(file)
    if lpips.recognise(names):
        return _lpips(file)
    if top_names & {"down_blocks", "embeddings", "encoder"}:
        raise InputError(
            f"{file.path} holds tensors of a component folder, whose config.json is "
            "missing. Name the folder that has both."
        )
    examples = listed(sorted(names)[:3]) or "nothing"
    raise InputError(
        f"{file.path} holds {len(names)} tensors of no known network ({examples}...). "
        "Known: LDM, DINOv2, LPIPS, DISTS, LoRA, and component folders."
    )


def adapters(file: OpenFile, config: dict[str, Any] | None) -> Contents:
    """LoRA tensors; ``config`` is PEFT's adapter_config.json."""
    spelling = lora_names.recognise(file.tensors.keys())
    if spelling is None:
        raise InputError(f"{file.path} holds no LoRA tensors. Name an adapter file.")
    return Contents(
        format=f"{spelling} LoRA",
        files=[file.path],
        adapter=Adapter(file.tensors, config, file.metadata),
        left_out=lora_names.left_out(file.tensors.keys()),
    )


def _osediff(file: OpenFile) -> Contents:
    unet, vae = osediff.tensors(file)
    return Contents(
        format="OSEDiff adapters",
        files=[file.path],
        adapter=Adapter(
            unet,
            vae_tensors=vae,
            alpha=osediff.ALPHA,
            t_star=osediff.timestep(file),
        ),
        left_out=file.left_out,
    )


def _prefixed(file: OpenFile, prefix: str) -> OpenFile:
    """A file of one network with the names of a complete checkpoint."""

    def full_name(name: str) -> str:
        unprefixed = (
            name.startswith(ldm.EMA_PREFIX) or name in MARKERS or ldm.dropped(name)
        )
        return name if unprefixed else prefix + name

    tensors = {full_name(name): tensor for name, tensor in file.tensors.items()}
    return dataclasses.replace(file, tensors=tensors)


def _ldm(file: OpenFile, hints: Hints) -> Contents:
    remaining = dict(file.tensors)
    left_out: Counter[str] = Counter()
    unet = _take(remaining, ldm.UNET_PREFIX)
    vae = _take(remaining, ldm.VAE_PREFIX)
    path, ema = str(file.path), hints.ema
    unet, unet_averaged = averages.of_ldm(
        path, unet, ldm.UNET_PREFIX, remaining, ema, left_out
    )
    vae, vae_averaged = averages.of_ldm(
        path, vae, ldm.VAE_PREFIX, remaining, ema, left_out
    )
    if ema == "yes" and not unet_averaged and not vae_averaged:
        raise InputError(
            f"{path} holds no averaged weights (model_ema.*). Leave --ema out."
        )
    marked = _prediction_by_markers(remaining, path, left_out)
    if unet and "alphas_cumprod" in remaining:
        scheduler.check_table(remaining["alphas_cumprod"], path)
    # What is neither read nor known is a problem of the first network, named at once.
    for name in list(vae):
        _drop(ldm.VAE_PREFIX + name, vae, name, left_out)
    for name in list(remaining):
        _drop(name, remaining, name, left_out)
    problems = tuple(f"unexpected {name}" for name in sorted(remaining))
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
            shapes,
            scaling_factor=factor,
            shift_factor=_latent_shift(file, hints),
        )
        layout = ldm.vae_layout(config)
        vae_problems = () if unet else problems
        components["vae"] = Component(
            "vae", config, layout, vae, str(file.path), vae_problems
        )
    return Contents(
        format="LDM checkpoint",
        components=components,
        files=[file.path],
        prediction=hints.prediction or _prediction(file.metadata) or marked,
        left_out=dict(left_out),
        notes={"ema": unet_averaged or vae_averaged},
    )


def _prediction_by_markers(
    remaining: dict[str, Tensor], path: str, left_out: Counter[str]
) -> Prediction | None:
    """The prediction by marker tensors (ComfyUI and others add empty ones).

    Raises:
        InputError: zero terminal SNR, another noise schedule than ours.
    """
    markers = [name for name in MARKERS if remaining.pop(name, None) is not None]
    if markers:
        left_out["marks of the prediction"] += len(markers)
    if "ztsnr" in markers:
        raise InputError(
            f"{path} has the marker ztsnr: its noise schedule ends in zero SNR, ours "
            f"does not. {scheduler.REMEDY}"
        )
    return "v" if "v_pred" in markers else None


def _take(remaining: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove and return the tensors under a prefix, without it and its averages."""
    ema = prefix + ldm.EMA_PREFIX
    names = [n for n in remaining if n.startswith(prefix) and not n.startswith(ema)]
    return {name.removeprefix(prefix): remaining.pop(name) for name in names}


def _drop(full_name: str, tensors: dict, name: str, left_out: Counter[str]) -> None:
    meaning = ldm.dropped(full_name)
    if meaning is not None:
        del tensors[name]
        left_out[meaning] += 1


def _latent_scale(file: OpenFile, shapes: Mapping[str, Any], hints: Hints) -> float:
    if hints.scaling_factor is not None:
        return hints.scaling_factor
    recorded = file.metadata.get("gendr.scaling_factor")  # `--to ldm` writes it
    if recorded is not None:
        return float(recorded)
    channels = shapes.get("decoder.conv_in.weight", (0, 0))[1]
    if channels == 4:
        return SD_SCALE
    raise UsageError(
        f"{file.path} does not say the latent scale of its autoencoder of {channels} "
        "channels. Give --scaling-factor (and --shift-factor) from its model card."
    )


def _latent_shift(file: OpenFile, hints: Hints) -> float:
    if hints.shift_factor is not None:
        return hints.shift_factor
    return float(file.metadata.get("gendr.shift_factor", 0.0))


def _prediction(metadata: Mapping[str, Any]) -> Prediction | None:
    """The prediction in a file's metadata (modelspec); never guessed."""
    recorded = str(metadata.get("modelspec.prediction_type", "")).lower()
    if recorded in ("epsilon", "eps"):
        return "eps"
    return "v" if recorded in ("v", "v_prediction") else None


def _dinov2(file: OpenFile) -> Contents:
    config = dinov2.config(_shapes(file.tensors))
    layout = dinov2.layout(config)
    component = Component("dinov2", config, layout, file.tensors, str(file.path))
    return Contents("DINOv2 hub file", {"dinov2": component}, [file.path])


def _lpips(file: OpenFile) -> Contents:
    spelling = lpips.recognise(file.tensors.keys())
    assert spelling is not None  # `_recognised` has asked
    dropout = lpips.has_dropout(file.tensors.keys())
    tensors, left_out = _without(file.tensors, lpips.left_out)
    config = lpips.config(_shapes(tensors))
    layout = lpips.layout(config, spelling, dropout=dropout)
    component = Component("lpips", config, layout, tensors, str(file.path))
    return Contents(
        f"{spelling} LPIPS", {"lpips": component}, [file.path], left_out=left_out
    )


def _dists(file: OpenFile) -> Contents:
    spelling = dists.recognise(file.tensors.keys())
    assert spelling is not None  # as above
    tensors, left_out = _without(file.tensors, dists.left_out)
    config = dists.config(_shapes(tensors), spelling)
    layout = dists.layout(config, spelling)
    component = Component("dists", config, layout, tensors, str(file.path))
    return Contents(
        f"{spelling} DISTS", {"dists": component}, [file.path], left_out=left_out
    )


def _without(
    tensors: Mapping[str, Tensor], reason: Callable[[str], str | None]
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """(tensors that are read, {meaning: number} of those that are not)."""
    left_out = Counter(
        meaning for meaning in map(reason, tensors) if meaning is not None
    )
    return {n: t for n, t in tensors.items() if reason(n) is None}, dict(left_out)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}
