"""gendr.json, the manifest of a weights folder: kind, configurations, digests."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
import numpy as np

from gendr_jax import diffusion, nets
from gendr_jax.errors import GendrError, InputError
from gendr_jax.models.dinov2 import DINOv2Config
from gendr_jax.models.dists import DISTSConfig
from gendr_jax.models.heads import RepaProjectorConfig
from gendr_jax.models.lora import LoRAConfig
from gendr_jax.models.lpips import LPIPSConfig
from gendr_jax.models.unet import UNetConfig
from gendr_jax.models.vae import VAEConfig
from gendr_jax.nets import Params
from gendr_jax.version import __version__
from gendr_jax.weights.foreign.config_json import MOST_ENTRIES, is_count, is_number
from gendr_jax.weights.sha256 import sha256

FORMAT, VERSION, MANIFEST = "gendr", 1, "gendr.json"
Kind = Literal[
    "restorer", "adc", "pix", "base", "vae", "dinov2", "lpips", "dists", "lora"
]
Prediction = Literal["eps", "v"]
# Components that each kind must have. A base may also have its VAE, its alignment
# projector and its prompt.
REQUIRED = {
    "restorer": ("unet", "vae", "prompt"),
    "adc": ("unet", "vae", "prompt"),
    "pix": ("unet", "prompt"),
    "base": ("unet",),
    "vae": ("vae",),
    "dinov2": ("dinov2",),
    "lpips": ("lpips",),
    "dists": ("dists",),
    "lora": ("lora",),
}
CONFIGS = {
    "unet": UNetConfig,
    "vae": VAEConfig,
    "projector": RepaProjectorConfig,
    "dinov2": DINOv2Config,
    "lpips": LPIPSConfig,
    "dists": DISTSConfig,
    "lora": LoRAConfig,
}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The contents of a weights folder in memory.

    Attributes:
        kind: "restorer" restores in one step; "adc" does so without an encoder, "pix"
            without an autoencoder (pixels at the ends of the UNet); "base" is a UNet
            that denoises; "vae", "dinov2", "lpips", "dists", "lora" (adapters, and
            their UNet's config).
        configs: of the networks by name: "unet", "vae", "projector", and those kinds.
        params: nested dicts of arrays by the same names; only those that were read.
        prompt: embeddings by name ("positive", "negative"), each [L, D].
        prediction: what the UNet's output is.
        t_star: the timestep of the one step.
        prompt_text: the texts of the embeddings, by the same names.
        provenance: where the weights come from, JSON values.
    """

    kind: Kind
    configs: dict[str, Any]
    params: dict[str, Params] = field(default_factory=dict)
    prompt: dict[str, np.ndarray] = field(default_factory=dict)
    prediction: Prediction = "eps"
    t_star: int = diffusion.T_STAR
    prompt_text: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def components(self) -> dict[str, Params]:
        """The arrays by component name, the prompt among them if there is one."""
        return self.params | ({"prompt": self.prompt} if self.prompt else {})


def to_json(weights: Weights) -> str:
    """The text of gendr.json for these weights."""
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "kind": weights.kind,
        "prediction_type": weights.prediction,
        "t_star": weights.t_star,
        "prompt_text": weights.prompt_text,
        "configs": {n: dataclasses.asdict(c) for n, c in weights.configs.items()},
        "components": {
            name: describe(tree) for name, tree in weights.components().items()
        },
        "provenance": {"gendr_jax": __version__, **weights.provenance},
    }
    return json.dumps(manifest, indent=2, allow_nan=False) + "\n"


def describe(tree: Params) -> dict[str, Any]:
    """{"parameters": n, "dtypes": {name: n}, "sha256": hex} of one component."""
    dtypes: dict[str, int] = {}
    for leaf in jax.tree.leaves(tree):
        dtypes[leaf.dtype.name] = dtypes.get(leaf.dtype.name, 0) + int(leaf.size)
    return {
        "parameters": nets.count(tree),
        "dtypes": dict(sorted(dtypes.items())),
        "sha256": sha256(tree),
    }


