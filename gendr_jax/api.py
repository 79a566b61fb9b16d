"""Load one network from a folder or file as a Python callable, e.g. `load_vae`."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import ArrayLike

from gendr_jax import nets, sharding
from gendr_jax.errors import InputError
from gendr_jax.models.dinov2 import DINOv2, DINOv2Config
from gendr_jax.models.unet import UNet, UNetConfig
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.nets import Params
from gendr_jax.weights import convert, folder, one_file
from gendr_jax.weights.convert import Options
from gendr_jax.weights.foreign import components, recognise
from gendr_jax.weights.foreign.single_files import Hints
from gendr_jax.weights.gendr_json import Weights
from gendr_jax.weights.resolve import resolve

Ema = Literal["auto", "yes", "no"]
FOREIGN_COMPONENTS = ("vae", "unet", "dinov2", "lpips", "dists")


def load_component(
    path: str | Path,
    name: str,
    *,
    mesh: Mesh | None = None,
    options: Options | None = None,
    lora: str | Path | Sequence[str | Path] = (),
) -> tuple[Any, Params]:
    """(configuration, weights) of one network.

    Args:
        path: a weights folder of this package that holds the network; or what `gendr
            convert` reads: the network's component folder (config.json and weights), a
            pipeline folder, a single file; or a Hub id of a folder.
        name: "vae", "unet", "dinov2" (or "dino"), "lpips", "dists", "projector".
        mesh: shard the weights over its devices, none of which ever holds them all;
            None: numpy arrays on the host.
        options: the flags of `gendr convert` (`weights.convert.Options`).
        lora: files or folders of adapters, merged into the weights.

    Raises:
        InputError: no such folder or network in it, or files that are damaged or do
            not fit the configuration.
        UsageError: a Hub id where huggingface_hub is not installed.
    """
    name = "dinov2" if name == "dino" else name
    adapters = [lora] if isinstance(lora, str | Path) else list(lora)
    if adapters or options is not None:
        convert_options = Options() if options is None else options
        return _converted(path, name, adapters, convert_options, mesh)
    source = resolve(path)
    if one_file.is_ours(source):
        config, params = _component(one_file.read(source, (name,)), name, path)
        return config, _shard(params, mesh)
    if not folder.is_folder(source):
        if name not in FOREIGN_COMPONENTS:
            raise InputError(
                f"{path} is no weights folder of this package, and {name} is in no "
                "other format. Name a folder that training wrote."
            )
        if name == "unet" and _has_adapters(source):
            merged, _ = convert.load(
                [source], convert.Options(merge=True, dtype="float32")
            )
            return merged.configs[name], merged.params[name]
        component = recognise.component(source, name)
        params = components.read(component, dtype="float32", mesh=mesh)
        return component.config, params
    return _component(folder.load(source, components=(name,), mesh=mesh), name, path)


def _component(weights: Weights, name: str, path: str | Path) -> tuple[Any, Params]:
    if name not in weights.params:
        held = ", ".join(sorted(weights.configs)) or "nothing"
        raise InputError(
            f"{path} holds {held}, not {name}. Name a folder that holds {name}."
        )
    return weights.configs[name], weights.params[name]


def _converted(
    path: str | Path,
    name: str,
    adapters: list[str | Path],
    options: Options,
    mesh: Mesh | None,
) -> tuple[Any, Params]:
    """One network of a source, read as `gendr convert` reads it."""
    source = resolve(path)
    ours = folder.is_folder(source) or one_file.is_ours(source)
    if not ours and not options.dtype:
        options = dataclasses.replace(options, dtype="float32")
    sources = [source, *adapters]
    if adapters:
        options = dataclasses.replace(options, merge=True)
    if options.hints.prediction is None and not ours:
        # The caller gets raw output, so a file that does not say eps or v is no error.
        prediction = recognise.prediction(source) if name == "unet" else None
        if prediction is None and name == "unet":
            hints = dataclasses.replace(options.hints, prediction="eps")
            options = dataclasses.replace(options, hints=hints)
    weights, _ = convert.load(sources, options)
    if name == "unet" and {"unet", "lora"} <= weights.params.keys():
        weights = folder.folded(weights)  # adapters that the source holds itself
    config, params = _component(weights, name, path)
    return config, _shard(params, mesh)


def _shard(params: Params, mesh: Mesh | None) -> Params:
    if mesh is None:
        return params
    return sharding.place(params, sharding.tree_shardings(params, mesh))


def _has_adapters(path: Path) -> bool:
    """Whether a foreign pipeline folder holds adapters of its UNet."""
    if not (path / "unet").is_dir():
        return False
    return recognise.find(path).adapter is not None


class LoadedVAE:
    """An autoencoder with its weights.

    Attributes:
        config: VAEConfig; `scaling_factor` is data for the caller, not applied here.
        params: nested dict of arrays.
    """

    def __init__(self, config: VAEConfig, params: Params, dtype: str):
        self.config, self.params = config, _on_device(params)
        net = nets.build(VAE, config, dtype=dtype)
        self._encode = _jit(lambda p, x: net.bind(p).encode(x), dtype)
        self._decode = _jit(lambda p, z: net.bind(p).decode(z), dtype)

    def encode(self, x_bhwc: ArrayLike) -> tuple[jax.Array, jax.Array]:
        """(mean_bhwc, logvar_bhwc) of pictures in [-1, 1]: diffusers' latent_dist.

        Raises:
            InputError: not [B, H, W, 3] with sides that are multiples of the factor.
        """
        x_bhwc = _batch(x_bhwc, self.config.in_channels, "pictures")
        factor = self.config.factor
        if x_bhwc.shape[1] % factor or x_bhwc.shape[2] % factor:
            raise InputError(
                f"pictures are {x_bhwc.shape[1]}x{x_bhwc.shape[2]}, the autoencoder "
                f"takes multiples of {factor}. Pad them."
            )
        return self._encode(self.params, x_bhwc)

    def decode(self, z_bhwc: ArrayLike) -> jax.Array:
        """Pictures, about [-1, 1], of unscaled latents [B, h, w, C]."""
        z_bhwc = _batch(z_bhwc, self.config.latent_channels, "latents")
        return self._decode(self.params, z_bhwc)


class LoadedUNet:
    """A denoising UNet with its weights; call it."""

    def __init__(self, config: UNetConfig, params: Params, dtype: str):
        self.config, self.params = config, _on_device(params)
        net = nets.build(UNet, config, dtype=dtype)
        self._apply = _jit(lambda p, z, t, c: net.bind(p)(z, t, c)[0], dtype)

    def __call__(
        self, z_bhwc: ArrayLike, t_b: ArrayLike, context_bld: ArrayLike
    ) -> jax.Array:
        """Raw network output (eps or v, as trained), [B, h, w, C].

        Args: scaled latents, integer timesteps [B], prompt [B, L, D].
        """
        z_bhwc = _batch(z_bhwc, self.config.in_channels, "latents")
        t_b, context_bld = jnp.asarray(t_b), jnp.asarray(context_bld)
        batch, width = z_bhwc.shape[0], self.config.cross_attention_dim
        fits = context_bld.ndim == 3 and context_bld.shape[::2] == (batch, width)
        if t_b.shape != (batch,) or not fits:
            raise InputError(
                f"t_b has shape {t_b.shape} and context_bld {context_bld.shape}, "
                f"expected ({batch},) and ({batch}, L, {width}). Repeat them per "
                "sample."
            )
        return self._apply(self.params, z_bhwc, t_b, context_bld)


class LoadedDINOv2:
    """A DINOv2 image encoder with its weights; call it."""

    def __init__(self, config: DINOv2Config, params: Params, dtype: str):
        self.config, self.params = config, _on_device(params)
        net = nets.build(DINOv2, config, dtype=dtype)
        self._apply = _jit(lambda p, x: net.bind(p)(x), dtype)

    def __call__(self, x_bhwc: ArrayLike) -> jax.Array:
        """Normalised patch tokens [B, L, D], CLS dropped.

        Args: pictures normalised by ImageNet's mean and standard deviation, sides
        multiples of the patch size.
        """
        x_bhwc = _batch(x_bhwc, 3, "pictures")
        return self._apply(self.params, x_bhwc)


def load_vae(
    path: str | Path,
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    ema: Ema = "auto",
    variant: str = "",
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
    sha256: Sequence[str] = (),
) -> LoadedVAE:
    """The autoencoder of a folder or file.

    Args:
        dtype: of computation.
        mesh: shard the weights over its devices (see `load_component`).
        ema, variant, scaling_factor, shift_factor, sha256: as the flags of
            `gendr convert` of these names.

    Raises:
        InputError, UsageError: as `load_component`; an option that has no effect.
    """
    hints = Hints(ema, None, scaling_factor, shift_factor, variant)
    options = _options(Options(hints=hints, sha256=tuple(sha256)))
    config, params = load_component(path, "vae", mesh=mesh, options=options)
    return LoadedVAE(config, params, dtype)


def load_unet(
    path: str | Path,
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    lora: str | Path | Sequence[str | Path] = (),
    lora_strength: float = 1.0,
    lora_alpha: float | None = None,
    latent_channels: int = 0,
    ema: Ema = "auto",
    variant: str = "",
    sha256: Sequence[str] = (),
) -> LoadedUNet:
    """The UNet of a folder or file.

    Args:
        dtype, mesh: as `load_vae`.
        lora: files or folders of adapters, merged into its weights.
        lora_strength, lora_alpha, latent_channels, ema, variant, sha256: as the flags
            of `gendr convert` of these names.

    Raises:
        InputError, UsageError: as `load_vae`.
    """
    options = Options(
        latent_channels=latent_channels,
        lora_strength=lora_strength,
        lora_alpha=lora_alpha,
        sha256=tuple(sha256),
        hints=Hints(ema=ema, variant=variant),
    )
    config, params = load_component(
        path, "unet", mesh=mesh, options=_options(options), lora=lora
    )
    return LoadedUNet(config, params, dtype)


def load_dinov2(
    path: str | Path,
    *,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    ema: Ema = "auto",
    variant: str = "",
    sha256: Sequence[str] = (),
) -> LoadedDINOv2:
    """The DINOv2 of a folder or file. Arguments and errors as `load_vae`."""
    hints = Hints(ema=ema, variant=variant)
    options = _options(Options(hints=hints, sha256=tuple(sha256)))
    config, params = load_component(path, "dinov2", mesh=mesh, options=options)
    return LoadedDINOv2(config, params, dtype)


def _options(options: Options) -> Options | None:
    """None for defaults: then nothing but the network is read."""
    return None if options == Options() else options


def _on_device(params: Params) -> Params:
    """Host arrays moved to the default device; JAX arrays keep their sharding."""
    return jax.tree.map(
        lambda x: x if isinstance(x, jax.Array) else jax.device_put(x), params
    )


def _jit(function: Callable[..., Any], dtype: str) -> Callable[..., Any]:
    """Compiled; float32 also on hardware whose default rounds products (TF32, bf16)."""

    def exact(*arguments: Any) -> Any:
        with jax.default_matmul_precision(
            "highest" if dtype == "float32" else "default"
        ):
            return function(*arguments)

    return jax.jit(exact)


def _batch(x: ArrayLike, channels: int, contents: str) -> jax.Array:
    x = jnp.asarray(x)
    if x.ndim != 4 or x.shape[-1] != channels:
        raise InputError(
            f"{contents} have shape {x.shape}, expected [B, H, W, {channels}]. "
            "Move channels last and add a batch axis."
        )
    return x
