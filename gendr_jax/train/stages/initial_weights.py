"""Initial weights of a run: from weights folders, or random where that is allowed.

A folder's own configuration has precedence over the config file's (it has the measured
scaling factor), and a different architecture is refused.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gendr_jax import nets
from gendr_jax.api import load_component
from gendr_jax.errors import UsageError
from gendr_jax.models.vae import VAE, VAEConfig
from gendr_jax.nets import Net, Params
from gendr_jax.train.settings import Init
from gendr_jax.weights import folder, gendr_json, one_file
from gendr_jax.weights.foreign import recognise
from gendr_jax.weights.resolve import resolve

PROMPT_TOKENS = 77
PROMPT_STREAM, DINO_STREAM, UNET_STREAM, VAE_STREAM, PIX_STREAM = range(5)


def component(init: Init, name: str, config: Any) -> tuple[Any, Params | None]:
    """(configuration, weights) of init.vae, unet, dino, adc or lpips.

    Returns (config, None) where the field is empty and random weights are allowed.

    Raises:
        UsageError: empty without ``init.random``, or another architecture.
        InputError: the folder cannot be read.
    """
    path = getattr(init, name)
    if not path:
        if not init.random:
            raise UsageError(
                f"config.init.{name} is empty. Name a weights folder, or set "
                "config.init.random=True to start from random weights."
            )
        return config, None
    config_read, params = load_component(path, "unet" if name == "adc" else name)
    _check_same(path, name, config_read, config)
    return config_read, params


def _check_same(path: str, name: str, config_read: Any, config: Any) -> None:
    """Refuse weights of another architecture than config.NAME."""
    ours, theirs = dataclasses.asdict(config), dataclasses.asdict(config_read)
    free = ("scaling_factor", "shift_factor", "in_channels", "out_channels")
    differ = {k for k in ours if ours[k] != theirs.get(k) and k not in free}
    if differ:
        text = "; ".join(f"{k} {theirs.get(k)}, not {ours[k]}" for k in sorted(differ))
        raise UsageError(
            f"init.{name}={path} has {text}. Set config.{name} to the folder's values, "
            "or name other weights."
        )


def autoencoder(
    init: Init, config: VAEConfig, seed: int
) -> tuple[VAEConfig, Params | None]:
    """``component`` of init.vae; a linear one may get convolutions in its decoder.

    These are fresh and add nothing yet, so that pictures are decoded as before.
    """
    grows = config.convolutions and config.encodes_linearly
    if not (init.vae and grows):
        return component(init, "vae", config)
    config_read, params = load_component(init.vae, "vae")
    if config_read.convolutions:
        _check_same(init.vae, "vae", config_read, config)
        return config_read, params
    if config_read.factor != config.factor:
        raise UsageError(
            f"init.vae={init.vae} has {config_read.factor} pixels a latent position "
            f"along a side, config.vae {config.factor}. Choose vae.patch and the "
            "number of vae.block_out_channels so that they agree."
        )
    # Of a linear autoencoder nothing else can differ.
    linear = dataclasses.replace(config_read, latent_channels=config.latent_channels)
    _check_same(init.vae, "vae", config_read, linear)
    scales = {k: getattr(config_read, k) for k in ("scaling_factor", "shift_factor")}
    config = dataclasses.replace(config, **scales)
    fresh = random_like(nets.build(VAE, config), seed, VAE_STREAM)
    return config, fresh | {"linear_path": params["linear_path"]}


def decoder_params(vae: Params) -> Params:
    """The weights of an autoencoder that its decoder uses."""
    flat = nets.flatten(vae)
    decoder = ("decoder", "post_quant_conv")
    return nets.unflatten(
        {
            path: leaf
            for path, leaf in flat.items()
            if path[0] in decoder or path[:2] == ("linear_path", "up")
        }
    )


def check_prediction(init: Init, prediction: str) -> None:
    """Refuse a UNet that its folder says predicts something else.

    Raises:
        UsageError: eps against v; training would start from nonsense.
    """
    if not init.unet:
        return
    path = resolve(init.unet)
    if one_file.is_ours(path):
        stored = one_file.manifest(path).get("prediction_type")
    elif folder.is_folder(path):
        stored = gendr_json.read(path).get("prediction_type")
    else:
        stored = recognise.prediction(path)
    if stored not in (None, prediction):  # a component folder does not record it
        raise UsageError(
            f"init.unet={init.unet} predicts {stored!r}, config.prediction "
            f"is {prediction!r}. Set config.prediction={stored}."
        )


def random_like(net: Net, seed: int, stream: int) -> Params:
    """Random weights that depend on the seed and the network's role alone."""
    key = jax.random.fold_in(jax.random.key(seed), stream)
    return jax.jit(net.init)(key)


def prompt(init: Init, width: int, seed: int) -> Params:
    """{"positive", "negative"}: fixed prompt embeddings [77, width], float32.

    From init.prompt (an .npz file of tools/embed_prompt.py) or from the weights folder
    of init.unet; else random constants of unit variance, where random is allowed.
    """
    prompt_in_folder = resolve(init.unet) / "prompt.npz" if init.unet else None
    path = str(Path(init.prompt).expanduser()) if init.prompt else ""
    if not path and prompt_in_folder is not None and prompt_in_folder.exists():
        path = str(prompt_in_folder)
    if path:
        return _read_prompt(path, width)
    if not init.random:
        raise UsageError(
            "config.init.prompt is empty. Make one with tools/embed_prompt.py, or set "
            "config.init.random=True for a random constant."
        )
    key = jax.random.fold_in(jax.random.key(seed), PROMPT_STREAM)
    draw = jax.random.normal(key, (2, PROMPT_TOKENS, width))
    return {"positive": draw[0], "negative": draw[1]}


def _read_prompt(path: str, width: int) -> Params:
    try:
        with np.load(path, allow_pickle=False) as file:
            embeddings = {
                k: np.asarray(file[k], np.float32) for k in ("positive", "negative")
            }
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"init.prompt={path} cannot be read ({error}). Make it with "
            "tools/embed_prompt.py."
        ) from error
    for name, array in embeddings.items():
        if array.ndim != 2 or array.shape[1] != width:
            raise UsageError(
                f"init.prompt={path}: {name} has shape {array.shape}, the UNet reads "
                f"[tokens, {width}]. Use the text encoder that belongs to the UNet."
            )
        if not np.isfinite(array).all():
            raise UsageError(
                f"init.prompt={path}: {name} is not finite. Make the embedding again."
            )
    tokens = {name: len(array) for name, array in embeddings.items()}
    if len(set(tokens.values())) > 1:
        raise UsageError(
            f"init.prompt={path}: positive has {tokens['positive']} tokens, negative "
            f"{tokens['negative']}. Pad both to one length."
        )
    return embeddings


def projector(init: Init, net: Net) -> Params:
    """{"projector": weights} where init.unet holds one that fits, else {}."""
    if not init.unet or not (resolve(init.unet) / "projector").exists():
        return {}
    config, params = load_component(init.unet, "projector")
    return {"projector": params} if config == net.config else {}