def read(folder: Path | str) -> dict[str, Any]:
    """gendr.json as a dict, after checks of format, version, kind and keys.

    Raises:
        InputError: absent, unreadable, not ours, or of another version.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise InputError(
            f"{folder} has no {MANIFEST}, so it is no weights folder. Name a folder "
            "that training or conversion wrote."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}). Copy it again.") from error
    return checked(manifest, path)


def checked(manifest: Any, path: Path) -> dict[str, Any]:
    """The content of gendr.json, checked as ``read`` does; ``path`` for messages."""
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(
            f'{path} has no "format": "{FORMAT}". Name a weights folder of gendr_jax.'
        )
    if manifest.get("version") != VERSION:
        raise InputError(
            f"{path} has version {manifest.get('version')!r}, this gendr_jax "
            f"{__version__} reads {VERSION}. Install the matching release."
        )
    for key in ("configs", "components"):
        value = manifest.get(key)
        if not isinstance(value, dict) or not all(
            isinstance(inner, dict) for inner in value.values()
        ):
            raise InputError(f"{path} lacks {key!r}. Copy it again.")
    return manifest


def settings(folder: Path, manifest: dict[str, Any]) -> Weights:
    """The settings of a manifest as `Weights` without arrays.

    Raises:
        InputError: configurations that are unknown, incomplete or missing.
    """
    path = folder / MANIFEST
    configs = {
        name: config(cls, manifest["configs"][name], str(path))
        for name, cls in CONFIGS.items()
        if name in manifest["configs"]
    }
    check_settings(path, manifest)
    weights = Weights(
        kind=manifest["kind"],
        prediction=manifest["prediction_type"],
        t_star=manifest["t_star"],
        prompt_text=dict(manifest.get("prompt_text", {})),
        provenance=dict(manifest.get("provenance", {})),
        configs=configs,
    )
    require(weights, set(manifest["components"]), str(folder), InputError)
    return weights


def check_settings(path: Path, stored: dict[str, Any]) -> None:
    """Kind, prediction and step of a manifest, or of an export's settings file.

    Raises:
        InputError: an unknown value.
    """
    _one_of(path, "kind", stored.get("kind"), get_args(Kind))
    _one_of(
        path, "prediction_type", stored.get("prediction_type"), get_args(Prediction)
    )
    t_star = stored.get("t_star")
    is_integer = isinstance(t_star, int) and not isinstance(t_star, bool)
    steps = range(diffusion.NUM_TIMESTEPS)  # the float 1.0 counts as in it, hence above
    _one_of(path, "t_star", t_star if is_integer else repr(t_star), steps)
    for key in ("prompt_text", "provenance"):
        if not isinstance(stored.get(key, {}), dict):
            raise InputError(f"{path} has {key} that is no object. Copy it again.")


def config(cls: type, values: dict[str, Any], where: str) -> Any:
    """A frozen configuration dataclass from JSON; lists become tuples.

    Raises:
        InputError: unknown fields, or values that the class refuses.
    """
    assert dataclasses.is_dataclass(cls)
    known = {f.name for f in dataclasses.fields(cls)}
    if unknown := sorted(values.keys() - known):
        raise InputError(
            f"{where}: {cls.__name__} has no fields {unknown}. "
            "Install the gendr_jax that wrote them."
        )
    frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for name, hint in get_type_hints(cls).items():
        if name in frozen and not _fits(frozen[name], hint):
            raise InputError(
                f"{where}: {cls.__name__}.{name} is {frozen[name]!r:.80}, which no "
                "network of ours has. Correct the configuration."
            )
    try:
        return cls(**frozen)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error} Correct the configuration.") from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a field's type, and of a size that can be built."""
    if get_origin(hint) is tuple:
        entry_type = get_args(hint)[0]
        valid_length = isinstance(value, tuple) and (
            entry_type is str or 0 < len(value) <= MOST_ENTRIES
        )
        return valid_length and all(_fits(v, entry_type) for v in value)
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return is_number(value)
    return is_count(value) if hint is int else isinstance(value, hint)


def require(
    weights: Weights, present: set[str], where: str, error: type[GendrError]
) -> None:
    """Raise `error` unless components and configurations make the kind complete."""
    missing = [name for name in REQUIRED[weights.kind] if name not in present]
    missing += [
        f"a config for {name}"
        for name in CONFIGS
        if name in present and name not in weights.configs
    ]
    if "lora" in present and "unet" not in weights.configs:
        missing.append("a config for the unet that lora adapts")
    if missing:
        raise error(
            f"{where}: weights of kind {weights.kind} need {', '.join(missing)}, "
            f"there is {', '.join(sorted(present)) or 'nothing'}. Add what is missing."
        )


def _one_of(path: Path, key: str, value: Any, known: Any) -> None:
    if value not in known:
        shown = f"{known[0]}..{known[-1]}" if isinstance(known, range) else known
        raise InputError(
            f"{path} has {key} {value!r:.80}, known are {shown}. Copy it again, or "
            "install the gendr_jax that wrote it."
        )
